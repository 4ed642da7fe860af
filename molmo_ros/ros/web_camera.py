"""The camera of a running node, for the web view: live images and clouds, while a page shows them."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

from rclpy.node import Node

from molmo_ros.datatypes import Array, Lens, RgbdFrame
from molmo_ros.errors import FrameError, MolmoRosError, TransformError
from molmo_ros.ros.camera import CameraInput
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.tf import TransformLookup
from molmo_ros.web.hub import Hub
from molmo_ros.web.wire import image_message, scene_message

LIVE_S, SCENE_S = 0.1, 0.5  # between two images, two clouds
IDLE_S = 5.0  # if no page shows a camera for this long, its subscriptions end
TF_WAIT_S = 0.1
ALLOWANCE_S = 0.9  # of a period: what arrives a little early still counts
COMPRESSED = {"image": "/compressed", "depth": "/compressedDepth"}


class WebCamera:
    """Looks at topics that may change while it runs; subscribed to them only while somebody shows them."""

    def __init__(self, hub: Hub, executor: Any) -> None:
        self._hub, self._executor = hub, executor
        self._topics: dict[str, str] = {}
        self._node: Node | None = None
        self._transforms: TransformLookup | None = None
        self._camera: CameraInput | None = None
        self._config = NodeConfig()
        self._live_at = self._scene_at = 0.0
        self._shown_at = time.monotonic()
        self._last_ns = 0
        self._problem = ""
        self.lens: Lens | None = None

    def use(self, topics: dict[str, str]) -> None:
        """Set the camera's topics: image, depth, camera_info; empty: they are not known."""
        if topics and topics != self._topics:
            self.close()
            self._hub.drop("live", "scene")  # they show another camera
            self._topics, self._last_ns, self.lens = topics, 0, None

    def close(self) -> None:
        """Unsubscribe."""
        node, self._node, self._camera, self._transforms = self._node, None, None, None
        if node is not None:
            with suppress(Exception):  # the executor may have ended before
                self._executor.remove_node(node)
            node.destroy_node()

    def tell(self, target_frame: str, stamp_ns: int) -> None:
        """A new image and a new cloud, if due and shown.

        target_frame: of the targets, in which the cloud is wanted. stamp_ns: of the targets that are being
        followed, whose image is wanted; 0: the newest.
        """
        now = time.monotonic()
        live = self._hub.watched("live") and now - self._live_at > ALLOWANCE_S * LIVE_S
        scene = self._hub.watched("scene") and now - self._scene_at > ALLOWANCE_S * SCENE_S
        if not (live or scene):
            if now - self._shown_at > IDLE_S:
                self.close()
            return
        self._shown_at = now
        frame = self._frame(stamp_ns)
        if frame is None:
            return
        self._last_ns, self.lens = frame.stamp_ns, frame.lens
        if live:
            self._live_at = now
            self._hub.put("live", image_message("live", frame.rgb, frame.stamp_ns, frame.frame_id))
        if scene:
            self._scene_at = now
            T, frame_id = self.transform(target_frame, frame.frame_id, frame.stamp_ns)
            self._hub.put("scene", scene_message(frame, T, frame_id))

    def transform(self, target_frame: str, optical: str, stamp_ns: int) -> tuple[Array | None, str]:
        """T_target_camera (4,4) and target_frame; (None, optical) if there is no transform between them."""
        if self._transforms is None or target_frame in ("", optical):
            return None, optical
        try:
            return self._transforms.lookup(target_frame, optical, stamp_ns, TF_WAIT_S), target_frame
        except TransformError:
            return None, optical

    def _frame(self, stamp_ns: int) -> RgbdFrame | None:
        """The frame that is wanted, if it is a new one; what is wrong with the camera goes to the page."""
        if self._camera is None and self._topics:
            self._subscribe()
        if self._camera is None:
            return None
        try:
            if stamp_ns and stamp_ns != self._last_ns:
                with suppress(FrameError):
                    return self._camera.frame_at(stamp_ns, self._config)
            frame = self._camera.newer_frame(self._last_ns, 1, self._config)
            self._tell_problem("")
            return frame
        except MolmoRosError as error:
            self._tell_problem(str(error))
            return None

    def _tell_problem(self, text: str) -> None:
        if text != self._problem:
            self._problem = text
            self._hub.tell("camera", {"problem": text})

    def _subscribe(self) -> None:
        """A node whose image, depth and camera_info are those of the node that is shown."""
        rules = [f"{topic}:={name}" for topic, name in self._topics.items()]
        transports = {"image": "raw", "depth": "raw"}
        for topic, end in COMPRESSED.items():
            if self._topics[topic].endswith(end):
                transports[topic] = end[1:]
                rules.append(f"{topic}{end}:={self._topics[topic]}")
        args = ["--ros-args", *(word for rule in rules for word in ("-r", rule))]
        self._node = Node(
            f"molmo_web_camera_{os.getpid()}",
            cli_args=args,
            use_global_arguments=False,
            start_parameter_services=False,
        )
        self._config = NodeConfig(
            image_transport=transports["image"],
            depth_transport=transports["depth"],
            max_frame_age_s=float("inf"),  # it is only shown, nothing acts on it
            frame_wait_s=0.5,
        )
        self._transforms = TransformLookup(self._node)
        self._camera = CameraInput(self._node, "", self._config, self._transforms)
        self._executor.add_node(self._node)
