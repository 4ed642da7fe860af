"""Untrusted JSON and YAML, read within bounds.

A few hundred bytes of YAML can stand for gigabytes (aliases of aliases), and nesting can make either parser
fail with a RecursionError. Our files are small and flat, so anything else is refused before it costs
anything.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

YAML_BYTES = 64_000  # the parser reads about 100 kB a second
YAML_DEPTH = 20
_DEEP = f"it is nested more than {YAML_DEPTH} deep"
JSON_BYTES = 100_000_000  # an index of a large checkpoint has a few megabytes


class _Bounded(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML is untyped
    """SafeLoader without aliases and deep nesting."""

    _depth = 0

    def fetch_flow_collection_start(self, token_class: Any) -> None:
        if self.flow_level > YAML_DEPTH:
            raise yaml.YAMLError(_DEEP)
        super().fetch_flow_collection_start(token_class)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read; write the value out")
        self._depth += 1
        if self._depth > YAML_DEPTH:
            raise yaml.YAMLError(_DEEP)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def parse_yaml(text: str) -> Any:
    """The first document of ``text``; None if there is none. Raises: ValueError with the reason in one
    line."""
    if len(text) > YAML_BYTES:
        raise ValueError(f"it has {len(text)} characters, at most {YAML_BYTES} are read")
    loader = None
    try:
        loader = _Bounded(text)
        return loader.get_data() if loader.check_data() else None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    finally:
        if loader is not None:
            loader.dispose()


def read_yaml(path: Path) -> Any:
    """The first document of a file. Raises: OSError; ValueError with one line of why not."""
    return parse_yaml(_read(path, YAML_BYTES))


def read_json(path: Path) -> Any:
    """The content of a file. Raises: OSError; ValueError with one line of why not."""
    try:
        return json.loads(_read(path, JSON_BYTES))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def is_file(path: Path) -> bool:
    """Path.is_file, which raises for a name that is too long before Python 3.12 or holds odd characters."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _read(path: Path, most: int) -> str:
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"it has {size} bytes, at most {most} are read")
    return path.read_text(encoding="utf-8")
