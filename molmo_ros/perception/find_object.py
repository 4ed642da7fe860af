"""The object at a point, by the learned mask or by geometry, whichever is to be trusted there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from molmo_ros.datatypes import Array, CameraPoint, ImagePoint, Mask, ObjectSegment, RgbdFrame
from molmo_ros.errors import ParameterError, SegmentError
from molmo_ros.perception.guards import masks_disagree
from molmo_ros.perception.learned_mask import LearnedMask, MaskNetwork
from molmo_ros.perception.segment import segment_object
from molmo_ros.perception.segmenters import AUTO, GEOMETRY, LEARNED, SEGMENTERS
from molmo_ros.perception.sharpen import sharpened

Segmenter = Callable[[RgbdFrame, ImagePoint], Mask]
SURE = 0.5  # expected IoU from which the learned mask is taken as it is
LEAST = 0.3  # below it the network saw no thing at the point
PIXEL_M = 0.001  # a pixel that is smaller is sharpened in a smaller image


def check_segmenter(name: str) -> str:
    """Return the name of a segmenter. Raises: ParameterError for an unknown one."""
    if name not in SEGMENTERS:
        raise ParameterError(f"There is no segmenter {name!r}; choose from {', '.join(SEGMENTERS)}.")
    return name


def find_object(
    frame: RgbdFrame,
    point: ImagePoint,
    lifted: CameraPoint,
    up: Array | None = None,
    segmenter: Segmenter | str = AUTO,
) -> ObjectSegment:
    """Segment the object at a point; lifted is the point in space, up (3,) away from the ground or None.

    segmenter: "learned", the network's mask; "geometry", what is connected there; "auto", the network's where
    it is sure, else geometry's if the two do not contradict each other; or a function (frame, point) -> mask
    (H,W), as for SAM. The frame must have passed `camera_info.check_frame`.
    Raises: SegmentError with code NO_OBJECT or AMBIGUOUS.
    """
    if not isinstance(segmenter, str):
        return segment_object(frame, point, lifted, up, segmenter(frame, point))
    if check_segmenter(segmenter) == GEOMETRY:
        return segment_object(frame, point, lifted, up)
    found: list[LearnedMask] = []

    def learned(plane: Array | None) -> Mask:
        found.append(MaskNetwork.shared()(frame, point, lifted.position, plane))
        if segmenter == AUTO and found[0].confidence < SURE:
            raise _unsure(found[0])
        if found[0].confidence < LEAST or not found[0].mask.any():
            raise _nothing(point, found[0])
        return found[0].mask

    try:
        segment = segment_object(frame, point, lifted, up, learned)
        return _sharp(frame, segment, lifted, found[0].confidence)
    except SegmentError:
        if segmenter == LEARNED or not found or found[0].confidence >= SURE:
            raise
    segment = segment_object(frame, point, lifted, up)
    if found[0].confidence >= LEAST and (objection := masks_disagree(segment.mask, found[0].mask)):
        raise SegmentError(objection, code="AMBIGUOUS")
    return _sharp(frame, segment, lifted, min(found[0].confidence, SURE))


def _sharp(frame: RgbdFrame, segment: ObjectSegment, lifted: CameraPoint, confidence: float) -> ObjectSegment:
    """Return the segment with the outline that colour tells; its points stay those that depth tells.

    Depth and colour are seldom aligned to the pixel, and depth is wider at edges.
    """
    scale = PIXEL_M * float(frame.K[0, 0] / lifted.position[2])
    return replace(segment, mask=sharpened(frame.rgb, segment.mask, scale), confidence=confidence)


def _unsure(found: LearnedMask) -> SegmentError:
    return SegmentError(f"The learned mask is expected to be right by {found.confidence:.0%} only.")


def _nothing(point: ImagePoint, found: LearnedMask) -> SegmentError:
    return SegmentError(
        f"There is no thing at ({point.x:.0f}, {point.y:.0f}) that could be told from what is around it "
        f"({found.confidence:.0%} sure, {LEAST:.0%} needed); point at the middle of the thing."
    )
