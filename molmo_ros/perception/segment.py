"""The object around a point: what stands out of its support and hangs together there."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from molmo_ros.datatypes import Array, CameraPoint, ImagePoint, Mask, ObjectSegment, RgbdFrame
from molmo_ros.errors import SegmentError
from molmo_ros.perception.cloud import Index, voxel_down, voxel_index, voxel_means
from molmo_ros.perception.cluster import clusters
from molmo_ros.perception.depth import DepthOptions
from molmo_ros.perception.footprint import with_stacked, within_reach
from molmo_ros.perception.plane import PlaneOptions, support_plane
from molmo_ros.perception.region import Cells, Region
from molmo_ros.transforms import frame_with_z


@dataclass(frozen=True)
class SegmentOptions:
    """radius_m: half size of the region looked at. spacing_m: wanted distance of the points in it.
    min_height_m: what is lower belongs to the support. eps_m, voxel_m, min_neighbours: DBSCAN.
    reach_m: how far from the point the object may begin. min_points: fewer are no object.
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


DEFAULT_SEGMENT = SegmentOptions()
SHADING = 0.3  # how much a difference in lightness counts beside one in hue
PLANE_POINTS = 4000  # that the support is fitted to
SCENE_M = 0.005  # distance of the points that tell what a hand must not hit


def segment_object(
    frame: RgbdFrame,
    point: ImagePoint,
    camera_point: CameraPoint,
    up: Array | None = None,
    mask: Mask | None = None,
    options: SegmentOptions = DEFAULT_SEGMENT,
) -> ObjectSegment:
    """Separate the object at an image point from its support and from its neighbours.

    Args: camera_point, the same point lifted; up (3,), direction away from the ground in the camera
    frame, or None; mask (H,W), the object if something else has segmented it already. The frame must have
    passed `camera_info.check_frame`.
    Raises: SegmentError if nothing stands out of the support there, or nothing is separable.
    Source: Ester et al. 1996 (DBSCAN), on voxels.
    """
    seed = np.asarray(camera_point.position, dtype=np.float64)
    region = Region.around(frame, seed, options.radius_m, options.spacing_m, options.depth)
    tolerance = max(0.004, 2 * region.sigma)
    plane = support_plane(region.thinned(PLANE_POINTS), seed, tolerance, up, options.plane)
    least = max(options.min_height_m, 2.5 * region.sigma)
    cells = region.above(plane, least)
    cells = cells.take(region.attached(frame, cells))
    if mask is not None:
        own = mask[cells.v, cells.u]
    else:
        own = _hangs_together(frame, cells, camera_point, plane, region, options)
    count = int(np.count_nonzero(own))
    if count < options.min_points:
        raise _too_small(point, count, options)
    if plane is None and mask is None and own.mean() > 0.6:
        raise SegmentError(
            f"No support plane was found and {own.mean():.0%} of the surroundings hang together with the "
            f"point ({point.x:.0f}, {point.y:.0f}); show more of the table, or give the direction of up."
        )
    mine = cells.take(own)
    return ObjectSegment(
        mask=region.full_mask(frame, mine, plane, least),
        cloud_m=mine.points,
        colors=frame.rgb[mine.v, mine.u],
        scene_m=voxel_down(cells.points[~own], SCENE_M)[0],
        plane=plane,
    )


def _hangs_together(
    frame: RgbdFrame,
    cells: Cells,
    camera_point: CameraPoint,
    plane: Array | None,
    region: Region,
    o: SegmentOptions,
) -> Mask:
    """Mark the cells (N,) that hang together with the one nearest to the lifted point."""
    seed = np.asarray(camera_point.position, dtype=np.float64)
    if len(cells.v) == 0:
        raise _on_support(seed, plane)
    # far away, pixels lie farther apart and depth is noisier than the usual voxel
    coarse = max(1.0, 1.3 * region.spacing / o.voxel_m, 3 * region.sigma / o.eps_m)
    eps, edge = coarse * o.eps_m, coarse * o.voxel_m
    spread = np.nan_to_num(camera_point.covariance, nan=0.0)  # unknown, if the model tells no probabilities
    reach = o.reach_m * coarse + 2 * float(np.sqrt(np.linalg.eigvalsh(spread)[0]))
    near = np.ones(len(cells.v), dtype=np.bool_)
    if plane is not None:
        R = frame_with_z(plane[:3], np.array([0.0, 0.0, 1.0]))
        near = within_reach(cells.points @ R[:, :2], seed @ R[:, :2], eps, reach)
    if not near.any():
        raise _on_support(seed, plane, float(np.linalg.norm(cells.points - seed, axis=1).min()))
    around = cells.take(near)
    voxel, count = voxel_index(around.points, edge)
    centres = voxel_means(around.points, voxel, count)
    one_of = np.empty(count, dtype=np.intp)
    one_of[voxel] = np.arange(len(voxel))  # a mean of two colours would be a bridge between them
    height = np.full(count, np.inf) if plane is None else centres @ plane[:3] + plane[3]
    labels = clusters(centres, _lab(frame, around, one_of), height, eps, edge, o.min_neighbours)
    distance = np.linalg.norm(centres - seed, axis=1)
    nearest = np.argpartition(distance, min(7, len(distance) - 1))[:8]
    nearest = nearest[np.argsort(distance[nearest])]
    usable = nearest[(labels[nearest] >= 0) & (distance[nearest] < reach)]
    if len(usable) == 0:
        raise _on_support(seed, plane, float(distance.min()))
    own: Mask = labels == labels[usable[0]]
    if plane is not None:
        own = with_stacked(centres @ R[:, :2], height, labels, own, eps)
    near[near] = own[voxel]
    return near


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
        where = f" {1000 * float(plane[:3] @ seed + plane[3]):.0f} mm above its support"
    far = (
        "nothing stands out of the support"
        if distance is None
        else (f"the nearest thing that stands out of it is {1000 * distance:.0f} mm away")
    )
    return SegmentError(f"The point lies{where}, and {far}; ask for a thing that is at least 6 mm high.")


def _too_small(point: ImagePoint, count: int, options: SegmentOptions) -> SegmentError:
    return SegmentError(
        f"Only {count} depth points hang together at ({point.x:.0f}, {point.y:.0f}), and "
        f"{options.min_points} are needed; move the camera closer, or check the depth there."
    )
