"""Does the thing go on where it was not measured? There its edge is not known, nor what the fingers meet.

Each guard returns what speaks against a grasp, or None.
"""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Depth, Grasp, Mask, ObjectSegment, RgbdFrame
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.places import finger_places, pixels_of, places_of
from molmo_ros.perception.depth import valid_depth

WIDER_M = (0.006, 0.020)  # so far beyond a contact the thing must not go on
MOST_WIDER = 0.6  # share of the places there that may be of the thing
SURFACE_M = 0.012  # so near to where a surface is taken to be
CUT_PX, MOST_OUTSIDE = 12, 0.5  # so long an outline at the image's border is a cut; share of a finger


def edge_unseen(frame: RgbdFrame, segment: ObjectSegment, grasp: Grasp, gripper: Gripper) -> str | None:
    """Object to a contact beyond which the mask goes on without depth: there depth ends, not the thing.

    Half of a thing is measured where the depth camera's view ends within the image, or where one part of it
    is black or shiny.
    """
    share = max(_goes_on(frame, segment.mask, grasp, gripper, side) for side in (-1.0, 1.0))
    if share <= MOST_WIDER:
        return None
    return (
        f"Beyond a contact of the grasp the thing goes on where there is no depth ({share:.0%} of the places "
        f"up to {1000 * WIDER_M[1]:.0f} mm from it): it is wider than was measured; move the camera so that "
        "all of it has depth."
    )


def cut_by_image(frame: RgbdFrame, segment: ObjectSegment, grasp: Grasp, gripper: Gripper) -> str | None:
    """Object to a thing that the border of the image cuts, if a finger ends outside of the image as well."""
    mask = segment.mask
    cut = max(int(np.count_nonzero(line)) for line in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    if cut < CUT_PX:
        return None
    outside = [float(np.mean(~pixels_of(frame, places)[2])) for places in finger_places(grasp, gripper)]
    if max(outside) <= MOST_OUTSIDE:
        return None
    return (
        f"The image's border cuts the thing ({cut} px of its outline), and a finger would end beyond it, "
        "where it may go on; turn the camera to it."
    )


def _goes_on(frame: RgbdFrame, mask: Mask, grasp: Grasp, gripper: Gripper, side: float) -> float:
    """Return the share of the places just beyond a contact, seen along the approach, that hold a surface of
    the mask (H,W) if its holes have the depth of their rims.

    At any height between tips and palm; other holes are in front of the thing, or behind it.
    """
    across = np.linspace(-gripper.finger_width / 2, gripper.finger_width / 2, 5)
    aside = side * (grasp.width / 2 + np.linspace(*WIDER_M, 5))
    along = -np.linspace(0.0, gripper.finger_length, 8)
    places = places_of(grasp, (across, aside, along))
    u, v, inside = pixels_of(frame, places)
    hole = inside & mask[v, u] & ~valid_depth(frame.depth[v, u])
    if _columns(hole, len(along)) <= MOST_WIDER:
        return 0.0
    return _columns(hole & (np.abs(places[:, 2] - _bridged(frame.depth, mask)[v, u]) < SURFACE_M), len(along))


def _columns(marked: Mask, height: int) -> float:
    """Return the share of columns, of a height each, in which a place of a lattice (N,) is marked."""
    return float(np.mean(marked.reshape(-1, height).any(axis=1)))


def _bridged(depth: Depth, mask: Mask) -> Depth:
    """Return depth (H,W) m with that of the nearest measured pixel of a mask (H,W) wherever that has none."""
    measured = mask & valid_depth(depth)
    if not measured.any():
        return np.zeros_like(depth)
    _, label = cv2.distanceTransformWithLabels(
        (~measured).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.zeros(int(label.max()) + 1, dtype=depth.dtype)
    of_label[label[measured]] = depth[measured]
    return np.where(measured, depth, of_label[label])
