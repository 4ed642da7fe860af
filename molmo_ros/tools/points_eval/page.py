"""A single-file page: the numbers of each run side by side, and pictures of what went wrong."""

from __future__ import annotations

import base64
import html
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw

from molmo_ros.datatypes import Image
from molmo_ros.tools.points_eval.evaluate import quantities
from molmo_ros.tools.points_eval.protocols import DataSet, Example
from molmo_ros.tools.points_eval.scores import FULL

MOST = 40  # examples with pictures; a page of more loads slowly
WIDTH = 420  # px of a picture
TRUE, RIGHT, WRONG = (92, 222, 148), (64, 196, 255), (255, 107, 94)
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1400px;margin:2rem auto;padding:0 1rem}
body{background:#16191f;color:#f6f7f9}
table{border-collapse:collapse}td,th{padding:.2rem .9rem;text-align:right;border-bottom:1px solid #333a45}
td:first-child,th:first-child{text-align:left}.case{display:flex;flex-wrap:wrap;gap:1rem;margin:1rem 0 2rem}
figure{margin:0;max-width:420px}img{max-width:100%;border-radius:4px}figcaption,.quiet{color:#9ea6b2;font-size:13px}
code{overflow-wrap:anywhere}.t{color:#5cde94}.r{color:#40c4ff}.w{color:#ff6b5e}
"""
LEGEND = (
    'Outlines and rings: <span class="t">what is right</span>. Points: <span class="r">right</span>, '
    '<span class="w">wrong</span>.'
)


def page(data: DataSet, runs: dict[str, dict[str, Any]], rows: dict[str, list[dict[str, Any]]]) -> str:
    """The page as HTML with everything inside. runs, rows: name of the run -> its summary, its answers."""
    main = data.protocol.main
    note = (
        "" if data.protocol.official else " There is no official score for this data set; this one is ours."
    )
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(data.name)}</title>',
        f"<style>{STYLE}</style><h1>{html.escape(data.name)}</h1>",
        f'<p class="quiet">{html.escape(str(data.folder))}.{note}</p>',
        _table(runs),
    ]
    failed = _worst(rows, main)
    parts.append(
        f"<h2>Failures</h2><p>{len(failed)} examples; the worst {min(len(failed), MOST)} below. {LEGEND}</p>"
    )
    chosen = set(failed[:MOST])
    by_key = {name: {row["key"]: row for row in some} for name, some in rows.items()}
    for example in data if chosen else ():
        if example.key in chosen:
            parts.append(_case(example, {name: some.get(example.key) for name, some in by_key.items()}, main))
            chosen.remove(example.key)
        if not chosen:
            break
    return "\n".join(parts) + "</html>\n"


def _table(runs: dict[str, dict[str, Any]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in runs)
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{value}</td>' for value in values)}</tr>"
        for name, values in quantities(runs.values())
    )
    return f"<table><tr><th></th>{head}</tr>{body}</table>"


def _worst(rows: dict[str, list[dict[str, Any]]], main: str) -> list[str]:
    """The keys of the examples that some run did not get fully right, the worst on average first."""
    scores: dict[str, list[float]] = {}
    for some in rows.values():
        for row in some:
            if "scores" in row:
                scores.setdefault(row["key"], []).append(row["scores"][main])
    return sorted(
        (key for key, s in scores.items() if min(s) < FULL), key=lambda key: float(np.mean(scores[key]))
    )


def _case(example: Example, answers: dict[str, dict[str, Any] | None], main: str) -> str:
    figures = "".join(
        _figure(example, name, row, main) for name, row in answers.items() if row and "scores" in row
    )
    count = f", {example.truth.count} of them" if not example.truth.masks and example.truth.count else ""
    return f'<h3>{html.escape(example.label)}{count}</h3><div class="case">{figures}</div>'


def _figure(example: Example, name: str, row: dict[str, Any], main: str) -> str:
    picture = base64.b64encode(_jpeg(example, row)).decode()
    said = html.escape(row.get("problem") or row["answer"].strip() or "(empty)")
    return (
        f'<figure><img alt="" src="data:image/jpeg;base64,{picture}"><figcaption>{html.escape(name)}, {main} '
        f"{row['scores'][main]:.2f}, example {html.escape(row['key'])}<br>"
        f"<code>{said[:600]}</code></figcaption></figure>"
    )


def _jpeg(example: Example, row: dict[str, Any]) -> bytes:
    rgb: Image = example.rgb.copy()
    unit = max(rgb.shape[1] / WIDTH, 0.25)  # image px for one px of the page
    for mask in example.truth.masks:
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(rgb, outlines, -1, TRUE, max(round(2 * unit), 1))
    canvas = PilImage.fromarray(rgb)
    pen = ImageDraw.Draw(canvas)
    if not example.truth.masks:
        for x, y in example.truth.points:
            _dot(pen, x, y, 9 * unit, None, TRUE, round(2 * unit))
    rights = row["right"] or [row["scores"].get("correct", 0) == 1] * len(row["points"])
    for (x, y), right in zip(row["points"], rights, strict=True):
        _dot(pen, x, y, 5 * unit, RIGHT if right else WRONG, (255, 255, 255), round(unit))
    canvas.thumbnail((WIDTH, 2 * WIDTH))
    buffer = BytesIO()
    canvas.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def _dot(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: Any, line: Any, width: int) -> None:
    x, y = x - 0.5, y - 0.5  # Pillow's (0, 0) is the centre of the first pixel
    pen.ellipse((x - r, y - r, x + r, y + r), fill=fill, outline=line, width=max(width, 1))
