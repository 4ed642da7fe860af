"""The coloured cloud seen from the side, with the target, its box, the gripper and its approach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from molmo_ros.datatypes import Array, Grasp, GraspTarget, Image, RgbdFrame
from molmo_ros.draw.cloud import Cloud, make_cloud, spacing_px
from molmo_ros.draw.hand import hand_length, hand_solids
from molmo_ros.draw.hud import AXIS_COLORS, dot, triad
from molmo_ros.draw.raster import Canvas
from molmo_ros.draw.solids import BOX_EDGES, arrow, box_corners
from molmo_ros.draw.style import INK, Color, Floats, accent
from molmo_ros.draw.viewpoint import Stage, choose_eye, set_stage
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.transforms import (
    check_transform,
    invert,
    pose_matrix,
    transform_box,
    transform_grasp,
    transform_points,
)

SUPERSAMPLE = 2
GRID_M = 0.05
CENTRE: Color = (52, 59, 71)
RIM: Color = (20, 23, 29)


def view3d(
    frame: RgbdFrame,
    targets: Sequence[GraspTarget],
    gripper: Gripper | None = None,
    *,
    size: tuple[int, int] = (640, 480),
    T_target_camera: Array | None = None,
) -> Image:
    """Render the scene from the side.

    Args: targets, best first, in the frame that T_target_camera (4,4) leads to (None: the camera's optical
    frame); gripper, drawn at the best grasp (None: not drawn); size (width, height) px.
    Returns: (height,width,3) uint8.
    """
    base = np.eye(3)
    if T_target_camera is not None:
        T_camera_target = invert(check_transform(T_target_camera))
        targets = [_in_camera(t, T_camera_target) for t in targets]
        base = T_camera_target[:3, :3]
    frame_id = targets[0].frame_id if targets else frame.frame_id
    shown_length = 0.08 if gripper is None else hand_length(gripper) + 0.04
    stage = set_stage(frame, targets, shown_length)
    big = (size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE)
    cloud = make_cloud(frame)
    canvas = Canvas(choose_eye(stage, _others(cloud, targets), big), _background(big))
    _draw_cloud(canvas, frame, cloud, targets, stage)
    best = next((t.grasp for t in targets if t.grasp is not None), None)
    if best is not None:
        _draw_grasp(canvas, best, gripper)
    canvas.shade_edges()
    _draw_grid(canvas, stage)
    _draw_boxes(canvas, targets)
    if best is not None:
        _draw_axes(canvas, best)
    image = canvas.image(SUPERSAMPLE)
    for index, target in reversed(list(enumerate(targets))):
        if target.position is not None:
            image = dot(image, canvas.eye.project(target.position)[0] / SUPERSAMPLE, accent(index))
    return triad(image, canvas.eye.rotation @ base, frame_id)


def _in_camera(target: GraspTarget, T_camera_target: Array) -> GraspTarget:
    """Express a target in the camera's optical frame, where its segment already is."""
    position = None if target.position is None else transform_points(T_camera_target, target.position)
    box = None if target.box is None else transform_box(T_camera_target, target.box)
    grasp = None if target.grasp is None else transform_grasp(T_camera_target, target.grasp)
    return replace(target, position=position, box=box, grasp=grasp)


def _others(cloud: Cloud, targets: Sequence[GraspTarget], stride: int = 5) -> Array:
    """Return a thinned cloud (N,3) m without the target that has the grasp."""
    keep = cloud.keep.copy()
    best = next((t for t in targets if t.grasp is not None), None)
    if best is not None and best.segment is not None and best.segment.mask.shape == keep.shape:
        keep &= ~best.segment.mask
    return np.asarray(cloud.points[::stride, ::stride][keep[::stride, ::stride]])


def _background(size: tuple[int, int]) -> Floats:
    """Return a dark backdrop (H,W,3), a little lighter in the middle."""
    x, y = np.linspace(-1, 1, size[0])[None, :], np.linspace(-1, 1, size[1])[:, None]
    t = np.clip(np.hypot(x, y) / 1.3, 0, 1)[..., None]
    return np.asarray((1 - t) * np.array(CENTRE) + t * np.array(RIM), dtype=np.float32)


def _draw_cloud(
    canvas: Canvas, frame: RgbdFrame, cloud: Cloud, targets: Sequence[GraspTarget], stage: Stage
) -> None:
    """Splat the cloud: targets bright and tinted, the rest a little subdued, fading with the distance."""
    spacing = spacing_px(cloud, canvas.eye)
    colors = 0.86 * frame.rgb.astype(np.float32)
    for index, target in reversed(list(enumerate(targets))):
        if target.segment is not None and target.segment.mask.shape == frame.depth.shape:
            mask = target.segment.mask
            colors[mask] = np.clip(0.90 * 1.10 * frame.rgb[mask] + 0.10 * np.array(accent(index)), 0, 255)
    away = np.linalg.norm(cloud.points - stage.focus, axis=-1)
    keep = cloud.keep & (away < 4.2 * stage.radius)
    fade = np.clip((away[keep] - 1.6 * stage.radius) / (2.6 * stage.radius), 0, 1)[:, None].astype(np.float32)
    tints = colors[keep] * (1 - fade) + np.array(RIM, dtype=np.float32) * fade
    canvas.splat(cloud.points[keep], tints, spacing[keep])


def _draw_grasp(canvas: Canvas, grasp: Grasp, gripper: Gripper | None) -> None:
    """Draw the hand closed on the object, and its approach as an arrow behind the wrist."""
    T = pose_matrix(grasp.pose)
    for solid in [] if gripper is None else hand_solids(gripper, grasp.width):
        moved = solid.moved(T)
        canvas.triangles(moved.vertices, moved.faces, moved.color)
    way = float(np.linalg.norm(grasp.pose.position - grasp.pregrasp.position))
    reach = 0.02 if gripper is None else hand_length(gripper)
    wrist = grasp.pose.position - reach * T[:3, 2]
    for solid in arrow(wrist - min(way, 0.12) * T[:3, 2], wrist, 0.004, accent(0)):
        canvas.triangles(solid.vertices, solid.faces, solid.color)


def _draw_grid(canvas: Canvas, stage: Stage) -> None:
    """Draw the support plane as a faint grid, clearer where the camera saw nothing."""
    if stage.plane is None:
        return
    n, d = stage.plane[:3], stage.plane[3]
    centre = stage.focus - (n @ stage.focus + d) * n
    u = np.cross(n, [1.0, 0, 0] if abs(n[0]) < 0.8 else [0, 1.0, 0])
    u /= np.linalg.norm(u)
    v = np.cross(n, u)
    reach = np.ceil(2.4 * stage.radius / GRID_M) * GRID_M
    k, t = np.meshgrid(np.arange(-reach, reach + 1e-9, GRID_M), np.linspace(-reach, reach, 33))
    starts = np.stack([k[:-1].ravel(), t[:-1].ravel()], axis=-1)
    ends = np.stack([k[1:].ravel(), t[1:].ravel()], axis=-1)
    far = np.hypot(*((starts + ends) / 2).T) / reach
    for axes in (np.stack([u, v]), np.stack([v, u])):
        for ring in range(5):  # fades outwards in steps too small to see
            inside = (far >= ring / 5) & (far < (ring + 1) / 5)
            alpha = 0.24 * (0.9 - ring / 5)
            canvas.lines(
                centre + starts[inside] @ axes, centre + ends[inside] @ axes, INK, 1.4, alpha, bias_m=0.004
            )


def _draw_boxes(canvas: Canvas, targets: Sequence[GraspTarget]) -> None:
    for index, target in reversed(list(enumerate(targets))):
        if target.box is None:
            continue
        corners = transform_points(pose_matrix(target.box.pose), box_corners(target.box.size))
        ends = corners[BOX_EDGES[:, 0]], corners[BOX_EDGES[:, 1]]
        canvas.lines(*ends, accent(index), 1.6 * SUPERSAMPLE, alpha=0.95, hidden=0.28)


def _draw_axes(canvas: Canvas, grasp: Grasp, length: float = 0.035) -> None:
    """Draw the grasp frame at the fingertips: x red, y green, z blue."""
    T = pose_matrix(grasp.pose)
    for i, color in enumerate(AXIS_COLORS):
        start, end = T[:3, 3], T[:3, 3] + length * T[:3, i]
        canvas.lines(start[None], end[None], color, 2.2 * SUPERSAMPLE, alpha=1.0, hidden=0.55)
