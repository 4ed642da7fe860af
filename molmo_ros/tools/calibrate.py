"""Measure how reliable a model's confidence is, and write the calibration beside the checkpoint.

    python -m molmo_ros.tools.calibrate --scenes 400 --seed 770 --check 771 --plot docs/reliability.png

The constants are fitted on the scenes of one seed and judged on those of another.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from molmo_ros.answer.calibration import Calibration, log_odds
from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import resolve
from molmo_ros.datatypes import Answer
from molmo_ros.pipeline import Grounder
from molmo_ros.sim import SimCamera, SimTruth
from molmo_ros.sim.objects import PLURALS
from molmo_ros.tools.evaluate import calibration_error, missing


@dataclass(frozen=True)
class Judged:
    """One point of an answer: raw confidence, whether it was meant, and its squared error in sigmas."""

    confidence: float
    right: bool
    squared: float = float("nan")


def judge(grounder: Grounder, scenes: int, seed: int) -> list[Judged]:
    """All points that the model gives when asked for a thing, for all of a kind, and for absent things."""
    from tqdm import tqdm

    found: list[Judged] = []
    for i in tqdm(range(scenes), unit="scene", file=sys.stderr, disable=None):
        rng = np.random.default_rng([seed, i])
        camera = SimCamera(int(rng.integers(1 << 29)))
        rgb, truth = camera.frame().rgb, camera.truth
        names, kinds = [o.name for o in truth.objects], [o.kind for o in truth.objects]
        name, kind = str(rng.choice(names)), str(rng.choice(sorted(set(kinds))))
        for query, meant in (
            (f"the {name}", [k + 1 for k, n in enumerate(names) if n == name]),
            (f"all the {PLURALS[kind]}", [k + 1 for k, n in enumerate(kinds) if n == kind]),
            (f"the {missing(truth, rng)}", []),
        ):
            found += _judge(grounder.point(rgb, query), meant, truth)
    return found


def _judge(answer: Answer, meant: Sequence[int], truth: SimTruth) -> list[Judged]:
    """A second point on the same thing is wrong."""
    left, found = list(meant), []
    for point in answer.points:
        at = int(truth.ids[round(point.y), round(point.x)])
        if at not in left:
            found.append(Judged(point.confidence, False))
            continue
        left.remove(at)
        rows, columns = np.nonzero(truth.ids == at)
        error = np.array([point.x - columns.mean(), point.y - rows.mean()])
        squared = float(error @ np.linalg.solve(point.covariance, error))
        found.append(Judged(point.confidence, True, squared))
    return found


def fit(judged: Sequence[Judged], prior: float = 2.0) -> Calibration:
    """Slope and offset of maximum likelihood; few mistakes say little, so ``prior`` keeps them near identity.

    The variance makes the mean squared error of right points that of two dimensions (without the last 1 %).
    """
    from scipy.optimize import minimize

    x = np.array([log_odds(j.confidence) for j in judged])
    right = np.array([j.right for j in judged])

    def loss(parameters: np.ndarray) -> float:
        slope, offset = np.exp(parameters[0]), parameters[1]
        z = np.where(right, 1, -1) * (slope * x + offset)
        return float(np.logaddexp(0, -z).sum() + prior * (parameters**2).sum())

    best = minimize(loss, np.zeros(2), method="Nelder-Mead").x
    squared = np.sort([j.squared for j in judged if j.right])
    kept = squared[: max(int(0.99 * len(squared)), 1)]
    return Calibration(
        round(float(np.exp(best[0])), 4), round(float(best[1]), 4), round(float(kept.mean()) / 2, 4)
    )


def report(judged: Sequence[Judged], calibration: Calibration) -> dict[str, float]:
    """Expected calibration error before and after, Brier score, and the coverage of the 90 % ellipse."""
    raw = np.array([j.confidence for j in judged])
    right = np.array([j.right for j in judged])
    after = np.array([calibration.confidence(c) for c in raw])
    squared = np.array([j.squared for j in judged if j.right])
    ninety = 4.605  # chi-square of two degrees
    return {
        "points": len(judged),
        "right": float(right.mean()),
        "ece_raw": calibration_error(raw, right),
        "ece": calibration_error(after, right),
        "brier_raw": float(np.mean((raw - right) ** 2)),
        "brier": float(np.mean((after - right) ** 2)),
        "coverage90_raw": float(np.mean(squared < ninety)),
        "coverage90": float(np.mean(squared / calibration.variance < ninety)),
    }


def plot(judged: Sequence[Judged], calibration: Calibration, path: Path) -> None:
    """Share of right points against confidence, in bins of equal numbers of points, and a histogram."""
    import matplotlib.pyplot as plt  # training only

    right = np.array([j.right for j in judged])
    raw = np.array([j.confidence for j in judged])
    after = np.array([calibration.confidence(c) for c in raw])
    figure, (left, below) = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
    left.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    edges = np.linspace(0, 1, 11)
    for values, name in ((raw, "as the model gives it"), (after, "calibrated")):
        index = np.minimum((values * 10).astype(int), 9)
        bins = [b for b in range(10) if (index == b).sum() >= 3]
        share = [right[index == b].mean() for b in bins]
        spread = [
            np.sqrt(max(s * (1 - s), 0.01) / (index == b).sum()) for s, b in zip(share, bins, strict=True)
        ]
        left.errorbar(
            [values[index == b].mean() for b in bins], share, yerr=spread, marker="o", capsize=3, label=name
        )
        below.hist(values, bins=edges, histtype="step", linewidth=1.6, label=name)
    left.set(xlabel="confidence", ylabel="share of points that are right", xlim=(0, 1.02), ylim=(0, 1.05))
    below.set(xlabel="confidence", ylabel="points", yscale="log")
    for axes in (left, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--seed", type=int, default=770, help="scenes to fit on")
    parser.add_argument("--check", type=int, default=771, help="scenes to judge on")
    parser.add_argument("--plot", type=Path, help="reliability diagram of the latter")
    args = parser.parse_args()
    grounder = Grounder.load(args.checkpoint)
    assert isinstance(grounder.model, Molmo)
    grounder.model.calibration = Calibration()
    calibration = fit(judge(grounder, args.scenes, args.seed))
    calibration.save(resolve(args.checkpoint))
    checked = judge(grounder, args.scenes, args.check)
    print(json.dumps({**report(checked, calibration), "calibration": vars(calibration)}, indent=2))
    if args.plot:
        plot(checked, calibration, args.plot)


if __name__ == "__main__":
    main()
