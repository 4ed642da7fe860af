"""How well a model points: new simulated scenes, questions in words, answers against the truth.

Scenes come from seeds that training never saw. Every picture is 640x480 with the sensor's noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from molmo_ros.checkpoint.query import counting_prompt, parse_query
from molmo_ros.datatypes import Answer, CountProgress, ImagePoint, RgbdFrame
from molmo_ros.errors import DepthError
from molmo_ros.perception.lift import lift_point, pixel_ray
from molmo_ros.pipeline import Grounder
from molmo_ros.sim import KINDS, SimCamera, SimTruth
from molmo_ros.sim.objects import PLURALS, colors_of


@dataclass
class Tally:
    """What was seen, one entry for each question."""

    in_mask: list[bool] = field(default_factory=list)
    in_mask_kind_only: list[bool] = field(default_factory=list)
    absent: list[bool] = field(default_factory=list)
    count: list[bool] = field(default_factory=list)
    f1_all: list[float] = field(default_factory=list)
    px_error: list[float] = field(default_factory=list)
    position_error_mm: list[float] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)  # of the points in in_mask and in_mask_kind_only
    hits: list[bool] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        return {
            "in_mask": _mean(self.in_mask),
            "in_mask_kind_only": _mean(self.in_mask_kind_only),
            "absent": _mean(self.absent),
            "count": _mean(self.count),
            "f1_all": _mean(self.f1_all),
            "px_error_mean": _mean(self.px_error),
            "px_error_median": float(np.median(self.px_error)) if self.px_error else float("nan"),
            "position_error_mm_median": (
                float(np.median(self.position_error_mm)) if self.position_error_mm else float("nan")
            ),
            "ece": calibration_error(np.array(self.confidence), np.array(self.hits)),
        }


def evaluate_tiny(
    scenes: int,
    seed: int,
    progress: CountProgress | None = None,
    checkpoint: str = "tiny",
    runtime: str = "auto",
    precision: str = "auto",
) -> dict[str, float]:
    """Score a model on new scenes.

    in_mask: share of questions for one thing by colour and kind whose answer is one point in its mask;
    in_mask_kind_only: by kind alone; absent: share of questions for what is not there that get no point;
    count: share of exact counts; f1_all: points for all of a kind against masks, one to one;
    px_error: from a point in the mask to the middle of the mask; position_error_mm: lifted point to the true
    surface at its pixel; ece: expected calibration error of the points' confidence, 10 bins.
    """
    grounder = Grounder.load(checkpoint, runtime, precision=precision)
    tally = Tally()
    for i in range(scenes):
        rng = np.random.default_rng([seed, i])
        camera = SimCamera(int(rng.integers(1 << 29)))
        _judge_scene(grounder, camera.frame(), camera.truth, rng, tally)
        if progress is not None:
            progress(i + 1, scenes)
    grounder.close()
    return {**tally.summary(), "scenes": scenes, "seed": seed}


def _judge_scene(
    grounder: Grounder, frame: RgbdFrame, truth: SimTruth, rng: np.random.Generator, tally: Tally
) -> None:
    names = [o.name for o in truth.objects]
    kinds = [o.kind for o in truth.objects]
    for names_of, hits in ((names, tally.in_mask), (kinds, tally.in_mask_kind_only)):
        unique = [i for i, n in enumerate(names_of) if names_of.count(n) == 1]
        if unique:
            i = int(rng.choice(unique))
            answer = grounder.point(frame.rgb, f"the {names_of[i]}")
            hits.append(_judge_single(answer, i + 1, frame, truth, tally))
    tally.absent.append(not grounder.point(frame.rgb, f"the {missing(truth, rng)}").points)
    kind = str(rng.choice(sorted(set(kinds))))
    ids = [i + 1 for i, k in enumerate(kinds) if k == kind]
    counted = grounder.ask(frame.rgb, counting_prompt(parse_query(PLURALS[kind])))
    tally.count.append(len(counted.points) == len(ids))
    tally.f1_all.append(f1(grounder.point(frame.rgb, f"all the {PLURALS[kind]}").points, ids, truth))


def _judge_single(answer: Answer, wanted: int, frame: RgbdFrame, truth: SimTruth, tally: Tally) -> bool:
    if len(answer.points) != 1:
        return False
    point = answer.points[0]
    u, v = round(point.x), round(point.y)
    hit = bool(truth.ids[v, u] == wanted)
    tally.confidence.append(point.confidence)
    tally.hits.append(hit)
    if hit:
        rows, columns = np.nonzero(truth.ids == wanted)
        tally.px_error.append(float(np.hypot(point.x - columns.mean(), point.y - rows.mean())))
        try:
            lifted = lift_point(frame, point).position
        except DepthError:
            return hit
        surface = pixel_ray(point.x, point.y, frame.K) * float(truth.depth[v, u])
        tally.position_error_mm.append(1000 * float(np.linalg.norm(lifted - surface)))
    return hit


def missing(truth: SimTruth, rng: np.random.Generator) -> str:
    """A thing that is not there: another kind, or a kind that is there in another colour."""
    names, kinds = {o.name for o in truth.objects}, {o.kind for o in truth.objects}
    while True:
        kind = str(rng.choice(KINDS))
        if rng.random() < 0.5:
            if kind not in kinds:
                return kind
            continue
        color = str(rng.choice(colors_of(kind)))
        if f"{color} {kind}" not in names:
            return f"{color} {kind}"


def f1(points: tuple[ImagePoint, ...], ids: list[int], truth: SimTruth) -> float:
    """F1 of points against masks, matched one to one: a point is right inside the mask it is given."""
    if not points or not ids:
        return float(not points and not ids)
    inside = np.array([[truth.ids[round(p.y), round(p.x)] == i for i in ids] for p in points])
    rows, columns = linear_sum_assignment(~inside)
    right = int(inside[rows, columns].sum())
    return 2 * right / (len(points) + len(ids))


def calibration_error(confidence: np.ndarray, hits: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: mean gap between confidence and accuracy, weighted by bin."""
    if not len(confidence):
        return float("nan")
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(confidence[index == b].mean() - hits[index == b].mean()) * (index == b).mean()
        for b in np.unique(index)
    ]
    return float(np.sum(gaps))


def _mean(values: list[bool] | list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
