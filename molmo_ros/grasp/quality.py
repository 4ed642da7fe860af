"""How likely a planned grasp is to hold: from the planner's rating, and from how well it was seen."""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import Array, CameraPoint, Grasp, ObjectSegment, RgbdFrame
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.guards import contact_of, seen_at_contacts
from molmo_ros.grasp.unseen import hidden_share

# Log-odds of holding are their weighted sum: `python -m molmo_ros.tools.grasp_physics.calibrate` fitted them
# to 812 grasps (73 lost) of eight families seen by stereo, structured light and time of flight.
EVIDENCE = (
    "one", "rating", "poorer_contact", "better_contact", "hidden", "wide", "slack", "spilt", "far", "small",
    "unsure",
)  # fmt: skip
WEIGHTS = np.array([-2.07, 0.62, 0.50, 1.24, -0.23, 0.21, 0.58, -2.36, 1.12, -0.02, -4.72])
ROOM_M, AWAY_M, MANY = 0.02, 0.10, 1000.0


def calibrated(
    frame: RgbdFrame, segment: ObjectSegment, camera_point: CameraPoint, grasp: Grasp, gripper: Gripper
) -> float:
    """Return the chance 0..1 that a grasp holds; its quality is still the planner's own."""
    odds = float(WEIGHTS @ evidence(frame, segment, camera_point, grasp, gripper))
    return float(1 / (1 + np.exp(-odds)))


def evidence(
    frame: RgbdFrame, segment: ObjectSegment, camera_point: CameraPoint, grasp: Grasp, gripper: Gripper
) -> Array:
    """Return what speaks for or against a grasp, (len(EVIDENCE),), each about 0 to 1.

    rating: log-odds by the planner; the measured points at both contacts; share of the approach path that was
    not seen; width relative to the hand's; room beside it; share of the mask that is not the object; distance
    of contact and point; how few points the object has; how unsure its mask is.
    """
    quality = float(np.clip(grasp.quality, 1e-4, 1 - 1e-4))
    seen = np.sort(seen_at_contacts(segment, grasp, gripper))
    poorer, better = np.minimum(np.log1p(seen) / np.log1p(100.0), 1.0)
    away = float(np.linalg.norm(contact_of(grasp, gripper) - camera_point.position))
    return np.array(
        [
            1.0,
            np.log(quality / (1 - quality)),
            poorer,
            better,
            hidden_share(frame, grasp, gripper),
            grasp.width / gripper.max_opening,
            min((grasp.opening - grasp.width) / ROOM_M, 1.0),
            1 - segment.kept,
            min(away / AWAY_M, 1.5),
            float(np.exp(-len(segment.cloud_m) / MANY)),
            1 - segment.confidence,
        ]
    )
