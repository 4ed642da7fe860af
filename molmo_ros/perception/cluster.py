"""What is connected in a cloud, by distance, colour and shape."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from molmo_ros.datatypes import Array, Index, Mask
from molmo_ros.perception.cloud import moments, normals_of_moments

SAME_COLOUR = 14.0  # in 8-bit L*a*b*, in which lightness counts less
VALLEY = 0.1  # sine-like measure of how much two faces look at each other, mean of a border
SPOT = 0.5  # pairs across a border, per root of the smaller patch's points: fewer are a mere touch
LOW_M, LOW_VALLEY = 0.018, 0.7  # the table hides most of a thing this low; its normals are not to be trusted


def clusters(
    points: Array, colour: Array, height: Array, eps: float, near: float, min_neighbours: int
) -> Index:
    """Label points (N,3) m that are connected; -1 is noise. colour (N,3), height (N,) m above the support.

    Patches of one colour are found first, by DBSCAN (Ester et al. 1996) with neighbours within eps m. Then
    patches that meet are joined, unless they meet in a valley: that is what touching things do, while a label
    or a lid is flush with what it is on, or sticks out of it. Borders are points within 1.5 near m.
    """
    tree = cKDTree(points, balanced_tree=False, compact_nodes=False)
    i, j = tree.query_pairs(eps, output_type="ndarray").T.copy()
    core = np.bincount(np.concatenate([i, j]), minlength=len(points)) >= min_neighbours
    change = sum((c[i] - c[j]) ** 2 for c in np.ascontiguousarray(colour.T))
    same, other = np.flatnonzero(change < SAME_COLOUR**2), np.flatnonzero(change >= SAME_COLOUR**2)
    a, b = i[other], j[other]
    i, j = i[same], j[same]
    patch = _connected(len(points), i, j, core)
    d = points[b] - points[a]
    length = np.sqrt(np.einsum("pc,pc->p", d, d))
    meet = (length < 1.5 * near) & (patch[a] != patch[b]) & (patch[a] >= 0) & (patch[b] >= 0)
    a, b, d = a[meet], b[meet], d[meet] / length[meet, None]
    if len(a) == 0:
        return patch
    which, index = np.unique(np.concatenate([a, b]), return_inverse=True)
    n = _normals(points, i, j, which)
    valley = np.einsum("pc,pc->p", d, n[index[: len(a)]] - n[index[len(a) :]])
    return _joined(patch, patch[a], patch[b], valley, height)


def _connected(count: int, i: Index, j: Index, core: Mask) -> Index:
    """Label points linked by pairs i, j (P,); -1 is noise. A border point takes the label of one core
    point."""
    both = np.flatnonzero(core[i] & core[j])
    graph = coo_matrix((np.ones(len(both)), (i[both], j[both])), shape=(count, count))
    labels: Index = connected_components(graph, directed=False)[1].astype(np.intp)
    labels[~core] = -1
    for a, b in ((i, j), (j, i)):
        border = core[a] & ~core[b]
        labels[b[border]] = labels[a[border]]
    return labels


def _joined(patch: Index, a: Index, b: Index, valley: Array, height: Array) -> Index:
    """Relabel points (N,) so that patches have one label where no valley is between them.

    Decided by the patches a and b (P,) of pairs of points across their borders, by the mean over all pairs of
    a border: single ones are dominated by noise. Where they meet only at a spot, it tells nothing.
    """
    count = int(patch.max()) + 1
    border, index = np.unique(np.minimum(a, b) * count + np.maximum(a, b), return_inverse=True)
    length = np.bincount(index)
    depth = np.bincount(index, weights=valley) / length
    top = np.zeros(count)
    np.maximum.at(top, patch[patch >= 0], height[patch >= 0])
    a, b = np.divmod(border, count)
    low = np.minimum(top[a], top[b]) < LOW_M
    size = np.bincount(patch[patch >= 0])
    spot = length <= SPOT * np.sqrt(np.minimum(size[a], size[b]))
    flush = (depth < np.where(low, LOW_VALLEY, VALLEY)) & (low | ~spot)
    graph = coo_matrix((np.ones(flush.sum()), (a[flush], b[flush])), shape=(count, count))
    thing = connected_components(graph, directed=False)[1].astype(np.intp)
    return np.where(patch >= 0, thing[patch], -1)


def _normals(points: Array, i: Index, j: Index, which: Index) -> Array:
    """Estimate normals (W,3), towards the camera, of some of points (N,3) from those they are paired with."""
    row = np.full(len(points), -1, dtype=np.intp)
    row[which] = np.arange(len(which))
    begin, end = np.flatnonzero(row[i] >= 0), np.flatnonzero(row[j] >= 0)
    of, neighbour = np.concatenate([row[i[begin]], row[j[end]]]), np.concatenate([j[begin], i[end]])
    m = moments(points)
    sums = [np.bincount(of, weights=column[neighbour], minlength=len(which)) for column in m.T]
    return normals_of_moments(points[which], np.stack(sums, axis=1) + m[which])
