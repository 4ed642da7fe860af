"""Recipes: what to build for a device, from YAML."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from molmo_ros.errors import ParameterError
from molmo_ros.runtimes.names import PRECISIONS, TENSORRT
from molmo_ros.untrusted import is_file, read_yaml

RECIPES = Path(__file__).parent.parent / "assets" / "engines"
RUNTIMES = (*TENSORRT, "onnx")


@dataclass(frozen=True)
class Recipe:
    """``sm``: compute capability times ten, 0 for a CPU; ``sequence``: tokens that the cache holds."""

    gpu: str = ""
    runtime: str = "tensorrt_rtx"
    sm: int = 0
    precision: str = "int4"
    sequence: int = 2048


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe of this package by name, or a YAML file.

    Raises: ParameterError for an unknown name, field or value.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{name_or_path}.yaml"
    if not is_file(path):
        known = ", ".join(recipe_names())
        raise ParameterError(f'There is no recipe "{name_or_path}"; give a YAML file or one of {known}.')
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path} is not valid YAML ({error}).") from error
    if not isinstance(content, dict):
        raise ParameterError(f"{path} holds no record; see {RECIPES / 'rtx.yaml'}.")
    return change(Recipe(), **{str(name): value for name, value in content.items()})


def change(recipe: Recipe, **values: Any) -> Recipe:
    """The recipe with other values; None leaves one as it is.

    Raises: ParameterError for an unknown field, a wrong type, or a value out of its range.
    """
    known = {f.name: type(f.default) for f in fields(Recipe)}
    for name, value in values.items():
        if name not in known:
            raise ParameterError(f"A recipe has no {name!r}; it has {', '.join(known)}.")
        if value is not None and (not isinstance(value, known[name]) or isinstance(value, bool)):
            raise ParameterError(f"{name} is {value!r}, which is no {known[name].__name__}.")
    new = replace(recipe, **{name: value for name, value in values.items() if value is not None})
    if new.runtime not in RUNTIMES:
        raise ParameterError(f'runtime is "{new.runtime}"; choose one of {", ".join(RUNTIMES)}.')
    if new.precision not in PRECISIONS:
        raise ParameterError(f'precision is "{new.precision}"; choose one of {", ".join(PRECISIONS)}.')
    if not 64 <= new.sequence <= 65536 or new.sequence % 64:
        raise ParameterError(f"sequence is {new.sequence}; it must be 64 to 65536, in steps of 64.")
    return new
