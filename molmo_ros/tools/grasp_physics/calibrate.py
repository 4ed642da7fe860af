"""Fit the weights of a grasp's quality: ``python -m molmo_ros.tools.grasp_physics.calibrate``.

Plans on scenes of several families as several sensors see them, executes each grasp in physics, and fits the
weights of grasp/quality.py to what held, by logistic regression. Seeds below 10000 only: those for tuning.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from molmo_ros.datatypes import Array, Mask
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.quality import EVIDENCE, evidence
from molmo_ros.perception.find_object import Segmenter
from molmo_ros.perception.lift import lift_point
from molmo_ros.perception.segmenters import AUTO, SEGMENTERS
from molmo_ros.target import find_target
from molmo_ros.tools.grasp_physics.case import REPORT_FROM
from molmo_ros.tools.grasp_physics.families import draw_case
from molmo_ros.tools.grasp_physics.plan import TRUTH
from molmo_ros.tools.grasp_physics.quality import reliability
from molmo_ros.tools.grasp_physics.trial import try_grasp
from molmo_ros.tools.grasp_physics.view import click, look
from molmo_ros.transforms import transform_grasp

FAMILIES = ("single", "clutter", "thin", "rim", "heap", "bin", "mug_floor", "wild")
SENSORS = ("stereo", "structured_light", "tof", "dropout")
RIDGE, FOLDS = 0.3, 5


@dataclass(frozen=True)
class Tried:
    """One executed grasp: evidence (E,) and whether it held."""

    family: str
    evidence: Array
    held: bool


def try_target(family: str, seed: int, sensor: str, segmenter: str) -> Tried | None:
    """Plan and execute; None: refused, or things moved by themselves."""
    gripper = Gripper.load("franka_hand")
    case = draw_case(family, seed)
    view = look(case, sensor=sensor)
    point = click(view)
    masks: Segmenter | str = (lambda frame, point: view.mask) if segmenter == TRUTH else segmenter
    target = find_target(view.frame, point, gripper, view.up, segmenter=masks, calibrate=False)
    if target.grasp is None or target.segment is None:
        return None
    lifted = lift_point(view.frame, point)
    facts = evidence(view.frame, target.segment, lifted, target.grasp, gripper)
    grasp = transform_grasp(case.scene.T_world_camera, target.grasp)
    outcome = try_grasp(case.scene, case.target, grasp, gripper)
    return None if outcome.restless else Tried(family, facts, outcome.held)


def fit(X: Array, held: Mask, ridge: float = RIDGE) -> Array:
    """Fit log-odds to evidence (N,E); weights (E,) except that of the constant are shrunk.

    That of the planner's rating is shrunk to 1, the others to 0: little data changes little.
    """
    from scipy.optimize import minimize

    prior = np.zeros(X.shape[1])
    prior[EVIDENCE.index("rating")] = 1.0
    penalty = np.full(X.shape[1], ridge)
    penalty[0] = 1e-3
    sign = np.where(held, -1.0, 1.0)

    def cost(w: Array) -> tuple[float, Array]:
        odds = sign * (X @ w)
        slope = sign / (1 + np.exp(-np.clip(odds, -500, 500)))
        value = np.logaddexp(0, odds).sum() + 0.5 * (penalty * (w - prior) ** 2).sum()
        return float(value), X.T @ slope + penalty * (w - prior)

    return np.asarray(minimize(cost, prior, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x)


def left_out(X: Array, held: Mask) -> Array:
    """Return the quality (N,) that each grasp gets from weights fitted without its fold."""
    fold = np.arange(len(X)) % FOLDS
    quality = np.zeros(len(X))
    for k in range(FOLDS):
        quality[fold == k] = 1 / (1 + np.exp(-X[fold == k] @ fit(X[fold != k], held[fold != k])))
    return quality


def main(argv: Sequence[str] | None = None) -> None:
    """Print the weights, and how well they tell held from lost on grasps that they were not fitted to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--family", nargs="+", default=list(FAMILIES))
    parser.add_argument("--sensor", nargs="+", default=list(SENSORS))
    parser.add_argument("--targets", type=int, default=20, help="of each family and sensor (default 20)")
    parser.add_argument("--seed", type=int, default=5000, help=f"of the first, below {REPORT_FROM}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--segmenter", choices=(*SEGMENTERS, TRUTH), default=AUTO, help="default auto")
    args = parser.parse_args(argv)
    if args.seed + args.targets > REPORT_FROM:
        parser.error(f"seeds from {REPORT_FROM} on are for reporting; give a lower --seed")
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # for the processes to come
    work = [
        (family, args.seed + i, sensor, args.segmenter)
        for i in range(args.targets)
        for family in args.family
        for sensor in args.sensor
    ]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        tried = [t for t in pool.map(try_target, *zip(*work, strict=True), chunksize=2) if t is not None]
    report(tried, len(work))


def report(tried: Sequence[Tried], targets: int) -> None:
    """Print counts, weights, and AUC before and after."""
    X = np.stack([t.evidence for t in tried])
    held = np.array([t.held for t in tried], dtype=np.bool_)
    print(f"{targets} targets, {len(tried)} attempts, {int(np.count_nonzero(~held))} lost")
    for family in dict.fromkeys(t.family for t in tried):
        part = np.array([t.family == family for t in tried])
        print(f"  {family:<12} held {int(held[part].sum())} of {int(part.sum())}")
    rating = 1 / (1 + np.exp(-X[:, EVIDENCE.index("rating")]))
    for name, quality in (("rating alone", rating), ("fitted, left out", left_out(X, held))):
        told = reliability(quality, held)
        print(f"{name}: AUC {told['auc']:.3f}, ECE {told['ece']:.3f}")
    print("WEIGHTS = np.array([" + ", ".join(f"{w:.2f}" for w in fit(X, held)) + "])")


if __name__ == "__main__":
    main()
