"""May this grasp be sent to a robot? Each guard returns what speaks against it, or None.

They check the frame itself, all of it, not what segmentation and planner made of it.
"""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np

from molmo_ros.datatypes import Array, CameraPoint, Grasp, Index, Mask, ObjectSegment, RgbdFrame
from molmo_ros.errors import GraspError
from molmo_ros.grasp.between import FLOOR_M, STEP_PX, another_between, on_surface
from molmo_ros.grasp.beyond import cut_by_image, edge_unseen
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.sweep import TRAVEL_M
from molmo_ros.grasp.unseen import fingers_unseen, thickness_unseen, way_unseen
from molmo_ros.perception.depth import valid_depth
from molmo_ros.transforms import invert, pose_matrix, transform_points

FAR_M = 0.10  # from the ray through the point to the contact: beyond that, another thing was meant
LONG_M, FAR_OF_LONG_M = 0.25, 0.06  # a long mask may cover several things: the part at the point is meant
DEEP_M = 0.20  # to the contact itself: the depth of a vessel on whose floor the point lies
OUTLINE_PX = 5  # depth this near to the object's outline is smeared
SKIN_M = 0.002  # the hand is taken to be this much thinner than it is
FINGER_HIT_M2, PALM_HIT_M2 = 3e-5, 1e-4  # this much measured surface inside the hand is not noise
AGREE_M, AGREE = 0.010, 6  # a pixel on a real surface has this many of 8 neighbours at its depth
NEAR_CONTACT_M, LEAST_SEEN = 0.008, 4  # measured points of the object at one of the contacts, at least
BORDER_PX = 4


def check_grasp(
    frame: RgbdFrame,
    segment: ObjectSegment,
    camera_point: CameraPoint,
    grasp: Grasp,
    gripper: Gripper,
) -> None:
    """Raises: GraspError with code AMBIGUOUS, COLLISION or UNSEEN if it may not be sent."""
    for code, objection in (
        ("AMBIGUOUS", far_from_point(camera_point, segment, grasp, gripper)),
        ("AMBIGUOUS", contact_unknown(segment, grasp, gripper)),
        ("AMBIGUOUS", another_between(frame, segment, grasp, gripper)),
        ("AMBIGUOUS", outside_of_view(frame, grasp, gripper)),
        ("AMBIGUOUS", on_surface(frame, grasp, gripper)),
        ("COLLISION", hits_measured(frame, segment, grasp, gripper)),
        ("UNSEEN", way_unseen(frame, grasp, gripper)),
        ("UNSEEN", fingers_unseen(frame, grasp, gripper)),
        ("UNSEEN", thickness_unseen(frame, segment, grasp, gripper)),
        ("UNSEEN", edge_unseen(frame, segment, grasp, gripper)),
        ("UNSEEN", cut_by_image(frame, segment, grasp, gripper)),
    ):
        if objection is not None:
            raise GraspError(objection, code=code)


def contact_of(grasp: Grasp, gripper: Gripper) -> Array:
    """Return the middle between the pads (3,) m."""
    T = pose_matrix(grasp.pose)
    return np.asarray(T[:3, 3] - gripper.pad_length / 2 * T[:3, 2])


def far_from_point(
    camera_point: CameraPoint, segment: ObjectSegment, grasp: Grasp, gripper: Gripper
) -> str | None:
    """Object to a grasp that is farther from the ray through the point than a thing for one hand reaches.

    From the ray, since the point may lie on the floor of a deep vessel, and the grasp on its rim. A long
    object is held near the point, since its mask may cover more: with a can, the arm that holds it out.
    """
    away = contact_of(grasp, gripper) - camera_point.position
    distance, beside = float(np.linalg.norm(away)), float(beside_ray(camera_point.position, away))
    length = _length(segment.cloud_m)
    far = FAR_M if length <= LONG_M else FAR_OF_LONG_M
    if beside <= far and distance <= DEEP_M:
        return None
    return (
        f"The grasp lies {1000 * distance:.0f} mm from the point, {1000 * beside:.0f} of them to the side "
        f"({1000 * DEEP_M:.0f} and {1000 * far:.0f} are allowed), on a segment "
        f"{1000 * length:.0f} mm long: it may be another thing; point at where it should be held."
    )


def _length(cloud: Array) -> float:
    """Return the extent (m) of points (N,3) along their longest principal axis."""
    centred = cloud - cloud.mean(axis=0)
    return float(np.ptp(centred @ np.linalg.eigh(centred.T @ centred)[1][:, -1]))


def beside_ray(ray: Array, away: Array) -> Array:
    """Return how far (...,) m places (...,3), relative to a point on a ray (3,), lie beside that ray."""
    ray = ray / np.linalg.norm(ray)
    return np.asarray(np.linalg.norm(away - (away @ ray)[..., None] * ray, axis=-1))


def contact_unknown(segment: ObjectSegment, grasp: Grasp, gripper: Gripper) -> str | None:
    """Object to a grasp if the object's edge was measured at neither contact."""
    seen = seen_at_contacts(segment, grasp, gripper)
    if max(seen) >= LEAST_SEEN:
        return None
    return (
        f"At the contacts of the grasp only {seen[0]} and {seen[1]} points of the object were measured, of "
        f"{LEAST_SEEN} needed at one: they lie in a hole or on a smeared edge of the depth; look from "
        "another side."
    )


def seen_at_contacts(segment: ObjectSegment, grasp: Grasp, gripper: Gripper) -> list[int]:
    """Count the measured points of the object at each contact, or above it between the fingers."""
    local = transform_points(invert(pose_matrix(grasp.pose)), segment.cloud_m)
    beside = np.abs(local[:, 0]) < gripper.finger_width / 2 + NEAR_CONTACT_M
    beside &= (local[:, 2] > -gripper.finger_length) & (local[:, 2] < NEAR_CONTACT_M)
    y = local[beside, 1]
    return [int(np.count_nonzero(np.abs(y - s * grasp.width / 2) < NEAR_CONTACT_M)) for s in (1, -1)]


def outside_of_view(frame: RgbdFrame, grasp: Grasp, gripper: Gripper) -> str | None:
    """Object to a grasp whose contact lies at the border of the image: the thing continues outside."""
    x, y, z = contact_of(grasp, gripper)
    height, width = frame.depth.shape
    u = frame.K[0, 0] * x / max(z, 1e-6) + frame.K[0, 2]
    v = frame.K[1, 1] * y / max(z, 1e-6) + frame.K[1, 2]
    inside = BORDER_PX <= u <= width - 1 - BORDER_PX and BORDER_PX <= v <= height - 1 - BORDER_PX
    if inside:
        return None
    return (
        f"The contact of the grasp lies at ({u:.0f}, {v:.0f}), at the border of the {width}x{height} image "
        "or outside, where the thing is not seen; turn the camera to it."
    )


def hits_measured(frame: RgbdFrame, segment: ObjectSegment, grasp: Grasp, gripper: Gripper) -> str | None:
    """Object to a hand that hits any measured surface on its way from the pregrasp to the grasp."""
    u, v, points = _measured(frame, segment, grasp, gripper)
    x, y, z = transform_points(invert(pose_matrix(grasp.pose)), points).T
    x, y = np.abs(x), np.abs(y)
    length = gripper.finger_length
    half_x, half_y, depth = gripper.palm[0] / 2, gripper.palm[1] / 2, gripper.palm[2]
    inner, outer = grasp.opening / 2 + SKIN_M, grasp.opening / 2 + gripper.finger_thickness - SKIN_M
    finger = (x < gripper.finger_width / 2 - SKIN_M) & (y > inner) & (y < outer)
    finger &= (z > -length - TRAVEL_M) & (z < -SKIN_M)
    palm = (x < half_x - SKIN_M) & (y < half_y - SKIN_M)
    palm &= (z > -length - depth - TRAVEL_M) & (z < -length - SKIN_M)
    pixel = (STEP_PX * points[:, 2] / frame.K[0, 0]) ** 2
    for name, inside, most in (("a finger", finger, FINGER_HIT_M2), ("the palm", palm, PALM_HIT_M2)):
        hit = np.flatnonzero(inside)
        hit = hit[_real(frame, v[hit], u[hit])]
        area = float(pixel[hit].sum())
        if area > most:
            return (
                f"On its way in, {name} would meet {1e4 * area:.1f} cm2 of what was measured near pixel "
                f"({np.median(u[hit]):.0f}, {np.median(v[hit]):.0f}); clear that, or look from another side."
            )
    return None


def _measured(
    frame: RgbdFrame, segment: ObjectSegment, grasp: Grasp, gripper: Gripper
) -> tuple[Index, Index, Array]:
    """Return column and row (N,) and place (N,3) m of what was measured near the hand, except the object."""
    cut, low, high_z = _window(frame, grasp, gripper)
    part = segment.mask[cut].astype(np.uint8)
    wide = cv2.dilate(part, np.ones((2 * OUTLINE_PX + 1,) * 2, np.uint8))[::STEP_PX, ::STEP_PX]
    z = frame.depth[cut][::STEP_PX, ::STEP_PX]
    with np.errstate(invalid="ignore"):
        near = valid_depth(z) & (z > low) & (z < high_z)
    v, u = np.nonzero(near & (wide == 0))
    z = z[v, u].astype(np.float64)
    v, u = STEP_PX * v + cut[0].start, STEP_PX * u + cut[1].start
    K = frame.K
    points = np.stack([(u - K[0, 2]) / K[0, 0] * z, (v - K[1, 2]) / K[1, 1] * z, z], axis=1)
    if segment.plane is not None:
        high = points @ segment.plane[:3] + segment.plane[3] > FLOOR_M
        return u[high], v[high], points[high]
    return u, v, points


def _window(frame: RgbdFrame, grasp: Grasp, gripper: Gripper) -> tuple[tuple[slice, slice], float, float]:
    """Return which part of the image the hand can be in on its way, and its least and largest depth in m."""
    x, y, depth = gripper.palm
    back = gripper.finger_length + depth + TRAVEL_M
    wide = max(y, gripper.max_opening + 2 * gripper.finger_thickness)
    half = np.array([max(x, gripper.finger_width), wide, back]) / 2
    corners = half * np.array(list(product((-1, 1), repeat=3))) - [0, 0, back / 2]
    camera = transform_points(pose_matrix(grasp.pose), corners)
    low, high = float(camera[:, 2].min()), float(camera[:, 2].max())
    height, width = frame.depth.shape
    if low < 0.05:  # it approaches from behind the camera
        return (slice(0, height), slice(0, width)), low, high
    pixel = camera @ frame.K.T
    first = np.floor((pixel[:, :2] / pixel[:, 2:]).min(axis=0)).astype(int)
    last = np.ceil((pixel[:, :2] / pixel[:, 2:]).max(axis=0)).astype(int) + 1
    u, v = np.clip([first, last], 0, [width, height]).T.tolist()
    return (slice(v[0], v[1]), slice(u[0], u[1])), low, high


def _real(frame: RgbdFrame, v: Index, u: Index) -> Mask:
    """Mark which pixels (N,) lie on a surface, and not on a ramp or alone."""
    height, width = frame.depth.shape
    count = np.zeros(len(v), dtype=np.intp)
    with np.errstate(invalid="ignore"):
        for dv in (-1, 0, 1):
            for du in (-1, 0, 1):
                there = frame.depth[np.clip(v + dv, 0, height - 1), np.clip(u + du, 0, width - 1)]
                count += np.abs(there - frame.depth[v, u]) < AGREE_M
    return count > AGREE  # the pixel itself counts, too
