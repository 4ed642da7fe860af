"""The transforms in a recording, looked up at a stamp: what tf2 does, for recorded frames."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from molmo_ros.camera.conversions import stamp_to_ns
from molmo_ros.datatypes import Array
from molmo_ros.errors import TransformError
from molmo_ros.transforms import invert, make_transform, matrix_from_quaternion

TF, TF_STATIC = "/tf", "/tf_static"


@dataclass
class _Edge:
    """Poses of a frame in its parent, by stamp; a static one has a single pose that always holds."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    poses: list[Array] = field(default_factory=list)  # (4,4)

    def at(self, child: str, stamp_ns: int) -> Array:
        """Interpolated between its neighbours, as tf2 does; never beyond the ends."""
        if self.static:
            return self.poses[-1]
        i = bisect_left(self.stamps, stamp_ns)
        if i < len(self.stamps) and self.stamps[i] == stamp_ns:
            return self.poses[i]
        if i in (0, len(self.stamps)):
            gap_s = ((self.stamps[0] - stamp_ns) if i == 0 else (stamp_ns - self.stamps[-1])) / 1e9
            raise TransformError(
                f"The transform from {child!r} to {self.parent!r} {'begins' if i == 0 else 'ends'} "
                f"{gap_s:.3f} s {'after' if i == 0 else 'before'} the image; record tf for longer."
            )
        before, after = self.poses[i - 1], self.poses[i]
        share = (stamp_ns - self.stamps[i - 1]) / (self.stamps[i] - self.stamps[i - 1])
        turn = Slerp([0.0, 1.0], Rotation.from_matrix(np.stack([before[:3, :3], after[:3, :3]])))
        shift = (1 - share) * before[:3, 3] + share * after[:3, 3]
        return make_transform(np.asarray(turn(share).as_matrix()), shift)


class BagTransforms:
    """All of /tf and /tf_static of a recording."""

    def __init__(self, messages: Iterable[tuple[str, Any]]) -> None:
        """messages: (topic, tf2_msgs/TFMessage)."""
        self._edges: dict[str, _Edge] = {}
        stamped = [(topic, t) for topic, msg in messages for t in msg.transforms]
        for topic, transform in sorted(stamped, key=lambda pair: stamp_to_ns(pair[1].header.stamp)):
            self._add(transform, static=topic == TF_STATIC)

    def _add(self, transform: Any, static: bool) -> None:
        child, parent = transform.child_frame_id.lstrip("/"), transform.header.frame_id.lstrip("/")
        edge = self._edges.get(child)
        if edge is None or edge.parent != parent:
            edge = self._edges[child] = _Edge(parent, static)
        rotation, shift = transform.transform.rotation, transform.transform.translation
        turn = matrix_from_quaternion(np.array([rotation.x, rotation.y, rotation.z, rotation.w]))
        edge.stamps.append(stamp_to_ns(transform.header.stamp))
        edge.poses.append(make_transform(turn, np.array([shift.x, shift.y, shift.z])))

    def lookup(self, target_frame: str, camera_frame: str, stamp_ns: int) -> Array | None:
        """T_target_camera (4,4) at a stamp; None if both are the same, or no target frame is wanted.

        Raises: TransformError if the frames are not connected, or not at that time.
        """
        target_frame, camera_frame = target_frame.lstrip("/"), camera_frame.lstrip("/")
        if target_frame in ("", camera_frame):
            return None
        up_camera, up_target = self._way_up(camera_frame), self._way_up(target_frame)
        common = next((frame for frame in up_camera if frame in up_target), None)
        if common is None:
            known = sorted({*self._edges, *(edge.parent for edge in self._edges.values())})
            raise TransformError(
                f"The tf of this bag does not connect {camera_frame!r} with {target_frame!r}; it has "
                f"{', '.join(known[:20]) or 'no frames'}. Record /tf and /tf_static, or omit --target-frame."
            )
        T_common_camera = self._climb(up_camera, common, stamp_ns)
        return invert(self._climb(up_target, common, stamp_ns)) @ T_common_camera

    def _way_up(self, frame: str) -> list[str]:
        """The frame, its parent, and so on; ends at a root, or where a loop closes."""
        way = [frame]
        while way[-1] in self._edges and self._edges[way[-1]].parent not in way:
            way.append(self._edges[way[-1]].parent)
        return way

    def _climb(self, way: list[str], top: str, stamp_ns: int) -> Array:
        """T_top_frame of the first frame of ``way``."""
        T = np.eye(4)
        for child in way[: way.index(top)]:
            T = self._edges[child].at(child, stamp_ns) @ T
        return T
