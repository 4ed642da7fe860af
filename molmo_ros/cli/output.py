"""What goes to standard output (only the result) and what to standard error (everything else)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from molmo_ros.as_json import to_plain as to_plain  # asked for here by the sub-commands


@contextmanager
def stdout_free() -> Iterator[None]:
    """Send whatever is printed meanwhile, by C libraries too, to standard error, so that the result stands
    alone."""
    sys.stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:  # standard output is closed
        yield
        return
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def print_result(result: dict[str, Any], text: Callable[[dict[str, Any]], str], *, as_json: bool) -> None:
    """Print the result as one JSON object, or as the sub-command's text of it."""
    plain = to_plain(result)
    print(json.dumps(plain, ensure_ascii=False) if as_json else text(plain), flush=True)


def print_error(message: str, code: str, *, as_json: bool) -> None:
    """Print an error in one line on standard error; for a program also as JSON on standard output."""
    line = " ".join(message.split())
    print(f"molmo-ros: {line}", file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps({"error": line, "code": code}, ensure_ascii=False), flush=True)


def progress(label: str) -> Callable[[str, float], None]:
    """Return a callback (stage, share 0..1) that keeps one line on a terminal, and is silent elsewhere."""

    def report(stage: str, share: float) -> None:
        if sys.stderr.isatty():
            end = "\n" if share >= 1 else ""
            print(f"\r{label}: {stage} {100 * share:3.0f} %\033[K", end=end, file=sys.stderr, flush=True)

    return report


@contextmanager
def scene_bar(scenes: int) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; yields a callback (scenes done, of how many)."""
    from tqdm import tqdm

    with tqdm(total=scenes, unit="scene", file=sys.stderr, disable=None) as bar:
        yield lambda done, _total: bar.update(done - bar.n)


def say(message: str) -> None:
    """Print a line for the person who waits."""
    print(message, file=sys.stderr, flush=True)
