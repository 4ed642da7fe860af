"""How well a grasp's quality is calibrated: the share of grasps of a quality that hold, and how to make them
equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from molmo_ros.datatypes import Array, Mask
from molmo_ros.tools.grasp_physics.evaluate import Record
from molmo_ros.tools.grasp_physics.report import sound
from molmo_ros.tools.grasp_physics.statistics import wilson

RIDGE = 1e-3  # keeps the fit finite when all grasps hold
BINS = 5
FLOORS = (0.5, 0.7, 0.8, 0.9)  # what a node may require (min_quality)


def attempts(records: Sequence[Record]) -> tuple[Array, Mask]:
    """Quality (N,) and held (N,) of what was tried."""
    tried = [r for r in sound(records) if r.outcome is not None]
    return np.array([r.quality for r in tried]), np.array([r.held for r in tried], dtype=np.bool_)


def fit_logistic(score: Array, held: Mask) -> tuple[float, float]:
    """Fit P(held) = 1 / (1 + exp(-(a + b score))) to scores (N,). Returns a, b. By Newton's method."""
    X = np.stack([np.ones_like(score), score], axis=1)
    w = np.zeros(2)
    for _ in range(100):
        p = 1 / (1 + np.exp(-X @ w))
        gradient = X.T @ (p - held) + RIDGE * w
        step = np.linalg.solve((X * (p * (1 - p))[:, None]).T @ X + RIDGE * np.eye(2), gradient)
        w = w - step
        if np.abs(step).max() < 1e-9:
            break
    return float(w[0]), float(w[1])


def reliability(quality: Array, held: Mask, bins: int = BINS) -> dict[str, Any]:
    """Bins of equal count: mean quality against the share that held; ece, Brier score, area under ROC, and
    how many would be sent, and held, if a quality were required."""
    order = np.argsort(quality, kind="stable")
    rows: list[dict[str, Any]] = []
    for part in np.array_split(order, bins):
        if len(part):
            low, high = wilson(int(held[part].sum()), len(part))
            rows.append(
                {
                    "count": len(part),
                    "quality": float(quality[part].mean()),
                    "held": float(held[part].mean()),
                    "interval": (low, high),
                }
            )
    gaps = [row["count"] * abs(row["quality"] - row["held"]) for row in rows]
    return {
        "bins": rows,
        "ece": float(np.sum(gaps) / max(len(quality), 1)),
        "brier": float(np.mean((quality - held) ** 2)),
        "auc": _auc(quality, held),
        "floors": [
            {"quality": floor, "sent": int(np.sum(sent)), "held": float(np.mean(held[sent]))}
            for floor in FLOORS
            if (sent := quality >= floor).any()
        ],
    }


def _auc(quality: Array, held: Mask) -> float:
    """Chance that a grasp that held had a higher quality than one that did not; ties count half."""
    better = quality[held][:, None] - quality[~held][None]
    return float(np.mean((better > 0) + 0.5 * (better == 0))) if better.size else float("nan")
