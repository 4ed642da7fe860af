"""The values that travel between the stages: image, answer, points, object, grasp.

All are frozen. Units are SI, pixels have (0, 0) at the centre of the top-left pixel (u right, v down),
and "camera" is the optical frame of REP-103: x right, y down, z forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

# The shared aliases; each is defined only here.
Array = npt.NDArray[np.float64]
AnyArray = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.integer[Any]]  # positions in a sequence or an array; int64 where a network takes them
Image = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Progress = Callable[[str, float], None]  # a stage in words, and the share 0..1 that is done
CountProgress = Callable[[int, int], None]  # how many are done, and of how many
ShouldStop = Callable[[], bool]  # polled between two steps: True once the caller has given up


@dataclass(frozen=True)
class Lens:
    """The distorting lens of a raw image, and the pinhole camera to which it is rectified (``rectify``).

    model and D as in sensor_msgs/CameraInfo; K and K_new, row-major 3x3 px, of the raw and of the rectified
    image, which have the same size; R, row-major 3x3, takes rays of the raw camera to the rectified one.
    Tuples, so that it can be a key.
    """

    model: str
    D: tuple[float, ...]
    K: tuple[float, ...]
    R: tuple[float, ...]
    K_new: tuple[float, ...]
    width: int
    height: int


@dataclass(frozen=True)
class DepthCamera:
    """Where a depth image was taken from, if not by the colour camera (``register``).

    K (3,3) px of its rectified image; T_color_depth (4,4), its optical frame in that of the colour camera;
    lens, if the image is raw.
    """

    K: Array
    T_color_depth: Array
    lens: Lens | None = None


@dataclass(frozen=True)
class RgbdFrame:
    """One registered pair of colour and depth.

    rgb (H,W,3) uint8; depth (H,W) float32 metres along z (REP-118), NaN where invalid; K (3,3) px of the
    rectified image; frame_id the optical frame; stamp_ns the stamp of the image; lens that of the raw image,
    if this one was rectified from it.
    """

    rgb: Image
    depth: Depth
    K: Array
    frame_id: str = "camera_color_optical_frame"
    stamp_ns: int = 0
    lens: Lens | None = None


@dataclass(frozen=True)
class ImagePoint:
    """A point that the model named.

    x, y in pixels of the full-resolution image; covariance (2,2) px^2; confidence 0..1; instance counts
    from 1 over the whole answer.
    """

    x: float
    y: float
    label: str
    instance: int = 1
    confidence: float = 1.0
    covariance: Array = field(default_factory=lambda: np.eye(2))


@dataclass(frozen=True)
class Answer:
    """What the model said, and the points that the text names (empty: nothing there).

    text is the model's raw text; token_ids (T,) and logprobs (T,) are of the generated tokens;
    stages_ms has at least preprocess, vision, prefill, decode; passes is how often the text model ran.
    drafted tokens were proposed to it (``answer.drafter``), accepted of them were kept: each saves a pass.
    """

    text: str
    points: tuple[ImagePoint, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    stages_ms: dict[str, float] = field(default_factory=dict)
    passes: int = 0
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class CameraPoint:
    """A pixel lifted into 3D: position (3,) m and covariance (3,3) m^2 in the camera's optical frame.

    ambiguity is the weight 0..1 of the depth layer that was rejected at this pixel; hole_px how far away the
    nearest pixel was whose depth was read, 0 if it was the pixel itself.
    """

    position: Array
    covariance: Array
    ambiguity: float = 0.0
    hole_px: float = 0.0


@dataclass(frozen=True)
class ObjectSegment:
    """The object around a point, and what a gripper must not hit, in the camera's optical frame.

    mask (H,W) bool; cloud_m (M,3) and its colors (M,3) uint8; scene_m (S,3) the other foreground points;
    plane (4,) the support plane n.x + d = 0 with unit n away from the support, or None if none was found;
    kept, share of the depth in the mask that is the object's own; bounds, first and last row, first and last
    column of the image that were searched, or None: all; confidence 0..1, the expected IoU of the mask, 1 if
    unknown.
    """

    mask: Mask
    cloud_m: Array
    colors: Image
    scene_m: Array
    plane: Array | None
    kept: float = 1.0
    bounds: tuple[int, int, int, int] | None = None
    confidence: float = 1.0


@dataclass(frozen=True)
class Pose:
    """position (3,) m and orientation (4,) unit quaternion, xyzw."""

    position: Array
    orientation: Array


@dataclass(frozen=True)
class OrientedBox:
    """A box: pose of its centre, and its full size (3,) m along its own axes. z is away from the support."""

    pose: Pose
    size: Array


@dataclass(frozen=True)
class Grasp:
    """A parallel-gripper grasp.

    Frame of pose: z = approach (towards the object), y = closing direction, x = y cross z, origin midway
    between the fingertips. pregrasp has the same orientation, withdrawn along -z. width in m is the
    distance between the contacts, where the fingers stop; opening in m is how far to open them on the way
    in, the widest that touches nothing (0: unknown); quality is 0..1.
    """

    pose: Pose
    pregrasp: Pose
    width: float
    quality: float
    opening: float = 0.0


class TargetStatus(IntEnum):
    """Why a target can be grasped or not; the numbers are those of msg/GraspTarget."""

    OK = 0
    NO_DEPTH = 1
    OUT_OF_RANGE = 2
    NO_OBJECT = 3
    TOO_WIDE = 4
    COLLISION = 5
    NO_TRANSFORM = 6
    AMBIGUOUS = 7
    UNSEEN = 8
    # It could be grasped, but a limit forbids it (``limits``).
    OUT_OF_WORKSPACE = 16
    KEEP_OUT = 17
    UNCERTAIN = 18
    LOW_QUALITY = 19
    STALE = 20
    TOO_MANY = 21
    NO_LEASE = 22


@dataclass(frozen=True)
class GraspTarget:
    """Everything known about one point of an answer, in frame_id; fields that are unknown are None.

    covariance (3,3) m^2 belongs to position. depth_distance px from the point to where its depth was read: 0
    if its own pixel has depth, more if it lies in a hole.
    """

    point: ImagePoint
    status: TargetStatus
    status_text: str
    frame_id: str
    stamp_ns: int
    position: Array | None = None
    covariance: Array | None = None
    depth_distance: float | None = None
    box: OrientedBox | None = None
    grasp: Grasp | None = None
    segment: ObjectSegment | None = None


@dataclass(frozen=True)
class Grounding:
    """The whole result of one query: text in, targets out (best first), with the time of each stage."""

    query: str
    answer: Answer
    targets: tuple[GraspTarget, ...]
    stages_ms: dict[str, float] = field(default_factory=dict)
