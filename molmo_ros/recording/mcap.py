"""Results as an MCAP file that Foxglove shows at once and ``ros2 bag play`` plays.

The messages are those of ROS 2, on the topics of the node, so that one layout fits both (docs/foxglove.md).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from molmo_ros.camera.conversions import depth_millimetres
from molmo_ros.datatypes import Grounding, TargetStatus
from molmo_ros.draw import annotate
from molmo_ros.errors import FrameError
from molmo_ros.recording import messages
from molmo_ros.recording.messages import Content
from molmo_ros.recording.replay import Replayed

# Topic -> type. The frame is stored as the pipeline saw it: rectified, and the depth in the colour image.
TOPICS = {
    "/image": "sensor_msgs/msg/Image",
    "/depth": "sensor_msgs/msg/Image",
    "/camera_info": "sensor_msgs/msg/CameraInfo",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/molmo/targets": "molmo_ros/msg/GraspTargetArray",
    "/molmo/grasp_pose": "geometry_msgs/msg/PoseStamped",
    "/molmo/object_points": "sensor_msgs/msg/PointCloud2",
    "/molmo/markers": "visualization_msgs/msg/MarkerArray",
    "/molmo/annotated": "sensor_msgs/msg/Image",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
}


class McapFile:
    """`recording.output.Output` into FILE.mcap; the file appears when it is closed."""

    def __init__(self, path: str | Path) -> None:
        """Raises: FrameError if it cannot be written there."""
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.rosbag2.enums import CompressionFormat, CompressionMode

        self._path = Path(path).expanduser().absolute()
        self._codec = messages.Codec()
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=".mcap_", dir=self._path.parent))
        except OSError as error:
            raise FrameError(f"Cannot write {path}: {error.strerror}; give another path.") from error
        # A whole bag is written, of which only the one file is kept: MCAP needs no metadata.yaml beside it.
        self._writer = Writer(self._folder / "bag", version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        self._channels: dict[str, Any] = {}

    def add(self, result: Replayed) -> None:
        """A frame and its answer, or why there is none, at the stamp of the frame."""
        for topic, content in contents(result).items():
            kind = TOPICS[topic]
            if topic not in self._channels:
                self._channels[topic] = self._writer.add_connection(topic, kind, typestore=self._codec.store)
            self._writer.write(self._channels[topic], result.stamp_ns, self._codec.encode(kind, content))

    def close(self) -> None:
        """Finish the file and put it in its place. Raises: FrameError if that fails."""
        try:
            self._writer.close()
            os.replace(self._folder / "bag" / "bag.mcap", self._path)
        except OSError as error:
            raise FrameError(
                f"Cannot write {self._path}: {error.strerror}; free some space, or give another path."
            ) from error
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


def contents(result: Replayed) -> dict[str, Content]:
    """Topic -> message of one result."""
    frame, found, stamp_ns = result.frame, result.found, result.stamp_ns
    if frame is None or found is None:
        code = getattr(result.error, "code", "ERROR")
        return {"/diagnostics": messages.diagnostics(str(result.error), {"code": code}, stamp_ns)}
    head, frame_id = messages.header(frame.frame_id, stamp_ns), result.target_frame or frame.frame_id
    shown = annotate(frame.rgb, found.targets or found.answer.points, found.query)
    contents = {
        "/image": messages.image(frame.rgb, "rgb8", head),
        "/depth": messages.image(depth_millimetres(frame.depth), "16UC1", head),
        "/camera_info": messages.camera_info(frame, head),
        "/molmo/targets": messages.targets(found, frame, frame_id),
        "/molmo/object_points": messages.cloud(found.targets, head),
        "/molmo/markers": messages.markers(found.targets, messages.header(frame_id, stamp_ns)),
        "/molmo/annotated": messages.image(shown, "rgb8", head),
        "/diagnostics": messages.diagnostics("", _times(found), stamp_ns),
    }
    if result.T_target_camera is not None:
        contents["/tf"] = messages.transform(result.T_target_camera, frame_id, frame.frame_id, stamp_ns)
    best = next((target for target in found.targets if target.status is TargetStatus.OK), None)
    if best is not None and best.grasp is not None:
        contents["/molmo/grasp_pose"] = {
            "header": messages.header(best.frame_id, best.stamp_ns),
            "pose": messages.pose_message(best.grasp.pose),
        }
    return contents


def _times(found: Grounding) -> dict[str, str]:
    return {f"{stage}_ms": f"{ms:.1f}" for stage, ms in found.stages_ms.items()}
