"""Subscriptions that are polled: idle ones cost nothing, the middleware keeps the newest messages."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from molmo_ros.camera.frames import NS, Sample
from molmo_ros.errors import FrameError
from molmo_ros.ros.distribution import received_ns


class PolledGroup(CallbackGroup):  # type: ignore[misc]
    """Keeps the executor away from a subscription.

    The middleware holds the newest messages (KEEP_LAST) and drops older ones by itself, so an idle camera
    costs no Python at all; ``take`` fetches what is there when somebody asks.
    """

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass


def subscribe(node: Node, topic: str, kind: type, depth: int) -> Subscription:
    """A subscription that holds the newest ``depth`` messages until they are taken; QoS can be overridden."""
    qos = QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )
    return node.create_subscription(
        kind,
        topic,
        _never_called,
        qos,
        raw=True,
        callback_group=PolledGroup(),
        qos_overriding_options=QoSOverridingOptions.with_default_policies(),
    )


def _never_called(_: bytes) -> None:
    """A subscription must have a callback; its PolledGroup sees to it that nobody calls it."""


def take(subscription: Subscription) -> Sample | None:
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
    Raises: FrameError if it is shorter than that.
    """
    if len(serialized) < 12:
        raise FrameError(f"A message of {len(serialized)} bytes holds no header; look at who publishes it.")
    order = "<" if serialized[1] & 1 else ">"
    sec = int(np.frombuffer(serialized, order + "i4", 1, 4)[0])
    nanosec = int(np.frombuffer(serialized, order + "u4", 1, 8)[0])
    return sec * NS + nanosec
