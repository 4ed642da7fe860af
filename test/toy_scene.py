"""A small analytic scene (table, red can, green ball, blue box) for tests that need a frame and its truth."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from molmo_ros.datatypes import (
    Answer,
    Array,
    Grasp,
    GraspTarget,
    Grounding,
    ImagePoint,
    ObjectSegment,
    OrientedBox,
    Pose,
    RgbdFrame,
    TargetStatus,
)
from molmo_ros.transforms import quaternion_from_matrix

HEIGHT_M, BACK_M, PITCH = 0.42, 0.50, 0.72  # camera above the table, behind the can, looking down (rad)
CAN_RADIUS_M, CAN_HEIGHT_M = 0.035, 0.11
COLORS = np.array([[172, 150, 122], [200, 44, 40], [70, 160, 80], [52, 88, 180]], dtype=np.float64)


def camera_pose() -> Array:
    """Return T_world_camera (4,4); the world's z is up and the can stands at its origin."""
    s, c = np.sin(PITCH), np.cos(PITCH)
    T = np.eye(4)
    T[:3, 0] = [0.0, -1.0, 0.0]
    T[:3, 1] = [-s, 0.0, -c]
    T[:3, 2] = [c, 0.0, -s]
    T[:3, 3] = [-BACK_M, 0.0, HEIGHT_M]
    return T


def _sphere(o: Array, d: Array, centre: Array, r: float) -> Array:
    oc = o - centre
    a, b, c = (d * d).sum(-1), (d @ oc), oc @ oc - r * r
    disc = b * b - a * c
    return np.where(disc > 0, (-b - np.sqrt(np.maximum(disc, 0))) / a, np.inf)


def _can(o: Array, d: Array) -> Array:
    a = d[..., 0] ** 2 + d[..., 1] ** 2
    b = d[..., 0] * o[0] + d[..., 1] * o[1]
    disc = b * b - a * (o[0] ** 2 + o[1] ** 2 - CAN_RADIUS_M**2)
    side = (-b - np.sqrt(np.maximum(disc, 0))) / a
    z = o[2] + side * d[..., 2]
    side = np.where((disc > 0) & (z > 0) & (z < CAN_HEIGHT_M), side, np.inf)
    top = (CAN_HEIGHT_M - o[2]) / d[..., 2]
    p = o + top[..., None] * d
    top = np.where(np.hypot(p[..., 0], p[..., 1]) < CAN_RADIUS_M, top, np.inf)
    return np.minimum(side, top)


def _box(o: Array, d: Array, lo: Array, hi: Array) -> Array:
    t0, t1 = (lo - o) / d, (hi - o) / d
    near, far = np.minimum(t0, t1).max(-1), np.maximum(t0, t1).min(-1)
    return np.where(near < far, near, np.inf)


@lru_cache(maxsize=8)
def make_frame(width: int = 640, height: int = 480) -> tuple[RgbdFrame, np.ndarray]:
    """Return the frame and the instance mask (H,W): 0 table, 1 can, 2 ball, 3 box, -1 nothing."""
    f = 0.95 * width
    K = np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1]])
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    rays = np.stack([(u - K[0, 2]) / f, (v - K[1, 2]) / f, np.ones_like(u, dtype=float)], -1)
    T = camera_pose()
    d, o = rays @ T[:3, :3].T + 1e-9, T[:3, 3]
    hits = np.stack(
        [
            np.where(d[..., 2] < 0, -o[2] / d[..., 2], np.inf),
            _can(o, d),
            _sphere(o, d, np.array([0.06, 0.13, 0.035]), 0.035),
            _box(o, d, np.array([0.05, -0.17, 0.0]), np.array([0.13, -0.08, 0.06])),
        ]
    )
    ids = hits.argmin(0)
    depth = hits.min(0)
    depth[depth > 3] = np.nan
    points = o + depth[..., None] * d
    du, dv = np.gradient(points, axis=1), np.gradient(points, axis=0)
    n = np.cross(dv, du)
    n /= np.linalg.norm(n, axis=-1, keepdims=True) + 1e-12
    light = 0.45 + 0.55 * np.clip(np.abs(n @ np.array([-0.45, 0.4, 0.8])), 0, 1)
    rgb = np.nan_to_num(COLORS[ids] * light[..., None], nan=60.0)
    ids[np.isnan(depth)] = -1
    return RgbdFrame(rgb.clip(0, 255).astype(np.uint8), depth.astype(np.float32), K), ids


def make_target(frame: RgbdFrame, ids: np.ndarray) -> GraspTarget:
    """Return the target on the can, with a grasp from above that closes along the camera's x."""
    f, cx, cy = frame.K[0, 0], frame.K[0, 2], frame.K[1, 2]
    R, t = camera_pose()[:3, :3].T, camera_pose()[:3, 3]

    def to_camera(p: list[float]) -> Array:
        return np.asarray(R @ (np.array(p) - t))

    mask = ids == 1
    v, u = np.nonzero(mask)
    z = frame.depth[v, u].astype(float)
    cloud = np.stack([(u - cx) * z / f, (v - cy) * z / f, z], -1)
    p = to_camera([0, 0, CAN_HEIGHT_M])
    x, y = f * p[0] / p[2] + cx, f * p[1] / p[2] + cy
    down = R @ np.array([0.0, 0.0, -1.0])
    close = np.array([1.0, 0.0, 0.0])
    rot = np.stack([np.cross(close, down), close, down], -1)
    q = quaternion_from_matrix(rot)
    tip = to_camera([0, 0, CAN_HEIGHT_M - 0.035])
    up_rot = np.stack([close, np.cross(-down, close), -down], -1)
    box = OrientedBox(
        Pose(to_camera([0, 0, CAN_HEIGHT_M / 2]), quaternion_from_matrix(up_rot)),
        np.array([2 * CAN_RADIUS_M, 2 * CAN_RADIUS_M, CAN_HEIGHT_M]),
    )
    plane = np.append(-down, -(-down @ to_camera([0, 0, 0])))
    return GraspTarget(
        point=ImagePoint(float(x), float(y), "red can", 1, 0.97, np.diag([9.0, 4.0])),
        status=TargetStatus.OK,
        status_text="",
        frame_id=frame.frame_id,
        stamp_ns=0,
        position=p,
        covariance=np.eye(3) * 4e-6,
        box=box,
        grasp=Grasp(Pose(tip, q), Pose(tip - 0.1 * down, q), 2 * CAN_RADIUS_M, 0.83),
        segment=ObjectSegment(mask, cloud, frame.rgb[v, u], np.zeros((0, 3)), plane),
    )


def make_grounding(frame: RgbdFrame, *targets: GraspTarget, query: str = "the red can") -> Grounding:
    """Wrap targets as the answer to a query."""
    points = tuple(t.point for t in targets)
    text = '<points coords="1 1 500 400">the red can</points>' if targets else "There are none."
    stages = {"preprocess": 4.0, "vision": 21.0, "prefill": 12.0, "decode": 60.0, "lift": 2.0, "grasp": 40.0}
    return Grounding(query, Answer(text, points, stages_ms=stages), targets, stages)
