"""Draw the learning curve of a run: python -m molmo_ros.tools.segmenter.plot RUN curve.png"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SHOWN = {"iou": "mean IoU", "good": "share with IoU > .75", "iou_p10": "10th percentile of IoU"}


def main() -> None:
    import matplotlib.pyplot as plt  # training only

    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = json.loads((run / "curve.json").read_text())
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    for key, name in SHOWN.items():
        minutes = [row["seconds"] / 60 for row in rows]
        axes.plot(minutes, [row[key] for row in rows], label=name, linewidth=1.8)
    axes.set(xlabel="minutes of training", ylabel="on scenes kept apart", ylim=(0, 1))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
