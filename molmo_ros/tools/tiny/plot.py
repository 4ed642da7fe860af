"""Draw the learning curve of a run: python -m molmo_ros.tools.tiny.plot RUN curve.png"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SHOWN = {
    "token_kind": "kind of the object an image token shows",
    "token_color": "its colour",
    "first": 'first word of the answer (there, or "There are none.")',
    "hundreds": "first digit of a coordinate",
    "tens": "second digit",
    "more_or_stop": "one more point, or stop",
}


def read(run: Path) -> list[dict[str, float]]:
    """What log.jsonl has of held-out frames; a resumed run overwrites what it repeats."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    held_out = {row["step"]: row for row in rows if row["on"] == "held_out"}
    return [held_out[step] for step in sorted(held_out)]


def main() -> None:
    import matplotlib.pyplot as plt  # training only

    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = read(run)
    figure, axes = plt.subplots(figsize=(9.5, 3.8), layout="constrained")
    for key, name in SHOWN.items():
        points = [(row["step"], 100 * row[key]) for row in rows if key in row]
        axes.plot(*zip(*points, strict=True), label=name, linewidth=1.8)
    axes.set(xlabel="training step (48 images each)", ylabel="right on held-out frames, %", ylim=(0, 101))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
