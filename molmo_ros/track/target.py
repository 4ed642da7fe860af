"""From a target of the model's answer to a seed for the tracker, and back to the target as it is now."""

from __future__ import annotations

from dataclasses import replace

from molmo_ros.datatypes import Array, GraspTarget
from molmo_ros.track.patch import Seed
from molmo_ros.track.tracker import Tracked
from molmo_ros.transforms import invert, transform_points, transform_target


def seed_of(target: GraspTarget, T_target_camera: Array | None) -> Seed:
    """What the tracker follows: the target in the optical frame, where it was seen.

    T_target_camera (4,4): the transform applied to the target, None if it is in the optical frame.
    """
    mask = None if target.segment is None else target.segment.mask
    there = target if T_target_camera is None else transform_target(target, invert(T_target_camera), "")
    return Seed(target.point, mask, there)


def target_now(tracked: Tracked, frame_id: str, stamp_ns: int) -> GraspTarget:
    """The seed's target where the object is at a stamp, in the optical frame frame_id; the mask stays old."""
    assert tracked.seed.target is not None
    target = transform_target(tracked.seed.target, tracked.T_now_then, frame_id)
    if target.segment is not None:
        cloud = transform_points(tracked.T_now_then, target.segment.cloud_m)
        target = replace(target, segment=replace(target.segment, cloud_m=cloud))
    point = replace(target.point, x=tracked.x, y=tracked.y, instance=tracked.instance)
    return replace(target, point=point, stamp_ns=stamp_ns)
