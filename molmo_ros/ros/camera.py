"""The topics of one camera; messages stay in the middleware until a query needs a frame."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from molmo_ros.camera.compressed import decode_compressed_color, decode_compressed_depth
from molmo_ros.camera.conversions import decode_color, decode_depth, make_frame, stamp_to_ns
from molmo_ros.camera.frames import JUMP_BACK_NS, TOPICS, FramePairer, Sample, Triple
from molmo_ros.camera.unaligned_depth import depth_camera, is_apart, refusal
from molmo_ros.datatypes import Depth, DepthCamera, RgbdFrame, ShouldStop
from molmo_ros.errors import CameraInfoError, CancelledError, FrameError, TransformError
from molmo_ros.perception.rectify import is_rectified
from molmo_ros.ros.bringup import driver_of
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.depth_info import DepthInfo
from molmo_ros.ros.polled_subscription import subscribe, take
from molmo_ros.ros.tf import TransformLookup

POLL_S = 0.01
MAX_NAMES = 8  # of other topics, in a message
NS = 1_000_000_000


class CameraInput:
    """Newest paired frame of one camera. ``name`` is its namespace, '' for none."""

    def __init__(
        self, node: Node, name: str, config: NodeConfig, transforms: TransformLookup | None = None
    ) -> None:
        self.name = name
        self._node = node
        self._transforms = transforms or TransformLookup(node)
        self._lock = threading.Lock()
        self._color_compressed = config.image_transport == "compressed"
        self._depth_compressed = config.depth_transport == "compressedDepth"
        self._last: RgbdFrame | None = None  # of the last query, for a second one about the same image
        self.pairer = FramePairer(int(config.sync_slop_s * NS), config.buffer_frames)
        color = ("image/compressed", CompressedImage) if self._color_compressed else ("image", Image)
        depth = ("depth/compressedDepth", CompressedImage) if self._depth_compressed else ("depth", Image)
        kinds = dict(zip(TOPICS, (color, depth, ("camera_info", CameraInfo)), strict=True))
        prefix = f"{name}/" if name else ""
        self._subscriptions = {
            topic: subscribe(node, prefix + suffix, kind, config.buffer_frames)
            for topic, (suffix, kind) in kinds.items()
        }
        self._depth_info = DepthInfo(node, prefix, self.topic_name("depth"))

    def collect(self) -> None:
        """Take what has arrived since the last time; decodes nothing but the stamps."""
        with self._lock:
            for topic, subscription in self._subscriptions.items():
                for _ in range(2 * self.pairer.size):  # bounded: a fast publisher must not hold us here
                    try:
                        taken = take(subscription)
                    except FrameError as error:  # the others on this topic may be good
                        self._node.get_logger().warning(str(error), throttle_duration_sec=5.0)
                        continue
                    if taken is None:
                        break
                    self.pairer.add(topic, taken)

    def newest_frame(self, config: NodeConfig, should_stop: ShouldStop) -> RgbdFrame:
        """The newest paired frame, decoded; waits up to ``frame_wait_s`` for one that is fresh enough.

        Raises: FrameError naming the topic that is silent, late, incompatible, stale or broken;
        CameraInfoError; CancelledError if ``should_stop`` turns true meanwhile.
        """
        give_up = time.monotonic() + config.frame_wait_s
        while True:
            triple = self._newest_triple(config)
            if triple is not None and abs(self.age_s(triple.stamp_ns)) <= config.max_frame_age_s:
                self._last = self._decode(triple, config)
                return self._last
            if should_stop():
                raise CancelledError("The query was given up while it waited for a camera frame.")
            if time.monotonic() >= give_up:
                raise FrameError(self._why_none(triple, config))
            time.sleep(POLL_S)

    def newer_frame(self, last_ns: int, step_ns: int, config: NodeConfig) -> RgbdFrame | None:
        """The newest paired frame if it is fresh and ``step_ns`` later than the last one; never waits.

        A clock that has jumped back (bag loop, restarted simulation) makes older stamps new again.
        Raises: as newest_frame.
        """
        triple = self._newest_triple(config)
        if triple is None or last_ns - JUMP_BACK_NS <= triple.stamp_ns < last_ns + max(step_ns, 1):
            return None
        if abs(self.age_s(triple.stamp_ns)) > config.max_frame_age_s:
            return None
        return self._decode(triple, config)

    def frame_at(self, stamp_ns: int, config: NodeConfig) -> RgbdFrame:
        """The decoded frame with exactly this stamp: one in the buffer, or the last that was answered about.

        Raises: FrameError if it has left the buffer; as newest_frame.
        """
        last = self._last
        if last is not None and last.stamp_ns == stamp_ns:
            return last
        self.collect()
        with self._lock:
            triple = self.pairer.at(stamp_ns)
        if triple is None:
            raise FrameError(
                f"The frame of {stamp_ns / NS:.3f} s on {self.topic_name('image')} is not here any more; ask "
                "for one of the last answer, or of the newest frames (buffer_frames)."
            )
        return self._decode(triple, config)

    def sync_misses(self) -> int:
        """Images that never found their depth or camera_info."""
        with self._lock:
            return self.pairer.count_misses()

    def age_s(self, stamp_ns: int) -> float:
        """Age of a stamp by the clock of the node (sim time if so set); negative if it lies ahead."""
        now_ns = int(self._node.get_clock().now().nanoseconds)
        return (now_ns - stamp_ns) / NS

    def problem(self, config: NodeConfig) -> str:
        """What keeps this camera from delivering frames and how to fix it; empty if nothing does."""
        with self._lock:
            found = self.pairer.problem(time.time_ns(), config.max_frame_age_s)
        return "" if found is None else self._explain(*found)

    def describe(self) -> str:
        """Its topics, and whether frames arrive, in words for the log."""
        self.collect()
        with self._lock:
            comes, rate = self.pairer.newest() is not None, self.pairer.rate_hz("image")
        topics = ", ".join(self.topic_name(topic) for topic in TOPICS)
        return f"{topics} ({f'frames come at {rate:.0f} Hz' if comes else 'no frames yet'})"

    def topic_name(self, topic: str) -> str:
        """The full, remapped name of one of TOPICS."""
        return str(self._subscriptions[topic].topic_name)

    def _newest_triple(self, config: NodeConfig) -> Triple | None:
        self.collect()
        with self._lock:
            self.pairer.slop_ns = int(config.sync_slop_s * NS)
            return self.pairer.newest()

    def _decode(self, triple: Triple, config: NodeConfig) -> RgbdFrame:
        color, depth, info = (
            self._deserialize(topic, sample)
            for topic, sample in zip(TOPICS, (triple.image, triple.depth, triple.camera_info), strict=True)
        )
        size = (int(info.width), int(info.height)) if info.width and info.height else None
        rgb = decode_compressed_color(color, size) if self._color_compressed else decode_color(color)
        metres = decode_compressed_depth(depth) if self._depth_compressed else decode_depth(depth)
        rectified, depth_rectified = (is_rectified(self.topic_name(topic)) for topic in ("image", "depth"))
        camera = None
        if is_apart(rgb, color.header, metres, depth.header, self.topic_name("depth")):
            try:
                camera = self._depth_camera(metres, color.header, depth.header, depth_rectified, config)
            except (CameraInfoError, TransformError) as error:
                raise refusal(rgb, color.header, metres, depth.header, str(error)) from error
        return make_frame(rgb, metres, info, color.header, rectified, depth_rectified, camera)

    def _deserialize(self, topic: str, sample: Sample) -> Any:
        """Raises: FrameError if the bytes are not a message of the topic's type."""
        try:
            return deserialize_message(sample.payload, self._subscriptions[topic].msg_type)
        except Exception as error:  # the middleware has its own classes
            raise FrameError(
                f"A message on {self.topic_name(topic)} cannot be read ({error}); look at who publishes it."
            ) from error

    def _depth_camera(
        self, depth: Depth, color: Header, header: Header, rectified: bool, config: NodeConfig
    ) -> DepthCamera:
        """The camera of depth that is not aligned to colour. Raises: CameraInfoError, TransformError."""
        info = self._depth_info.newest(config.frame_wait_s)
        stamp_ns, wait_s = stamp_to_ns(color.stamp), config.tf_wait_s
        T = self._transforms.lookup(color.frame_id, header.frame_id, stamp_ns, wait_s)
        return depth_camera(info, depth, T, rectified)

    def _why_none(self, triple: Triple | None, config: NodeConfig) -> str:
        problem = self.problem(config)
        if problem or triple is None:
            return problem or f"Camera {self.name!r} has no paired frame yet; ask again in a moment."
        age_s = self.age_s(triple.stamp_ns)
        if age_s < 0:
            return (
                f"The newest frame on {self.topic_name('image')} is stamped {-age_s:.1f} s ahead of "
                "the node's clock; synchronise the clocks, or set use_sim_time alike in all nodes."
            )
        return (
            f"The newest frame on {self.topic_name('image')} is {age_s:.1f} s old, "
            f"more than max_frame_age_s = {config.max_frame_age_s:g}; check the camera's clock and load "
            "(use_sim_time for bags and simulation), or raise max_frame_age_s."
        )

    def _kind(self, topic: str) -> type:
        return self._subscriptions[topic].msg_type  # type: ignore[no-any-return]

    def _type_name(self, topic: str) -> str:
        return f"{self._kind(topic).__module__.split('.')[0]}/msg/{self._kind(topic).__name__}"

    def _how_to_start(self, topic: str) -> str:
        """What to do about a topic that nobody publishes: start the driver, or use another topic."""
        with suppress(LookupError):  # the package is not installed, as in a source tree
            share = Path(get_package_share_directory("molmo_ros"))
            if driver := driver_of(share, self.topic_name("image")):
                return f"start the camera: {driver}. {self._others(topic)}"
        return f"start the camera. {self._others(topic)}"

    def _others(self, topic: str) -> str:
        kind, own = self._type_name(topic), self._node.get_fully_qualified_name() + "/"
        names = sorted(
            name
            for name, kinds in self._node.get_topic_names_and_types()
            if kind in kinds and not name.startswith(own) and self._node.count_publishers(name)
        )
        if names:
            return f"Or remap '{topic}' to a {kind} that is published: {', '.join(names[:MAX_NAMES])}."
        return f"No {kind} is published at all; check ROS_DOMAIN_ID if the camera runs."

    def _explain(self, topic: str, what: str) -> str:
        """A problem of one topic with its cause, as far as the ROS graph shows it."""
        name = self.topic_name(topic)
        publishers = self._node.get_publishers_info_by_topic(name)
        if not publishers:
            return f"Topic {name} {what}: nobody publishes it; {self._how_to_start(topic)}"
        kind = self._type_name(topic)
        for theirs in publishers:
            if theirs.topic_type not in ("", kind):
                return (
                    f"Topic {name} {what}: {theirs.node_name} publishes {theirs.topic_type}, not {kind}; "
                    f"remap '{topic}', or set image_transport and depth_transport to what it sends."
                )
        own = self._node.get_subscriptions_info_by_topic(name)
        mine = [info for info in own if info.node_name == self._node.get_name()]
        for theirs in publishers:
            for ours in mine:
                verdict, reason = qos_check_compatible(theirs.qos_profile, ours.qos_profile)
                if verdict == QoSCompatibility.ERROR:
                    return (
                        f"Topic {name} {what}: QoS of {theirs.node_name} is incompatible ({reason.strip()}); "
                        f"set qos_overrides.{name}.subscription.reliability and .durability to match."
                    )
        who = publishers[0].node_name
        return f"Topic {name} {what}, although {who} publishes it; check its rate and clock."
