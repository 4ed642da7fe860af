"""The three topics of one camera, left alone in the middleware until a query needs a frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from molmo_ros.config import NodeConfig
from molmo_ros.datatypes import RgbdFrame
from molmo_ros.errors import CancelledError, FrameError
from molmo_ros.rectify import is_rectified
from molmo_ros.ros.compressed import decode_compressed_color, decode_compressed_depth
from molmo_ros.ros.conversions import decode_color, decode_depth, make_frame
from molmo_ros.ros.distribution import received_ns
from molmo_ros.ros.frames import JUMP_BACK_NS, TOPICS, FramePairer, Sample, Triple

POLL_S = 0.01
NS = 1_000_000_000


class DormantGroup(CallbackGroup):  # type: ignore[misc]
    """Keeps the executor away from a subscription.

    The middleware holds the newest messages (KEEP_LAST) and drops older ones by itself, so an idle camera
    costs no Python at all; ``CameraInput`` takes what is there when somebody asks.
    """

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass


class CameraInput:
    """Newest paired frame of one camera. ``name`` is its namespace, '' for none."""

    def __init__(self, node: Node, name: str, config: NodeConfig) -> None:
        self.name = name
        self._node = node
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
            topic: self._subscribe(prefix + suffix, kind, config.buffer_frames)
            for topic, (suffix, kind) in kinds.items()
        }

    def _subscribe(self, topic: str, kind: type, depth: int) -> Subscription:
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=depth,
            reliability=ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.VOLATILE,
        )
        return self._node.create_subscription(
            kind,
            topic,
            _never_called,
            qos,
            raw=True,
            callback_group=DormantGroup(),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def collect(self) -> None:
        """Take what has arrived since the last time; decodes nothing but the stamps."""
        with self._lock:
            for topic, subscription in self._subscriptions.items():
                for _ in range(2 * self.pairer.size):  # bounded: a fast publisher must not hold us here
                    taken = _take(subscription)
                    if taken is None:
                        break
                    self.pairer.add(topic, taken)

    def newest_frame(self, config: NodeConfig, should_stop: Callable[[], bool]) -> RgbdFrame:
        """The newest paired frame, decoded; waits up to ``frame_wait_s`` for one that is fresh enough.

        Raises: FrameError naming the topic that is silent, late, incompatible, stale or broken;
        CameraInfoError; CancelledError if ``should_stop`` turns true meanwhile.
        """
        give_up = time.monotonic() + config.frame_wait_s
        while True:
            triple = self._newest_triple(config)
            if triple is not None and abs(self.age_s(triple.stamp_ns)) <= config.max_frame_age_s:
                self._last = self._decode(triple)
                return self._last
            if should_stop():
                raise CancelledError("The query was given up while it waited for a camera frame.")
            if time.monotonic() >= give_up:
                raise FrameError(self._why_none(triple, config))
            time.sleep(POLL_S)

    def newer_frame(self, last_ns: int, step_ns: int, config: NodeConfig) -> RgbdFrame | None:
        """The newest paired frame if it is fresh and ``step_ns`` beyond the last one; never waits.

        A clock that has jumped back (bag loop, restarted simulation) makes older stamps new again.
        Raises: as newest_frame.
        """
        triple = self._newest_triple(config)
        if triple is None or last_ns - JUMP_BACK_NS <= triple.stamp_ns < last_ns + max(step_ns, 1):
            return None
        return self._decode(triple) if abs(self.age_s(triple.stamp_ns)) <= config.max_frame_age_s else None

    def frame_at(self, stamp_ns: int) -> RgbdFrame:
        """The decoded frame of this very stamp: one in the buffer, or the last that was answered about.

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
        return self._decode(triple)

    def sync_misses(self) -> int:
        """Images that never found their depth or camera_info."""
        with self._lock:
            return self.pairer.count_misses()

    def age_s(self, stamp_ns: int) -> float:
        """Age of a stamp by the clock of the node (sim time if so set); negative if it lies ahead."""
        now_ns = int(self._node.get_clock().now().nanoseconds)
        return (now_ns - stamp_ns) / NS

    def problem(self, config: NodeConfig) -> str:
        """What keeps this camera from delivering frames, with the mend; empty if nothing does."""
        with self._lock:
            found = self.pairer.problem(time.time_ns(), config.max_frame_age_s)
        return "" if found is None else self._explain(*found)

    def topic_name(self, topic: str) -> str:
        """The full, remapped name of one of TOPICS."""
        return str(self._subscriptions[topic].topic_name)

    def _newest_triple(self, config: NodeConfig) -> Triple | None:
        self.collect()
        with self._lock:
            self.pairer.slop_ns = int(config.sync_slop_s * NS)
            return self.pairer.newest()

    def _decode(self, triple: Triple) -> RgbdFrame:
        color = deserialize_message(triple.image.payload, self._subscriptions["image"].msg_type)
        depth = deserialize_message(triple.depth.payload, self._subscriptions["depth"].msg_type)
        info = deserialize_message(triple.camera_info.payload, CameraInfo)
        rgb = decode_compressed_color(color) if self._color_compressed else decode_color(color)
        metres = decode_compressed_depth(depth) if self._depth_compressed else decode_depth(depth)
        return make_frame(rgb, metres, info, color.header, is_rectified(self.topic_name("image")))

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

    def _explain(self, topic: str, what: str) -> str:
        """A problem of one topic with its cause, as far as the graph tells."""
        name = self.topic_name(topic)
        publishers = self._node.get_publishers_info_by_topic(name)
        if not publishers:
            return f"Topic {name} {what}: nobody publishes it; start the camera or remap '{topic}'."
        kind = f"{self._kind(topic).__module__.split('.')[0]}/msg/{self._kind(topic).__name__}"
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


def _never_called(_: bytes) -> None:
    """A subscription must have a callback; its DormantGroup sees to it that nobody calls it."""


def _take(subscription: Subscription) -> Sample | None:
    """The next serialized message of a subscription with its stamp and arrival, None if there is none."""
    with subscription.handle:
        taken = subscription.handle.take_message(subscription.msg_type, True)
    if taken is None:
        return None
    payload, info = taken
    arrival_ns = received_ns(info) or time.time_ns()
    return Sample(stamp_of(payload), arrival_ns, payload)


def stamp_of(serialized: bytes) -> int:
    """Nanoseconds of the header stamp that a serialized message starts with.

    Source: CDR (OMG): 4 bytes of encapsulation, byte 1 odd for little endian; then int32 sec, uint32 nanosec.
    """
    order = "<" if serialized[1] & 1 else ">"
    sec = int(np.frombuffer(serialized, order + "i4", 1, 4)[0])
    nanosec = int(np.frombuffer(serialized, order + "u4", 1, 8)[0])
    return sec * NS + nanosec
