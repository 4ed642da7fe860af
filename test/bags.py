"""Real rosbag2 recordings of the simulated camera, for the tests of replay."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from molmo_ros.datatypes import RgbdFrame

INFO = "sensor_msgs/msg/CameraInfo"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
TF = "tf2_msgs/msg/TFMessage"


@dataclass(frozen=True)
class Entry:
    """One message: when it was recorded, on which topic, its type and content."""

    at_ns: int
    topic: str
    kind: str
    msg: Any


class Recorder:
    """Makes messages of one ROS 2 distribution, and bags of them."""

    def __init__(self) -> None:
        from rosbags.typesys import Stores, get_typestore

        self.store = get_typestore(Stores.ROS2_JAZZY)

    def make(self, kind: str, **fields: Any) -> Any:
        return self.store.types[kind](**fields)

    def header(self, stamp_ns: int, frame_id: str = "optical") -> Any:
        sec, nanosec = divmod(stamp_ns, 1_000_000_000)
        stamp = self.make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
        return self.make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def image(self, pixels: np.ndarray, encoding: str, stamp_ns: int) -> Any:
        data = np.ascontiguousarray(pixels)
        height, width = data.shape[:2]
        return self.make(
            IMAGE, header=self.header(stamp_ns), height=height, width=width, encoding=encoding,
            is_bigendian=0, step=data.strides[0], data=data.reshape(-1).view(np.uint8),
        )  # fmt: skip

    def compressed(self, data: bytes, kind: str, stamp_ns: int) -> Any:
        return self.make(
            COMPRESSED, header=self.header(stamp_ns), format=kind, data=np.frombuffer(data, np.uint8)
        )

    def info(self, frame: RgbdFrame, stamp_ns: int) -> Any:
        height, width = frame.depth.shape
        roi = self.make(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        P = np.hstack([frame.K, np.zeros((3, 1))])
        return self.make(
            INFO, header=self.header(stamp_ns), height=height, width=width, distortion_model="plumb_bob",
            d=np.zeros(5), k=frame.K.reshape(-1), r=np.eye(3).reshape(-1), p=P.reshape(-1), binning_x=0,
            binning_y=0, roi=roi,
        )  # fmt: skip

    def transform(self, parent: str, child: str, xyz: Sequence[float], xyzw: Sequence[float], at: int) -> Any:
        vector = self.make("geometry_msgs/msg/Vector3", **dict(zip("xyz", map(float, xyz), strict=True)))
        turn = self.make("geometry_msgs/msg/Quaternion", **dict(zip("xyzw", map(float, xyzw), strict=True)))
        pose = self.make("geometry_msgs/msg/Transform", translation=vector, rotation=turn)
        one = self.make(
            "geometry_msgs/msg/TransformStamped", header=self.header(at, parent), child_frame_id=child,
            transform=pose,
        )  # fmt: skip
        return self.make(TF, transforms=[one])

    def camera(
        self, frames: Iterable[tuple[int, RgbdFrame]], packed: bool = False, late_ns: int = 3_000_000
    ) -> list[Entry]:
        """Colour, depth (stamped ``late_ns`` later) and camera_info of each (stamp, frame)."""
        entries = []
        for at, frame in frames:
            depth = np.nan_to_num(np.round(frame.depth * 1000)).astype(np.uint16)
            if packed:
                color = self.compressed(
                    _encoded(".jpg", frame.rgb[:, :, ::-1]), "rgb8; jpeg compressed bgr8", at
                )
                packet = struct.pack("<iff", 0, 0.0, 0.0) + _encoded(".png", depth)
                deep = self.compressed(packet, "16UC1; compressedDepth png", at + late_ns)
                entries.append(Entry(at, "/cam/color/image_raw/compressed", COMPRESSED, color))
                entries.append(Entry(at + late_ns, "/cam/depth/image_raw/compressedDepth", COMPRESSED, deep))
            else:
                color, deep = self.image(frame.rgb, "rgb8", at), self.image(depth, "16UC1", at + late_ns)
                entries.append(Entry(at, "/cam/color/image_raw", IMAGE, color))
                entries.append(Entry(at + late_ns, "/cam/depth/image_raw", IMAGE, deep))
            entries.append(Entry(at, "/cam/color/camera_info", INFO, self.info(frame, at)))
        return entries

    def write(self, path: Path, entries: Iterable[Entry], storage: str = "sqlite3") -> Path:
        """A bag of these messages, in the order of recording."""
        from rosbags.rosbag2 import StoragePlugin, Writer

        plugin = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}[storage]
        with Writer(path, version=9, storage_plugin=plugin) as writer:
            connections: dict[str, Any] = {}
            for entry in sorted(entries, key=lambda e: e.at_ns):
                if entry.topic not in connections:
                    connections[entry.topic] = writer.add_connection(
                        entry.topic, entry.kind, typestore=self.store
                    )
                data = self.store.serialize_cdr(entry.msg, entry.kind)
                writer.write(connections[entry.topic], entry.at_ns, data)
        return path


def _encoded(ending: str, pixels: np.ndarray) -> bytes:
    good, data = cv2.imencode(ending, np.ascontiguousarray(pixels))
    assert good
    return bytes(data)
