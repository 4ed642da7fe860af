"""The object at a point, by the learned mask or by geometry, whichever can be trusted there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from molmo_ros.datatypes import Array, CameraPoint, ImagePoint, Mask, ObjectSegment, RgbdFrame
from molmo_ros.errors import ParameterError, SegmentError
from molmo_ros.perception.alone import floor_around
from molmo_ros.perception.guards import masks_disagree
from molmo_ros.perception.learned_mask import LearnedMask, MaskNetwork
from molmo_ros.perception.segment import segment_object
from molmo_ros.perception.segmenters import AUTO, GEOMETRY, LEARNED, SEGMENTERS
from molmo_ros.perception.sharpen import sharpened

Segmenter = Callable[[RgbdFrame, ImagePoint], Mask]
SURE = 0.65  # expected IoU from which the learned mask is taken as it is
LEAST = 0.45  # below it the network saw no thing at the point
ALONE = 0.8  # at least this share of what is around a lone thing is its support
INSIDE = 0.5  # least share of a mask inside another, for it to be a part of that
PIXEL_M = 0.001  # with smaller pixels, masks are sharpened in a smaller image


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
    it is sure, geometry's where it is not and both agree, or the thing stands alone; or a function
    (frame, point) -> mask (H,W), as for SAM. The frame must have passed `camera_info.check_frame`.
    Raises: SegmentError with code NO_OBJECT or AMBIGUOUS.
    """
    if not isinstance(segmenter, str):
        return segment_object(frame, point, lifted, up, segmenter(frame, point))
    if check_segmenter(segmenter) == GEOMETRY:
        return _sharp(frame, segment_object(frame, point, lifted, up), lifted)
    found: list[LearnedMask] = []

    def learned(plane: Array | None) -> Mask:
        found.append(MaskNetwork.shared()(frame, point, lifted.position, plane))
        if found[0].confidence < LEAST and segmenter == LEARNED:
            raise _nothing(point, found[0])
        return found[0].mask

    segment, refusal = None, None
    try:
        segment = segment_object(frame, point, lifted, up, learned)
        segment = replace(segment, confidence=found[0].confidence)
    except SegmentError as error:
        refusal = error
    if found and found[0].confidence < SURE and segmenter == AUTO:
        segment, refusal = _unsure(frame, point, lifted, up, found[0])
    if segment is None:
        assert refusal is not None
        try:
            raise refusal
        finally:
            del refusal  # it refers to this stack frame, and so to the images
    return _sharp(frame, segment, lifted)


def _unsure(
    frame: RgbdFrame, point: ImagePoint, lifted: CameraPoint, up: Array | None, found: LearnedMask
) -> tuple[ObjectSegment | None, SegmentError | None]:
    """Return what to use where the network is not sure, or why nothing is used.

    Geometry's segment where both agree: then it is right, and its outline is the better one. Also where it
    has nothing but its support around it, and the learned mask is a part of it: geometry is only wrong where
    things touch. Never the learned one: half of the grasps by such masks are lost.
    """
    try:
        geometry = segment_object(frame, point, lifted, up)
    except SegmentError as error:
        return None, error
    objection = masks_disagree(geometry.mask, found.mask)
    if objection is None:
        return replace(geometry, confidence=found.confidence), None
    floor = floor_around(frame, geometry)
    inside = np.count_nonzero(found.mask & geometry.mask) > INSIDE * np.count_nonzero(found.mask)
    if floor >= ALONE and inside:
        return replace(geometry, confidence=floor), None
    return None, SegmentError(objection, code="AMBIGUOUS")


def _sharp(frame: RgbdFrame, segment: ObjectSegment, lifted: CameraPoint) -> ObjectSegment:
    """Return the segment with its outline refined by colour; its points remain those found by depth.

    Depth and colour are seldom aligned to the pixel, and depth is wider at edges.
    """
    scale = PIXEL_M * float(frame.K[0, 0] / lifted.position[2])
    return replace(segment, mask=sharpened(frame.rgb, segment.mask, scale))


def _nothing(point: ImagePoint, found: LearnedMask) -> SegmentError:
    return SegmentError(
        f"There is no thing at ({point.x:.0f}, {point.y:.0f}) that could be told from what is around it "
        f"({found.confidence:.0%} sure, {LEAST:.0%} needed); point at the middle of the thing."
    )
