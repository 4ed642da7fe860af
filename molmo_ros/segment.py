"""The object around a point: what stands out of its support and hangs together there."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from scipy.ndimage import binary_dilation, binary_fill_holes
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull, QhullError, cKDTree

from molmo_ros.camera_info import check_frame
from molmo_ros.cloud import Index, principal_normals, voxel_down, voxel_index, voxel_means
from molmo_ros.datatypes import Array, CameraPoint, ImagePoint, Mask, ObjectSegment, RgbdFrame
from molmo_ros.depth import DepthOptions, valid_depth
from molmo_ros.errors import SegmentError
from molmo_ros.plane import PlaneOptions, support_plane
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
    voxel_m: float = 0.0035
    min_neighbours: int = 3
    reach_m: float = 0.015
    min_points: int = 40
    depth: DepthOptions = field(default_factory=DepthOptions)
    plane: PlaneOptions = field(default_factory=PlaneOptions)


DEFAULT_SEGMENT = SegmentOptions()
SHADING = 0.3  # how much a difference in lightness counts beside one in hue
SAME_COLOUR = 14.0  # in 8-bit L*a*b* so weighted
VALLEY = 0.35  # sine-like measure of how much two faces look at each other
STACKED = 0.9  # share of a cluster above the object's footprint that makes it part of the object


@dataclass(frozen=True)
class _Region:
    """A strided cut of the frame: points (N,3) m at pixels v, u (N,); spacing and sigma m at the seed."""

    points: Array
    v: Index
    u: Index
    stride: int
    spacing: float
    sigma: float


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
    frame, or None; mask (H,W), the object if something else has segmented it already.
    Raises: SegmentError if nothing stands out of the support there, or nothing is separable.
    Source: Ester et al. 1996 (DBSCAN), on voxels.
    """
    check_frame(frame)
    seed = np.asarray(camera_point.position, dtype=np.float64)
    region = _region(frame, seed, options)
    tolerance = max(0.004, 2 * region.sigma)
    plane = support_plane(region.points, seed, tolerance, up, options.plane)
    least = max(options.min_height_m, 2.5 * region.sigma)
    above = np.ones(len(region.points), dtype=np.bool_)
    if plane is not None:
        above = region.points @ plane[:3] + plane[3] > least
    if mask is not None:
        own = above & mask[region.v, region.u]
    else:
        own = np.zeros_like(above)
        colour = _lab(frame, region)[above]
        own[above] = _hangs_together(region.points[above], colour, seed, camera_point, plane, region, options)
    count = int(np.count_nonzero(own))
    if count < options.min_points:
        raise _too_small(point, count, options)
    if plane is None and mask is None and own.mean() > 0.6:
        raise SegmentError(
            f"No support plane was found and {own.mean():.0%} of the surroundings hang together with the "
            f"point ({point.x:.0f}, {point.y:.0f}); show more of the table, or give the direction of up."
        )
    return ObjectSegment(
        mask=_full_mask(frame, region, own, plane, least),
        cloud_m=region.points[own],
        colors=frame.rgb[region.v[own], region.u[own]],
        scene_m=voxel_down(region.points[above & ~own], 0.005)[0],
        plane=plane,
    )


def _region(frame: RgbdFrame, seed: Array, options: SegmentOptions) -> _Region:
    """Cut the surroundings of seed (3,) out of the frame, without flying pixels."""
    fx, fy, cx, cy = frame.K[0, 0], frame.K[1, 1], frame.K[0, 2], frame.K[1, 2]
    height, width = frame.depth.shape
    u0, v0 = fx * seed[0] / seed[2] + cx, fy * seed[1] / seed[2] + cy
    half = options.radius_m * fx / seed[2]
    stride = int(np.clip(round(options.spacing_m * fx / seed[2]), 1, 6))
    v = np.arange(max(int(v0 - half), 1), min(int(v0 + half), height - 1), stride)
    u = np.arange(max(int(u0 - half), 1), min(int(u0 + half), width - 1), stride)
    sigma = float(options.depth.sigma_m(seed[2], fx))
    z = frame.depth[np.ix_(v, u)]
    keep = valid_depth(z, options.depth) & (np.abs(z - seed[2]) < 1.6 * options.radius_m)
    keep &= _attached(frame, z, v, u, 0.005 + 4 * sigma)
    row, column = np.nonzero(keep)
    z = z[row, column].astype(np.float64)
    v, u = v[row], u[column]
    points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], axis=1)
    return _Region(points, v, u, stride, stride * float(seed[2]) / float(fx), sigma)


def _attached(frame: RgbdFrame, z: Array, v: Index, u: Index, step: float) -> Mask:
    """Mark pixels with at least two of four neighbours at about their own depth; a flying pixel has none."""
    count = np.zeros(z.shape, dtype=np.int8)
    for dv, du in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        with np.errstate(invalid="ignore"):
            count += np.abs(frame.depth[np.ix_(v + dv, u + du)] - z) < step
    return np.asarray(count >= 2)


def _hangs_together(
    points: Array,
    colour: Array,
    seed: Array,
    camera_point: CameraPoint,
    plane: Array | None,
    region: _Region,
    o: SegmentOptions,
) -> Mask:
    """Mark the points (N,) that are density-connected with the one nearest to seed (3,)."""
    if len(points) == 0:
        raise _on_support(seed, plane)
    # far away, pixels lie farther apart and depth is noisier than the usual voxel
    coarse = max(1.0, 1.3 * region.spacing / o.voxel_m, 3 * region.sigma / o.eps_m)
    voxel, count = voxel_index(points, coarse * o.voxel_m)
    centres = voxel_means(points, voxel, count)
    tree = cKDTree(centres)
    one_of = np.empty(count, dtype=np.intp)
    one_of[voxel] = np.arange(len(points))  # a mean of two colours would be a bridge between them
    pairs = tree.query_pairs(coarse * o.eps_m, output_type="ndarray")
    degree = np.bincount(pairs.ravel(), minlength=count)
    pairs = pairs[_linked(tree, centres, colour[one_of], pairs, coarse * o.voxel_m)]
    labels = _dbscan(count, pairs, degree >= o.min_neighbours)
    distance, nearest = tree.query(seed, k=min(8, count))
    distance, nearest = np.atleast_1d(distance), np.atleast_1d(nearest)
    spread = np.nan_to_num(camera_point.covariance, nan=0.0)  # unknown, if the model tells no probabilities
    reach = o.reach_m * coarse + 2 * float(np.sqrt(np.linalg.eigvalsh(spread)[0]))
    usable = (labels[nearest] >= 0) & (distance < reach)
    if not usable.any():
        raise _on_support(seed, plane, float(distance[0]))
    own: Mask = labels == labels[nearest[usable][0]]
    if plane is not None:
        own = _with_stacked(centres, labels, own, plane[:3], coarse * o.eps_m)
    return np.asarray(own[voxel])


def _with_stacked(centres: Array, labels: Index, own: Mask, up: Array, cell: float) -> Mask:
    """Add the clusters within the object's footprint, and those above its top that only it can carry.

    A cap hides the neck of its bottle, and a rim the inside of its mug, so that they are seen apart.
    """
    R = frame_with_z(up, np.array([0.0, 0.0, 1.0]))
    flat, height = centres @ R[:, :2], centres @ R[:, 2]
    others = labels >= 0
    groups = labels[others]
    size = np.maximum(np.bincount(groups), 1)
    lowest = np.full(size.size, np.inf)
    np.minimum.at(lowest, groups, height[others])
    within = np.bincount(groups, weights=_in_footprint(flat, own, cell)[others]) / size
    over = np.bincount(groups, weights=_in_hull(flat, own, cell)[others]) / size
    stacked = (within >= STACKED) | ((over >= STACKED) & (lowest > np.quantile(height[own], 0.99)))
    return np.asarray(own | (others & stacked[np.maximum(labels, 0)]))


def _in_footprint(flat: Array, own: Mask, cell: float) -> Mask:
    """Mark the points (N,2) within a cell of m of the object's own, or enclosed by them."""
    column, row = (np.floor((flat - flat.min(axis=0)) / cell).astype(np.intp) + 2).T
    footprint = np.zeros((int(column.max()) + 3, int(row.max()) + 3), dtype=np.bool_)
    footprint[column[own], row[own]] = True
    return np.asarray(binary_fill_holes(binary_dilation(footprint, np.ones((3, 3))))[column, row])


def _in_hull(flat: Array, own: Mask, margin: float) -> Mask:
    """Mark the points (N,2) in the convex hull of the object's own, or within margin m of it."""
    try:
        sides = ConvexHull(flat[own]).equations
    except (QhullError, ValueError):  # on a line, or too few
        return np.zeros(len(flat), dtype=np.bool_)
    return np.asarray((flat @ sides[:, :2].T + sides[:, 2]).max(axis=1) < margin)


def _dbscan(count: int, pairs: Index, core: Mask) -> Index:
    """Label count points linked by pairs (P,2); -1 is noise. A border point takes the label of one core."""
    i, j = pairs.T
    both = core[i] & core[j]
    graph = coo_matrix((np.ones(both.sum(), dtype=np.int8), (i[both], j[both])), shape=(count, count))
    labels: Index = connected_components(graph, directed=False)[1].astype(np.intp)
    labels[~core] = -1
    for a, b in ((i, j), (j, i)):
        border = core[a] & ~core[b]
        labels[b[border]] = labels[a[border]]
    return labels


def _lab(frame: RgbdFrame, region: _Region) -> Array:
    """Return colours (N,3) of the region's pixels in which shading counts less than hue."""
    if len(region.v) == 0:
        return np.zeros((0, 3))
    v0, u0 = region.v.min(), region.u.min()
    cut = np.ascontiguousarray(frame.rgb[v0 : region.v.max() + 1, u0 : region.u.max() + 1])
    own = cv2.medianBlur(cut, 3)[region.v - v0, region.u - u0]
    lab = cv2.cvtColor(own[:, None], cv2.COLOR_RGB2LAB)[:, 0]
    return np.asarray(lab * np.array([SHADING, 1.0, 1.0]))


def _linked(tree: cKDTree, centres: Array, colour: Array, pairs: Index, near: float) -> Mask:
    """Mark the pairs (P,) of neighbouring points (N,3) that belong together by colour and shape.

    Things that touch meet in a valley. Where the colour changes too, that is their border; a label or a
    lid is flush with what it is on, or sticks out of it.
    """
    i, j = pairs.T
    change = colour[i] - colour[j]
    linked = np.einsum("pc,pc->p", change, change) < SAME_COLOUR**2
    d = centres[j] - centres[i]
    length = np.sqrt(np.einsum("pc,pc->p", d, d))
    other = np.flatnonzero(~linked & (length < 1.5 * near))
    if len(other) == 0:
        return np.asarray(linked)
    needed, index = np.unique(np.concatenate([i[other], j[other]]), return_inverse=True)
    n = _normals_by_colour(tree, centres, colour, needed, 3.5 * near)
    turn = n[index[: len(other)]] - n[index[len(other) :]]
    linked[other] = np.einsum("pc,pc->p", d[other], turn) < VALLEY * length[other]
    return np.asarray(linked)


def _normals_by_colour(tree: cKDTree, centres: Array, colour: Array, which: Index, radius: float) -> Array:
    """Estimate normals (W,3) towards the camera from those neighbours that have the point's own colour."""
    distance, index = tree.query(centres[which], k=min(20, len(centres)), distance_upper_bound=radius)
    near = np.isfinite(distance)
    index = np.where(near, index, 0)
    near &= np.linalg.norm(colour[index] - colour[which][:, None], axis=2) < SAME_COLOUR
    return principal_normals(centres[which], centres[index], near)


def _full_mask(frame: RgbdFrame, region: _Region, own: Mask, plane: Array | None, least: float) -> Mask:
    """Spread the strided pixels of the object over the full image, where depth agrees."""
    s = region.stride
    mask = np.zeros(frame.depth.shape, dtype=np.bool_)
    v, u = region.v[own], region.u[own]
    if s == 1:
        mask[v, u] = True
        return mask
    z = region.points[own, 2]
    slack = max(0.006, 4 * region.sigma)
    height, width = frame.depth.shape
    K = frame.K
    for dv in range(-(s // 2), s - s // 2):
        for du in range(-(s // 2), s - s // 2):
            vv, uu = np.clip(v + dv, 0, height - 1), np.clip(u + du, 0, width - 1)
            zz = frame.depth[vv, uu]
            good = np.abs(zz - z) < slack  # NaN is not
            if plane is not None:
                ray = plane[0] * (uu - K[0, 2]) / K[0, 0] + plane[1] * (vv - K[1, 2]) / K[1, 1] + plane[2]
                good &= zz * ray + plane[3] > least
            mask[vv[good], uu[good]] = True
    return mask


def _on_support(seed: Array, plane: Array | None, distance: float | None = None) -> SegmentError:
    where = ""
    if plane is not None:
        where = f" {1000 * float(plane[:3] @ seed + plane[3]):.0f} mm above its support"
    far = "nothing stands out of the support" if distance is None else (
        f"the nearest thing that stands out of it is {1000 * distance:.0f} mm away"
    )
    return SegmentError(f"The point lies{where}, and {far}; ask for a thing that is at least 6 mm high.")


def _too_small(point: ImagePoint, count: int, options: SegmentOptions) -> SegmentError:
    return SegmentError(
        f"Only {count} depth points hang together at ({point.x:.0f}, {point.y:.0f}), and "
        f"{options.min_points} are needed; move the camera closer, or check the depth there."
    )
