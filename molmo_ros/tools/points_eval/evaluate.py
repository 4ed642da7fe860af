"""Ask a model about every example of a data set, score the answers, and summarise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from molmo_ros.answer.model import Model
from molmo_ros.errors import AnswerError, QueryError
from molmo_ros.tools.points_eval.protocols import DataSet, Example
from molmo_ros.tools.points_eval.reading import answer_points
from molmo_ros.tools.points_eval.results import Results
from molmo_ros.tools.points_eval.scores import FULL, group_means, means


def evaluate(
    model: Model,
    data: DataSet,
    out: Path,
    *,
    template: str = "",
    limit: int | None = None,
    done: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """Answer those of the first ``limit`` examples that out does not hold yet; return the rows of all of
    them.

    ``done`` is called after each. Raises: ParameterError if out belongs to another run.
    """
    info = model.info
    run = {
        "protocol": data.name,
        "data": str(data.folder.resolve()),
        "examples": len(data),
        "template": template or data.protocol.template,
        **{name: str(info.get(name, "")) for name in ("checkpoint", "runtime", "precision")},
    }
    results = Results(out, run)
    rows = []
    try:
        for example in islice(data, limit):
            if example.key not in results.rows:
                results.add(_row(model, data, example, template))
            rows.append(results.rows[example.key])
            done()
    finally:
        results.close()
    return rows


def _row(model: Model, data: DataSet, example: Example, template: str) -> dict[str, Any]:
    """The result of one example, as JSON keys; "scores" is missing if it was skipped."""
    row: dict[str, Any] = {"key": example.key, "label": example.label, "group": example.truth.group}
    if example.problem:
        return {**row, "skipped": example.problem}
    height, width = example.rgb.shape[:2]
    prompt, text, found, problem = example.label, "", np.zeros((0, 2)), ""
    start = time.perf_counter()
    try:
        prompt = data.prompt(example.label, template)
        answer = model.answer(example.rgb, prompt, max_new_tokens=data.protocol.max_tokens)
        text, found = answer.text, answer_points(answer, width, height)
    except (AnswerError, QueryError) as error:  # counts as a wrong answer
        problem = str(error)
    ms = 1000 * (time.perf_counter() - start)
    score = data.protocol.judge(example.truth, found, text, (width, height))
    if problem:
        score = type(score)(dict.fromkeys(score.numbers, 0.0), score.right)
    return {
        **row,
        "prompt": prompt,
        "answer": text,
        **({"problem": problem} if problem else {}),
        "points": [[round(float(x), 2), round(float(y), 2)] for x, y in found],
        "right": list(score.right),
        "scores": score.numbers,
        "ms": round(ms, 1),
    }


def summary(data: DataSet, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of one run for JSON: means, means by group, how many were skipped and why, times."""
    scored = [row for row in rows if "scores" in row]
    skipped = [row for row in rows if "scores" not in row]
    main = data.protocol.main
    return {
        "examples": len(rows),
        "scored": len(scored),
        "skipped": len(skipped),
        "skipped_reasons": sorted({row["skipped"] for row in skipped})[:10],
        "problems": sum("problem" in row for row in scored),
        "scores": means(scored),
        **({"groups": group_means(scored, main)} if data.protocol.groups and scored else {}),
        "failures": [row["key"] for row in scored if row["scores"][main] < FULL],
        "ms_p50": float(np.median([row["ms"] for row in scored])) if scored else float("nan"),
    }


def table(runs: dict[str, dict[str, Any]]) -> str:
    """One line per number, one column per run."""
    width = max(12, *(len(name) + 2 for name in runs))
    lines = [f"{'':<24}" + "".join(f"{name:>{width}}" for name in runs)]
    for name, values in quantities(runs.values()):
        lines.append(f"{name:<24}" + "".join(f"{value:>{width}}" for value in values))
    return "\n".join(lines)


def quantities(runs: Iterable[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """(name, its value in each run) of all that a table shows."""
    runs = list(runs)
    found: list[tuple[str, list[str]]] = []
    for kind, prefix in (("scores", ""), ("groups", "by group: ")):
        for name in dict.fromkeys(name for run in runs for name in run.get(kind, {})):
            values = [run.get(kind, {}).get(name) for run in runs]
            found.append((prefix + name, ["-" if v is None else f"{100 * v:.1f} %" for v in values]))
    for name in ("examples", "scored", "skipped", "problems"):
        found.append((name, [str(run[name]) for run in runs]))
    ms = [run["ms_p50"] for run in runs]
    found.append(("ms per answer, median", ["-" if v is None or np.isnan(v) else f"{v:.0f}" for v in ms]))
    return found
