"""Results as a recording for the Rerun viewer (rerun FILE.rrd).

Entities: ``camera`` with ``camera/image`` and ``camera/depth``; the points of the answer,
``camera/image/points``; in the frame of the targets the coloured cloud, ``scene``, the objects' points,
``object``, and the shapes of the targets, ``targets/*``; ``query``, ``answer`` and ``log`` as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from molmo_ros.datatypes import GraspTarget, Grounding, RgbdFrame
from molmo_ros.draw.cloud import make_cloud
from molmo_ros.draw.shapes import Kind, Shape, object_points, point_text, target_shapes
from molmo_ros.errors import FrameError
from molmo_ros.recording.replay import Replayed
from molmo_ros.transforms import transform_points

if TYPE_CHECKING:
    from rerun import RecordingStream

APPLICATION = "molmo_ros"
JPEG_QUALITY = 90
CLOUD_STEP = 2  # every how many pixels the scene's cloud has a point
POINT_PX, POINT_M = 6.0, 0.0015  # radii of drawn points


class RerunFile:
    """`recording.output.Output` into FILE.rrd, with a layout of its views."""

    def __init__(self, path: str | Path) -> None:
        """Raises: FrameError if it cannot be written there; ModuleNotFoundError without rerun-sdk."""
        import rerun as rr

        self._stream = rr.RecordingStream(APPLICATION)
        try:
            self._stream.save(path, default_blueprint=_views())
        except RuntimeError as error:
            raise FrameError(f"Cannot write {path}: {error}; give another path.") from error

    def add(self, result: Replayed) -> None:
        """A frame and its answer, or why there is none, at the stamp of the frame."""
        import rerun as rr

        stream = self._stream
        stream.set_time("frame", sequence=result.number)
        stream.set_time("stamp", timestamp=np.datetime64(result.stamp_ns, "ns"))
        if result.frame is None or result.found is None:
            stream.log("log", rr.TextLog(str(result.error), level="ERROR"))
            return
        _log_camera(stream, result.frame, result)
        _log_answer(stream, result.found)
        _log_targets(stream, result.found.targets, result)

    def close(self) -> None:
        """Flush the file."""
        self._stream.flush()
        self._stream.disconnect()


def _views() -> Any:
    """Image, 3D and text side by side."""
    import rerun.blueprint as rrb

    image = rrb.Spatial2DView(origin="camera", contents=["+ $origin/**", "- $origin/depth"], name="image")
    texts = [rrb.TextDocumentView(origin=name, name=name) for name in ("query", "answer")]
    below = rrb.Horizontal(*texts, rrb.TextLogView(origin="log", name="log"))
    left = rrb.Vertical(image, below, row_shares=[4, 1])
    scene = rrb.Spatial3DView(origin="/", contents=["+ $origin/**", "- camera/depth"], name="3D")
    return rrb.Blueprint(rrb.Horizontal(left, scene), collapse_panels=True)


def _log_camera(stream: RecordingStream, frame: RgbdFrame, result: Replayed) -> None:
    import rerun as rr

    height, width = frame.depth.shape
    T = np.eye(4) if result.T_target_camera is None else result.T_target_camera
    up = rr.ViewCoordinates.RDF if result.T_target_camera is None else rr.ViewCoordinates.RIGHT_HAND_Z_UP
    stream.log("/", up, static=True)
    stream.log("camera", rr.Transform3D(translation=T[:3, 3], mat3x3=T[:3, :3]))
    stream.log("camera", rr.Pinhole(image_from_camera=frame.K, width=width, height=height))
    stream.log("camera/image", rr.Image(frame.rgb).compress(jpeg_quality=JPEG_QUALITY))
    stream.log("camera/depth", rr.DepthImage(np.nan_to_num(frame.depth), meter=1.0))
    cloud, raster = make_cloud(frame), np.s_[::CLOUD_STEP, ::CLOUD_STEP]
    seen = cloud.keep[raster]
    xyz = transform_points(T, cloud.points[raster][seen])
    stream.log("scene", rr.Points3D(xyz, colors=frame.rgb[raster][seen], radii=POINT_M))


def _log_answer(stream: RecordingStream, found: Grounding) -> None:
    import rerun as rr

    points = [target.point for target in found.targets] or list(found.answer.points)
    pixels = np.array([[point.x + 0.5, point.y + 0.5] for point in points]).reshape(-1, 2)
    labels = [point_text(point) for point in points]
    stream.log("camera/image/points", rr.Points2D(pixels, labels=labels, radii=POINT_PX))
    stream.log("query", rr.TextDocument(found.query))
    stream.log("answer", rr.TextDocument(found.answer.text))


def _log_targets(stream: RecordingStream, targets: Sequence[GraspTarget], result: Replayed) -> None:
    import rerun as rr

    points = object_points(targets)
    xyz = np.stack([points["x"], points["y"], points["z"]], axis=1).astype(np.float64)
    if result.T_target_camera is not None:
        xyz = transform_points(result.T_target_camera, xyz)
    colors = np.stack([points["rgb"] >> shift & 255 for shift in (16, 8, 0)], axis=1).astype(np.uint8)
    stream.log("object", rr.Points3D(xyz, colors=colors, radii=POINT_M))
    stream.log("targets", rr.Clear(recursive=True))
    for target in targets:
        for number, shape in enumerate(target_shapes(target)):
            stream.log(f"targets/{target.point.instance}/{shape.name}_{number}", _drawn(shape))


def _drawn(shape: Shape) -> Any:
    """A shape as Rerun's archetype."""
    import rerun as rr

    centre, turn = [shape.pose.position], [rr.Quaternion(xyzw=shape.pose.orientation)]
    color, half = np.round(255 * np.array(shape.color)).astype(np.uint8), np.array(shape.size) / 2
    if shape.kind is Kind.ARROW:
        start, end = np.array(shape.points)
        return rr.Arrows3D(vectors=[end - start], origins=[start], colors=[color], radii=half[0])
    if shape.kind is Kind.TEXT:
        return rr.Points3D(centre, labels=[shape.text], colors=[color], radii=POINT_M)
    if shape.kind is Kind.ELLIPSOID:
        return rr.Ellipsoids3D(half_sizes=[half], centers=centre, quaternions=turn, colors=[color])
    solid = rr.components.FillMode.Solid if shape.name == "gripper" else None
    return rr.Boxes3D(half_sizes=[half], centers=centre, quaternions=turn, colors=[color], fill_mode=solid)
