"""The object around a point: what stands out from its support and is connected there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from molmo_ros.datatypes import Array, CameraPoint, ImagePoint, Index, Mask, ObjectSegment, RgbdFrame
from molmo_ros.errors import SegmentError
from molmo_ros.perception.cloud import voxel_index, voxel_means
from molmo_ros.perception.cluster import clusters
from molmo_ros.perception.depth import DepthOptions
from molmo_ros.perception.footprint import rim_around, with_stacked, within_reach
from molmo_ros.perception.masked import own_cells, with_small_parts
from molmo_ros.perception.plane import PlaneOptions, support_plane
from molmo_ros.perception.ramps import STEP_M, ramps, regrown
from molmo_ros.perception.region import Cells, Region, silhouette
from molmo_ros.perception.support import refined_near
from molmo_ros.perception.surroundings import surroundings
from molmo_ros.transforms import frame_with_z


@dataclass(frozen=True)
class SegmentOptions:
    """radius_m: half size of the region looked at. spacing_m: wanted distance of the points in it.
    min_height_m: anything lower belongs to the support. eps_m, voxel_m, min_neighbours: DBSCAN. reach_m: how
    far from the point the object may begin. min_points: fewer are not an object.
    """

    radius_m: float = 0.22
    spacing_m: float = 0.0018
    min_height_m: float = 0.006
    eps_m: float = 0.008
    voxel_m: float = 0.004
    min_neighbours: int = 3
    reach_m: float = 0.015
    min_points: int = 40
    depth: DepthOptions = field(default_factory=DepthOptions)
    plane: PlaneOptions = field(default_factory=PlaneOptions)


Masker = Callable[[Array | None], Mask]
DEFAULT_SEGMENT = SegmentOptions()
RISES_M, CONTAINER_M = 0.012, 0.14  # a rim is this much higher than its floor, and this near to a point on it
SHADING = 0.3  # weight of a difference in lightness relative to one in hue
PLANE_POINTS = 4000  # to which the support is fitted
AROUND_M, MOST_M = 0.08, 0.5  # of table included around a mask, and of the region at most
LOWEST_M, SUPPORT_M = 0.001, 0.006  # anything lower belongs to the support: for a low thing, for any


def segment_object(
    frame: RgbdFrame,
    point: ImagePoint,
    camera_point: CameraPoint,
    up: Array | None = None,
    mask: Mask | Masker | None = None,
    options: SegmentOptions = DEFAULT_SEGMENT,
) -> ObjectSegment:
    """Separate the object at an image point from its support and from its neighbours.

    Args: camera_point, the same point lifted; up (3,), direction away from the ground in the camera
    frame, or None; mask (H,W), the object if something else segments it, or a function of the support plane
    that returns it. The frame must have passed `camera_info.check_frame`.
    Raises: SegmentError if nothing stands out from the support there, or nothing is separable.
    Source: Ester et al. 1996 (DBSCAN), on voxels.
    """
    seed = np.asarray(camera_point.position, dtype=np.float64)
    region = Region.around(frame, seed, options.radius_m, options.spacing_m, options.depth)
    tolerance = max(0.004, 2 * region.sigma)
    plane = support_plane(region.thinned(PLANE_POINTS), seed, tolerance, up, options.plane)
    least = max(options.min_height_m, 2.5 * region.sigma)
    if callable(mask):
        mask = mask(plane)
    if mask is not None and (radius := _radius(frame, mask, seed, options.radius_m)) > options.radius_m:
        region = Region.around(frame, seed, radius, options.spacing_m, options.depth)
    ramp = ramps(region, frame.K, None if plane is None else plane[:3])
    if mask is None:
        cells, whole = _by_geometry(frame, point, camera_point, region, plane, ramp, least, options)
        kept = 1.0
    else:
        plane = refined_near(region, plane, mask, ramp, tolerance)
        cells, whole = _by_mask(frame, region, plane, mask, ramp, seed), mask
        kept = _kept(region, cells, mask, ramp)
    if len(cells.v) < options.min_points:
        raise _too_small(point, len(cells.v), options)
    return ObjectSegment(
        mask=whole,
        cloud_m=cells.points,
        colors=frame.rgb[cells.v, cells.u],
        scene_m=surroundings(frame, whole, cells.points, plane, least, options.depth),
        plane=plane,
        kept=kept,
        bounds=region.bounds(),
    )


def _radius(frame: RgbdFrame, mask: Mask, seed: Array, least: float) -> float:
    """Return half the size (m) of a region around the seed that holds a mask (H,W) and some table."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return least
    K = frame.K
    u, v = seed[0] / seed[2] * K[0, 0] + K[0, 2], seed[1] / seed[2] * K[1, 1] + K[1, 2]
    far = max(abs(rows[0] - v), abs(rows[-1] - v), abs(columns[0] - u), abs(columns[-1] - u))
    return float(np.clip(far * seed[2] / K[0, 0] + AROUND_M, least, MOST_M))


def _by_mask(
    frame: RgbdFrame, region: Region, plane: Array | None, mask: Mask, ramp: Mask, seed: Array
) -> Cells:
    """Return the object's cells, given its mask (H,W); for a low thing, including those that hardly stand
    out."""
    cells = region.above(plane, LOWEST_M)
    inside = cells.take(mask[cells.v, cells.u])
    if plane is not None and len(inside.v):
        height = inside.points @ plane[:3] + plane[3]
        cells = inside.take(height > min(SUPPORT_M, 0.3 * float(np.quantile(height, 0.9))))
    cells = cells.take(region.attached(frame, cells))
    return cells.take(own_cells(region, cells, mask, ramp[cells.row, cells.column], seed))


def _kept(region: Region, cells: Cells, mask: Mask, ramp: Mask) -> float:
    """Return the share of the cells in a mask (H,W), except those on ramps (h,w), that are the object's own.

    Enclosed cells are: the floor of a mug lies as low as the table.
    """
    inside = mask[np.ix_(region.v, region.u)] & np.isfinite(region.z)
    own = silhouette(region.grid(cells) | (inside & ramp))
    count = np.count_nonzero(inside & ~ramp)
    return float(np.count_nonzero(inside & ~ramp & own) / count) if count else 1.0


def _by_geometry(
    frame: RgbdFrame,
    point: ImagePoint,
    camera_point: CameraPoint,
    region: Region,
    plane: Array | None,
    ramp: Mask,
    least: float,
    options: SegmentOptions,
) -> tuple[Cells, Mask]:
    """Return the object's cells and its mask (H,W): what is connected to the point, other than by ramps."""
    all_cells = region.above(plane, least)
    all_cells = all_cells.take(region.attached(frame, all_cells))
    steep = ramp[all_cells.row, all_cells.column]
    cells = all_cells.take(~steep)
    own = _with_container(frame, cells, camera_point, plane, region, options)
    if plane is None and own.mean() > 0.6:
        raise SegmentError(
            f"No support plane was found, and {own.mean():.0%} of the surroundings are connected with the "
            f"point ({point.x:.0f}, {point.y:.0f}); show more of the table, or give the direction of up."
        )
    if not own.any():
        raise _too_small(point, 0, options)
    whole = regrown(region.z, region.grid(cells, own), region.grid(all_cells, steep), STEP_M)
    whole = with_small_parts(region, whole, cells.take(~own))
    mine = all_cells.take(whole[all_cells.row, all_cells.column])
    return mine, region.full_mask(frame, mine, plane, least)


def _with_container(
    frame: RgbdFrame,
    cells: Cells,
    camera_point: CameraPoint,
    plane: Array | None,
    region: Region,
    o: SegmentOptions,
) -> Mask:
    """Mark the cells (N,) that are connected to the one nearest to the lifted point.

    If the point lies on a floor, low and flat, with a rim all around, they are those of the rim's thing.
    """
    seed = np.asarray(camera_point.position, dtype=np.float64)
    if len(cells.v) == 0:
        raise _on_support(seed, plane)
    # far away, pixels lie farther apart, and depth is noisier, than the usual voxel
    coarse = max(1.0, 1.3 * region.spacing / o.voxel_m, 3 * region.sigma / o.eps_m)
    spread = np.nan_to_num(camera_point.covariance, nan=0.0)  # unknown, if the model returns no probabilities
    reach = o.reach_m * coarse + 2 * float(np.sqrt(np.linalg.eigvalsh(spread)[0]))
    if plane is None:
        everything = np.ones(len(cells.v), dtype=np.bool_)
        own = _connected(frame, cells, everything, seed, plane, coarse, reach, o)
        return _found(own, cells, seed, plane)
    R = frame_with_z(plane[:3], np.array([0.0, 0.0, 1.0]))
    flat, height = cells.points @ R[:, :2], cells.points @ plane[:3] + plane[3]
    near = within_reach(flat, seed @ R[:, :2], coarse * o.eps_m, reach)
    own = _connected(frame, cells, near, seed, plane, coarse, reach, o)
    level = float(seed @ plane[:3] + plane[3])
    if own is None or float(np.quantile(height[own], 0.95)) < level + RISES_M:
        rim = rim_around(flat, height, seed @ R[:, :2], level + RISES_M)
        if rim is not None:
            start = cells.points[rim]
            wide = np.linalg.norm(flat - seed @ R[:, :2], axis=1) < CONTAINER_M
            rims = _connected(frame, cells, wide, start, plane, coarse, reach, o)
            own = rims if rims is None or own is None else own | rims
    return _found(own, cells, seed, plane)


def _found(own: Mask | None, cells: Cells, seed: Array, plane: Array | None) -> Mask:
    """Return own. Raises: SegmentError if it is None."""
    if own is None:
        raise _on_support(seed, plane, float(np.linalg.norm(cells.points - seed, axis=1).min()))
    return own


def _connected(
    frame: RgbdFrame,
    cells: Cells,
    near: Mask,
    seed: Array,
    plane: Array | None,
    coarse: float,
    reach: float,
    o: SegmentOptions,
) -> Mask | None:
    """Mark those of the cells near (N,) connected to what is within reach m of seed (3,), or None."""
    if not near.any():
        return None
    eps, edge = coarse * o.eps_m, coarse * o.voxel_m
    around = cells.take(near)
    voxel, count = voxel_index(around.points, edge)
    centres = voxel_means(around.points, voxel, count)
    one_of = np.empty(count, dtype=np.intp)
    one_of[voxel] = np.arange(len(voxel))  # a mean of two colours would bridge them
    height = np.full(count, np.inf) if plane is None else centres @ plane[:3] + plane[3]
    labels = clusters(centres, _lab(frame, around, one_of), height, eps, edge, o.min_neighbours)
    distance = np.linalg.norm(centres - seed, axis=1)
    nearest = np.argpartition(distance, min(7, len(distance) - 1))[:8]
    nearest = nearest[np.argsort(distance[nearest])]
    usable = nearest[(labels[nearest] >= 0) & (distance[nearest] < reach)]
    if len(usable) == 0:
        return None
    own: Mask = labels == labels[usable[0]]
    if plane is not None:
        R = frame_with_z(plane[:3], np.array([0.0, 0.0, 1.0]))
        own = with_stacked(centres @ R[:, :2], height, labels, own, eps)
    result = np.zeros(len(cells.v), dtype=np.bool_)
    result[near] = own[voxel]
    return result


def _lab(frame: RgbdFrame, cells: Cells, which: Index) -> Array:
    """Return colours (W,3) of some of the cells, in which shading counts less than hue."""
    v0, u0 = cells.v.min(), cells.u.min()
    cut = np.ascontiguousarray(frame.rgb[v0 : cells.v.max() + 1, u0 : cells.u.max() + 1])
    own = cv2.medianBlur(cut, 3)[cells.v[which] - v0, cells.u[which] - u0]
    lab = cv2.cvtColor(own[:, None], cv2.COLOR_RGB2LAB)[:, 0]
    return np.asarray(lab * np.array([SHADING, 1.0, 1.0], dtype=np.float32))


def _on_support(seed: Array, plane: Array | None, distance: float | None = None) -> SegmentError:
    where = ""
    if plane is not None:
        height = 1000 * float(plane[:3] @ seed + plane[3])
        where = f" {abs(height):.0f} mm {'above' if height >= 0 else 'below'} what was taken for its support"
    far = (
        "nothing stands out of the support"
        if distance is None
        else (f"the nearest thing that stands out of it is {1000 * distance:.0f} mm away")
    )
    return SegmentError(f"The point lies{where}, and {far}; ask for a thing that is at least 6 mm high.")


def _too_small(point: ImagePoint, count: int, options: SegmentOptions) -> SegmentError:
    return SegmentError(
        f"Only {count} depth points at ({point.x:.0f}, {point.y:.0f}) are one surface that stands out of its "
        f"support, and {options.min_points} are needed; point at a part that is higher or nearer, or look "
        "from another side."
    )
