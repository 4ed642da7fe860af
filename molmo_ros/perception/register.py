"""Depth of another camera as the colour camera would see it: from another place, at another size.

Does what depth_image_proc's register node does; in addition, the background does not show through between the
pixels of the foreground, and flying pixels are left out.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Array, Depth, DepthCamera, Lens, Mask, RgbdFrame
from molmo_ros.perception.depth import DEFAULT_DEPTH, DepthOptions
from molmo_ros.perception.rectify import rectify_color, rectify_depth
from molmo_ros.transforms import check_transform

STEEPEST = 6.0  # tan of 80 degrees: anything steeper between two pixels is an edge, not a surface
WIDEST = 16  # px, of a hole in which the edge of a thing may lie
NOTHING = np.float32(np.inf)  # lies behind everything

Float = npt.NDArray[np.float32]


def registered(frame: RgbdFrame, lens: Lens | None, camera: DepthCamera) -> RgbdFrame:
    """A frame whose depth is of another camera -> rectified, with the depth that its own camera would see.

    Args: frame, with colour as it came (lens: its own, or None if rectified) and depth of any size; K of the
    rectified colour image. Raises: TransformError.
    """
    height, width = frame.rgb.shape[:2]
    depth = rectify_depth(frame.depth, camera.lens)
    depth = register_depth(depth, camera.K, camera.T_color_depth, frame.K, (width, height))
    return replace(frame, rgb=rectify_color(frame.rgb, lens), depth=depth, lens=lens)


def register_depth(
    depth: Depth,
    K_depth: Array,
    T_color_depth: Array,
    K_color: Array,
    size: tuple[int, int],
    options: DepthOptions = DEFAULT_DEPTH,
) -> Depth:
    """Reproject depth (h,w) m, NaN where invalid, into the colour camera; both images are rectified.

    Args: K_depth, K_color (3,3) px; T_color_depth (4,4), the depth camera's optical frame in that of the
    colour camera; size, width and height of the colour image.
    Returns: (height,width) m along the z axis of the colour camera, NaN where the depth camera saw nothing,
    including what is hidden from it, or from the colour camera.
    Raises: TransformError.
    """
    T = check_transform(T_color_depth)
    step = _step(depth, K_depth[0, 0], options)
    seen = np.where(_on_surface(depth, step), depth, np.float32(np.nan))
    # On a grid no finer than that of the depth, neighbours land side by side, whatever the size of the image.
    scale = min(1.0, float(K_depth[0, 0] / K_color[0, 0]))
    K, width, height = _scaled(K_color, size, scale)
    u, v, z = _project(seen, K @ T[:3, :3] @ np.linalg.inv(K_depth), K @ T[:3, 3])
    pixel, nearer = _in_image(u, v, z, width, height)
    nearest = _nearest(pixel, nearer, width * height, K[0, 0], options)
    hidden = np.zeros(len(nearest), np.uint8)
    for images in ((seen, step, u, v, z), (seen.T, step.T, u.T, v.T, z.T)):
        pixel, wall = _in_image(*_walls(*images), width, height)
        hidden[pixel[wall + _step(wall, K[0, 0], options) < nearest[pixel]]] = 1
    unknown = cv2.medianBlur(hidden.reshape(height, width), 3) > 0
    nearest = _without_gaps(nearest.reshape(height, width), K[0, 0], options)
    nearest[unknown | (nearest == NOTHING)] = np.nan
    return nearest if scale == 1.0 else nearest[_rows_and_columns(size, scale)]


def _step(z: Float, fx: float, options: DepthOptions) -> Float:
    """By how much (m) the depths of two pixels of one surface differ at most, at depths z m."""
    a = 4 * float(options.sigma_m(1.0, fx) - options.floor_m)
    return z * (np.float32(STEEPEST / fx) + np.float32(a) * z) + np.float32(4 * options.floor_m)


def _on_surface(depth: Depth, step: Float) -> Mask:
    """Mark the pixels (h,w) with two of four neighbours on their own surface; a flying pixel has none."""
    count = np.zeros(depth.shape, np.int8)
    beside = np.abs(depth[:, 1:] - depth[:, :-1]) < step[:, 1:]
    below = np.abs(depth[1:] - depth[:-1]) < step[1:]
    count[:, 1:] += beside
    count[:, :-1] += beside
    count[1:] += below
    count[:-1] += below
    return np.asarray(count >= 2)


def _scaled(K: Array, size: tuple[int, int], scale: float) -> tuple[Array, int, int]:
    """A camera K of a size at scale times its resolution; (0, 0) is the centre of the first pixel."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    K = np.linalg.inv(half) @ np.diag([scale, scale, 1.0]) @ half @ K
    return K, int(np.ceil(size[0] * scale)), int(np.ceil(size[1] * scale))


def _project(depth: Depth, M: Array, shift: Array) -> tuple[Float, Float, Float]:
    """Where the points z M (u,v,1) + shift of the pixels (h,w) are in the image: u, v px, and their z m."""
    rows, columns = (np.arange(n, dtype=np.float32) for n in depth.shape)
    M, shift = M.astype(np.float32), shift.astype(np.float32)
    x, y, z = (depth * (M[i, 0] * columns + (M[i, 1] * rows[:, None] + M[i, 2])) + shift[i] for i in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        return x / z, y / z, z


def _in_image(u: Float, v: Float, z: Float, width: int, height: int) -> tuple[npt.NDArray[np.intp], Float]:
    """The points at pixels u, v that an image shows: the index of the pixel, and z m; (N,) each."""
    with np.errstate(invalid="ignore"):
        shown = (z > 0) & (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
    return np.rint(v[shown]).astype(np.intp) * width + np.rint(u[shown]).astype(np.intp), z[shown]


def _walls(depth: Depth, step: Float, u: Float, v: Float, z: Float) -> tuple[Float, Float, Float]:
    """Points u, v, z (N,) that bound what the depth camera cannot see behind the edges of near things.

    Where the depth (h,w) jumps along a row, with or without a hole in between, the two sides are joined by a
    straight line. Anything may be hidden behind such a wall.
    """
    known = np.isfinite(depth)
    linked = np.abs(depth[:, 1:] - depth[:, :-1]) < step[:, 1:]
    first, last = known.copy(), known.copy()  # of each stretch of surface in a row; they alternate
    first[:, 1:] &= ~linked
    last[:, :-1] &= ~linked
    end, start = np.flatnonzero(last)[:-1], np.flatnonzero(first)[1:]
    close = start - end < WIDEST
    a, b = np.divmod(end[close], depth.shape[1]), np.divmod(start[close], depth.shape[1])
    jump = (a[0] == b[0]) & (np.abs(depth[b] - depth[a]) > step[a])
    a, b = (a[0][jump], a[1][jump]), (b[0][jump], b[1][jump])
    count = np.ceil(np.maximum(np.abs(u[b] - u[a]), np.abs(v[b] - v[a]))).astype(np.intp)
    line = np.repeat(np.arange(len(count)), count)
    share = (np.arange(len(line)) - np.repeat(np.cumsum(count) - count, count) + 0.5) / count[line]
    share = share.astype(np.float32)
    ends = ((u[a], u[b]), (v[a], v[b]), (1 / z[a], 1 / z[b]))  # 1/z is linear along a line in an image
    along = [p[line] + (q - p)[line] * share for p, q in ends]
    return along[0], along[1], 1 / along[2]


def _nearest(pixel: npt.NDArray[np.intp], z: Float, count: int, fx: float, options: DepthOptions) -> Float:
    """Depth (count,) of what is in front in each pixel; points of one surface do not hide each other."""
    buffer = np.full(count, NOTHING)
    while len(z):
        buffer[pixel] = z  # one of several: the next round corrects it where it was not the nearest
        hidden = z + _step(z, fx, options) < buffer[pixel]
        pixel, z = pixel[hidden], z[hidden]
    return buffer


def _without_gaps(depth: Float, fx: float, options: DepthOptions) -> Float:
    """Close single-pixel gaps in a surface, whether they are empty or show what is behind."""
    around = np.asarray(cv2.medianBlur(depth, 3), np.float32)
    return np.where(around + _step(around, fx, options) < depth, around, depth)


def _rows_and_columns(size: tuple[int, int], scale: float) -> tuple[npt.NDArray[np.intp], ...]:
    """Which pixel of the image at a scale each pixel of the full image (width, height) lies in."""
    columns, rows = (((np.arange(n) + 0.5) * scale).astype(np.intp) for n in size)
    return np.ix_(rows, columns)
