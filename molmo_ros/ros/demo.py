"""The demo with real nodes: a simulated camera and molmo as two processes, and a client that asks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from ament_index_python.packages import get_package_share_directory
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image as ImageMessage
from sensor_msgs.msg import PointCloud2

from molmo_ros.camera.conversions import decode_color, stamp_to_ns
from molmo_ros.datatypes import Array, GraspTarget, Grounding, Image, Mask, ObjectSegment, RgbdFrame
from molmo_ros.errors import FrameError, MolmoRosError, NotReadyError
from molmo_ros.ros.bringup import fastdds_profile
from molmo_ros.ros.camera import CameraInput
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.distribution import on_this_machine
from molmo_ros.ros.domain import take_domain
from molmo_ros.ros.messages import clouds_by_instance, grounding_from_message
from molmo_ros.ros.processes import Processes

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
STARTING = NodeConfig(frame_wait_s=60.0, max_frame_age_s=60.0)  # the camera may still be building its scene
PATIENCE_S = 120.0  # for the answer, on a machine that is busy with other things
QUIET_S = 30.0  # how long to wait for what is published after the answer


def run_demo(
    query: str = "the red mug",
    seed: int = 0,
    out: str | Path = "demo.png",
    *,
    checkpoint: str = "tiny",
    runtime: str = "auto",
    gripper: str = "franka_hand",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Start both nodes, ask ~/ground, and write a picture of the answer.

    Returns: query, answer, targets (list of dicts), stages_ms, picture, and the frame and grounding from
    which they were made. Raises: MolmoRosError with the node's own words if it does not answer.
    """
    with running_nodes(seed, checkpoint, runtime, gripper, say) as client:
        listener = _Listener(client)
        listener.camera.newest_frame(STARTING, lambda: False)  # or its start would count as a stage
        say(f'asking /molmo/ground for "{query}"')
        return _ask(client, listener, query, Path(out), gripper)


@contextmanager
def running_nodes(
    seed: int, checkpoint: str, runtime: str, gripper: str, say: Callable[[str], None]
) -> Iterator[GraspClient]:
    """Both nodes as processes in their own domain, ready to answer; they end with the block.

    Raises: MolmoRosError with the node's own words if it does not get ready.
    """
    domain, held = take_domain()
    os.environ.update(surroundings(os.environ))  # of this process too: its context reads them
    context = Context()
    rclpy.init(context=context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
    env = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
    verbose = bool(os.environ.get("MOLMO_DEMO_VERBOSE"))
    try:
        with Processes(env, quiet=not verbose) as processes, GraspClient(context=context) as client:
            processes.start_node("molmo_ros.ros.sim_camera_node", {"seed": seed})
            parameters = {
                "checkpoint": checkpoint,
                "runtime": runtime,
                "gripper": gripper,
                "max_frame_age_s": 60.0,  # nothing moves here, and the machine may be busy
                "max_target_age_s": 2 * PATIENCE_S,
                "frame_wait_s": 60.0,  # the camera may still be building its scene
            }
            processes.start_node("molmo_ros.ros.node", parameters)
            say(f"nodes sim_camera and molmo are starting (ROS_DOMAIN_ID={domain})")
            _wait_ready(client, processes)
            yield client
    finally:
        context.try_shutdown()
        os.close(held)


def surroundings(env: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of the demo in addition to ``env``: discovery on this machine, and room for
    images.

    Without the profile the nodes may find each other only seconds later, and lose frames meanwhile.
    """
    share = Path(get_package_share_directory("molmo_ros"))
    return {**on_this_machine(env), **fastdds_profile(share, env)}


class _Listener:
    """Keeps the newest messages of the demo's topics."""

    def __init__(self, client: GraspClient) -> None:
        self.annotated: ImageMessage | None = None
        self.cloud: PointCloud2 | None = None
        self.diagnostics: DiagnosticArray | None = None
        self.camera = CameraInput(client.node, "", NodeConfig(buffer_frames=100))
        subscribe = client.node.create_subscription
        subscribe(ImageMessage, "/molmo/annotated", lambda msg: setattr(self, "annotated", msg), LATCHED)
        subscribe(PointCloud2, "/molmo/object_points", lambda msg: setattr(self, "cloud", msg), LATCHED)
        subscribe(DiagnosticArray, "/diagnostics", lambda msg: setattr(self, "diagnostics", msg), 10)

    def stages_ms(self) -> dict[str, float]:
        """Median time of each stage, from the node's diagnostics; empty before its first answer."""
        statuses = [] if self.diagnostics is None else self.diagnostics.status
        values = [pair for status in statuses for pair in status.values]
        end = "_ms_p50"
        return {pair.key[: -len(end)]: float(pair.value) for pair in values if pair.key.endswith(end)}

    def complete(self) -> bool:
        """True when all that follows an answer is here."""
        return self.annotated is not None and self.cloud is not None and bool(self.stages_ms())


def _wait_ready(client: GraspClient, processes: Processes, wait_s: float = 180.0) -> None:
    """Wait for the node; stop waiting if a process dies."""
    give_up = time.monotonic() + wait_s
    while True:
        try:
            return client.wait_ready(2.0)
        except NotReadyError as error:
            if processes.dead():
                raise NotReadyError(
                    f"A node ended before it was ready: {', '.join(processes.dead())}; see its log with "
                    "MOLMO_DEMO_VERBOSE=1."
                ) from error
            if time.monotonic() > give_up or error.code != NotReadyError.code:
                raise


def _ask(client: GraspClient, listener: _Listener, query: str, out: Path, gripper: str) -> dict[str, Any]:
    started = time.perf_counter()
    response = client.find(query, timeout_s=PATIENCE_S)
    round_trip_ms = (time.perf_counter() - started) * 1e3
    if not response.success:
        error = MolmoRosError(response.message)
        error.code = response.code
        raise error
    frame = _frame_of(response, listener)
    _wait_for(client, listener)
    grounding = grounding_from_message(query, response.answer, response.targets)
    grounding = replace(_with_segments(grounding, listener.cloud, frame), stages_ms={"total": round_trip_ms})
    picture = _draw(frame, grounding, gripper, out)
    return {
        "query": query,
        "answer": response.answer,
        "targets": grounding.targets,
        "stages_ms": {**listener.stages_ms(), "service_round_trip": round_trip_ms},
        "picture": str(picture),
        "frame": frame,
        "grounding": grounding,
        "annotated": None if listener.annotated is None else decode_color(listener.annotated),
    }


def _frame_of(response: Any, listener: _Listener) -> RgbdFrame:
    """The frame that was answered; the newest one if there are no targets to give its stamp."""
    if response.targets:
        with suppress(FrameError):
            return listener.camera.frame_at(stamp_to_ns(response.targets[0].header.stamp), STARTING)
    return listener.camera.newest_frame(STARTING, lambda: False)


def _wait_for(client: GraspClient, listener: _Listener) -> None:
    give_up = time.monotonic() + QUIET_S
    while not listener.complete():
        if time.monotonic() > give_up:
            raise FrameError(f"The node answered, but published no view of it within {QUIET_S:.0f} s.")
        client.spin(0.05)


def _with_segments(grounding: Grounding, cloud: PointCloud2 | None, frame: RgbdFrame) -> Grounding:
    """Restore the targets' objects from the cloud that the node published."""
    clouds = {} if cloud is None else clouds_by_instance(cloud)
    targets = tuple(
        _with_segment(target, clouds.get(target.point.instance), frame) for target in grounding.targets
    )
    return Grounding(grounding.query, grounding.answer, targets, grounding.stages_ms)


def _with_segment(target: GraspTarget, cloud: tuple[Array, Image] | None, frame: RgbdFrame) -> GraspTarget:
    if cloud is None:
        return target
    points, colors = cloud
    segment = ObjectSegment(_mask_of(points, frame), points, colors, np.zeros((0, 3)), None)
    return replace(target, segment=segment)


def _mask_of(points: Array, frame: RgbdFrame) -> Mask:
    """Pixels (H,W) that the points (N,3) fall on; the cloud is strided, so small gaps are closed."""
    import cv2

    height, width = frame.rgb.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    pixels = points @ frame.K.T
    u = np.rint(pixels[:, 0] / pixels[:, 2]).astype(int)
    v = np.rint(pixels[:, 1] / pixels[:, 2]).astype(int)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    mask[v[inside], u[inside]] = 1
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0)


def _draw(frame: RgbdFrame, grounding: Grounding, gripper: str, out: Path) -> Path:
    from molmo_ros.draw import picture
    from molmo_ros.grasp.gripper import Gripper
    from molmo_ros.io import save_picture

    save_picture(picture(frame, grounding, Gripper.load(gripper)), out)
    return out
