"""Errors of a depth sensor, measured in its images without knowing the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from molmo_ros.datatypes import AnyArray, Array, Depth

REACH = 14  # px: how far away the plateaus on both sides of a jump are looked for
JUMPS_M = {"20-60 mm": (0.02, 0.06), "60-250 mm": (0.06, 0.25)}
TILE = 48  # px, side of the patches of a plane
NEAR_PLANE_M = 0.02
MAX_RANGE_M = 1.5  # what a gripper can reach; beyond it nothing is measured


@dataclass
class Tally:
    """Samples of all frames of one sensor, 640 px wide.

    widths: 10-90 % width px of ramps, by size of the jump; steps: the same for only the right borders of near
    things, where stereo has no shadow; left, right: width px of the hole at the left and
    right border of near things; local, wide: deviation, mm at 1 m, of a plane's patches from their own fit
    and from the whole plane; size: correlation length px; holes: share of the image without depth,
    inner: the same without the left tenth.
    """

    widths: dict[str, list[int]] = field(default_factory=lambda: {k: [] for k in JUMPS_M})
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    local: list[float] = field(default_factory=list)
    wide: list[float] = field(default_factory=list)
    size: list[float] = field(default_factory=list)
    holes: list[float] = field(default_factory=list)
    inner: list[float] = field(default_factory=list)

    def add(self, depth: Depth) -> None:
        """Measure one depth image (H,W) m."""
        hole = ~np.isfinite(depth)
        self.holes.append(float(hole.mean()))
        self.inner.append(float(hole[:, depth.shape[1] // 10 :].mean()))
        near = np.where(depth < MAX_RANGE_M, depth, np.nan)
        for lines in (near, near.T):
            for name, widths in ramp_widths(lines).items():
                self.widths[name] += widths
        left, right = border_holes(near)
        self.left += left
        self.right += right
        for local, wide, size in plane_patches(near):
            self.local.append(local)
            self.wide.append(wide)
            self.size.append(size)


def ramp_widths(lines: Array) -> dict[str, list[int]]:
    """10-90 % widths px of jumps along the rows of lines (N,M) m, by size of the jump.

    A jump is a place of steepest change, with measured depth all around and flat ground on both sides.
    """
    found: dict[str, list[int]] = {k: [] for k in JUMPS_M}
    steep = np.abs(lines[:, 2:] - lines[:, :-2])
    steep = np.pad(np.nan_to_num(steep), ((0, 0), (1, 1)))
    peak = cv2.dilate(steep.astype(np.float32), np.ones((1, 2 * REACH + 1), np.uint8))
    v, u = np.nonzero((steep >= peak) & (steep > 0.003))
    inside = (u >= REACH + 6) & (u < lines.shape[1] - REACH - 6)
    for row, at in zip(v[inside], u[inside], strict=True):
        window = lines[row, at - REACH - 6 : at + REACH + 7]
        if not np.isfinite(window).all():
            continue
        before, after = window[:7], window[-7:]
        a, b = before[-1], after[0]
        jump = abs(b - a)
        if max(np.ptp(before), np.ptp(after)) > 0.15 * jump:
            continue
        if jump < JUMPS_M["20-60 mm"][0]:
            continue
        share = (window - a) / (b - a)
        width = int(np.count_nonzero((share > 0.1) & (share < 0.9)))
        for name, (low, high) in JUMPS_M.items():
            if low <= jump < high:
                found[name].append(width)
    return found


def border_holes(depth: Depth, jump: float = 0.03, longest: int = 60) -> tuple[list[int], list[int]]:
    """Widths px of the holes where rows cross into near things (left border) and out of them (right)."""
    left: list[int] = []
    right: list[int] = []
    for row in depth:
        seen = np.flatnonzero(np.isfinite(row))
        z = row[seen]
        step, gap = np.diff(z), np.diff(seen) - 1
        for k in np.flatnonzero((np.abs(step) > jump) & (gap <= longest)):
            (left if step[k] < 0 else right).append(int(gap[k]))
    return left, right


def plane_patches(depth: Depth) -> list[tuple[float, float, float]]:
    """(local, wide, size) of patches of the largest plane; see Tally. In mm at 1 m: errors grow with z^2."""
    height, width = depth.shape
    v, u = np.mgrid[:height, :width]
    rows = np.stack([u / width, v / width, np.ones_like(u, float)], -1)
    inverse = 1 / depth  # of a plane it is linear in u and v
    plane = _largest_plane(rows, inverse)
    off = (inverse - rows @ plane) * 1000  # mm at 1 m, towards the camera
    on = np.abs(off) < NEAR_PLANE_M * 1000
    found = []
    for y in range(0, height - TILE + 1, TILE):
        for x in range(0, width - TILE + 1, TILE):
            at = np.s_[y : y + TILE, x : x + TILE]
            if on[at].mean() < 0.98:
                continue
            known = on[at].ravel()
            here, residual = rows[at].reshape(-1, 3), off[at].ravel()
            fit = np.linalg.lstsq(here[known], residual[known], rcond=None)[0]
            rest = np.where(known, residual - here @ fit, 0).reshape(TILE, TILE)
            if np.abs(rest).max() < 12:  # nothing lies there
                found.append(
                    (float(rest.std()), abs(float(residual[known].mean())), correlation_length(rest))
                )
    return found


def _largest_plane(rows: Array, inverse: Array) -> Array:
    """RANSAC: (3,) so that rows (H,W,3) @ plane is the inverse depth of most pixels."""
    rng = np.random.default_rng(0)
    known = np.isfinite(inverse)
    a, b = rows[known], inverse[known]
    pick = rng.integers(0, len(b), 4000)
    a, b = a[pick], b[pick]
    best: AnyArray = np.zeros(3)
    most = -1
    for _ in range(300):
        three = rng.integers(0, len(b), 3)
        if abs(np.linalg.det(a[three])) < 1e-4:
            continue
        plane = np.linalg.solve(a[three], b[three])
        count = int(np.count_nonzero(np.abs(a @ plane - b) < 0.008))
        best, most = (plane, count) if count > most else (best, most)
    for _ in range(3):
        on = np.abs(a @ best - b) < 0.01
        best = np.linalg.lstsq(a[on], b[on], rcond=None)[0]
    return np.asarray(best)


def correlation_length(field_: Array) -> float:
    """Shift px at which the autocorrelation of (H,W) along its rows falls below 1/e."""
    centred = field_ - field_.mean()
    for shift in range(1, centred.shape[1] // 2):
        if (centred[:, shift:] * centred[:, :-shift]).mean() < centred.var() / np.e:
            return float(shift)
    return float(centred.shape[1] / 2)
