"""Compare masks on wild scenes on which nothing was trained: learned, and by geometry.

python -m molmo_ros.tools.segmenter.evaluate --scenes 200 --sensor stereo
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from molmo_ros.datatypes import ImagePoint, Mask, RgbdFrame
from molmo_ros.errors import DepthError, SegmentError
from molmo_ros.perception.learned_mask import MaskNetwork
from molmo_ros.perception.lift import lift_point
from molmo_ros.perception.plane import support_plane
from molmo_ros.perception.region import Region
from molmo_ros.perception.segment import DEFAULT_SEGMENT, PLANE_POINTS, segment_object
from molmo_ros.tools.segmenter.data import draw_points

SIZE = (640, 480)
OTHERS = range(400, 460)  # individuals of shapes that no training scene has
GOOD, WRONG = 0.75, 0.5  # IoU


@dataclass(frozen=True)
class Asked:
    """One thing of a scene: the frame, the pixel that is pointed at, and its true mask."""

    frame: RgbdFrame
    point: ImagePoint
    mask: Mask


def things(first: int, scenes: int, sensor: str, stream: int) -> Iterator[Asked]:
    """Draw scenes and point at two things of each."""
    from molmo_ros.sim.sensors import SensorView, sensed_depth
    from molmo_ros.sim.wild import wild_view

    for n in range(first, first + scenes):
        rng = np.random.default_rng([n, stream])
        view, K, _ = wild_view(rng, *SIZE, numbers=OTHERS)
        depth = sensed_depth(SensorView(view.depth, view.rgb, view.material), K, sensor, rng)
        frame = RgbdFrame(view.rgb, depth, K)
        points = draw_points(view.ids, np.nan_to_num(depth), view.depth, rng)
        points = points[points[:, 3] > 0]
        for _, u, v, thing, _ in points[rng.permutation(len(points))[:2]].tolist():
            yield Asked(frame, ImagePoint(float(u), float(v), ""), np.asarray(view.ids == thing))


def learned(asked: Asked) -> tuple[Mask | None, float]:
    """The mask of the network alone, and the IoU that it expects."""
    lifted = lift_point(asked.frame, asked.point)
    seed = lifted.position
    o = DEFAULT_SEGMENT
    region = Region.around(asked.frame, seed, o.radius_m, o.spacing_m, o.depth)
    plane = support_plane(region.thinned(PLANE_POINTS), seed, max(0.004, 2 * region.sigma), None, o.plane)
    found = MaskNetwork.shared()(asked.frame, asked.point, seed, plane)
    return found.mask, found.confidence


def geometry(asked: Asked) -> tuple[Mask | None, float]:
    """The mask by distance, colour and shape alone."""
    lifted = lift_point(asked.frame, asked.point)
    return segment_object(asked.frame, asked.point, lifted).mask, 1.0


def measure(name: Callable[[Asked], tuple[Mask | None, float]], all_asked: list[Asked]) -> dict[str, float]:
    """IoU and refusals of one way to segment; refused things count as 0 in no mean but their own share."""
    reached, expected = [], []
    refused = 0
    for asked in all_asked:
        try:
            mask, confidence = name(asked)
        except (DepthError, SegmentError):
            mask, confidence = None, 0.0
        if mask is None:
            refused += 1
            continue
        reached.append(np.count_nonzero(mask & asked.mask) / max(int(np.count_nonzero(mask | asked.mask)), 1))
        expected.append(confidence)
    ious, told = np.array(reached), np.array(expected)
    return {
        "asked": len(all_asked),
        "refused": refused / max(len(all_asked), 1),
        "iou": float(ious.mean()),
        "iou_p10": float(np.quantile(ious, 0.1)),
        "good": float((ious > GOOD).mean()),
        "wrong": float((ious < WRONG).mean()),
        "auc": auc(told, ious > GOOD),
    }


def auc(scores: np.ndarray, good: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a good one has the higher score (Mann and Whitney 1947)."""
    a, b = scores[good], scores[~good]
    if len(a) == 0 or len(b) == 0:
        return float("nan")
    return float((a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--sensor", default="stereo")
    parser.add_argument("--report", action="store_true", help="scenes kept for reports, not those for tuning")
    args = parser.parse_args()
    from molmo_ros.sim.wild import REPORTING, TUNING

    stream = REPORTING if args.report else TUNING
    all_asked = list(things(args.first, args.scenes, args.sensor, stream))
    for way in (learned, geometry):
        print(way.__name__, json.dumps({k: round(v, 3) for k, v in measure(way, all_asked).items()}))


if __name__ == "__main__":
    main()
