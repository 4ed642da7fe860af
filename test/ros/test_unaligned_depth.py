"""Depth of a separate camera beside the colour camera: reprojected by camera_info and tf, or refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from ros_helpers import FRAME, GOOD, SEED, running
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from molmo_ros.camera.conversions import camera_info_message, depth_message, image_message
from molmo_ros.camera.unaligned_depth import is_aligned, is_apart
from molmo_ros.datatypes import Array, Depth, RgbdFrame
from molmo_ros.errors import FrameError
from molmo_ros.ros.camera import CameraInput
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.depth_info import DepthInfo
from molmo_ros.ros.messages import make_header
from molmo_ros.sim import SimCamera
from molmo_ros.sim.render import Renderer
from molmo_ros.transforms import make_transform

DEPTH_FRAME = "camera_depth_optical_frame"
SIZE = (424, 240)
K = np.array([[330.0, 0, 210.0], [0, 330.0, 121.0], [0, 0, 1]])
SHIFT = np.array([-0.04, 0.01, 0.005])  # of the depth camera, seen from the colour camera


@pytest.fixture(scope="module")
def truth() -> SimCamera:
    return SimCamera(SEED)


def seen_from(camera: SimCamera, T_color_depth: Array) -> Depth:
    T = camera.truth.T_world_camera @ T_color_depth
    return Renderer(camera.scene, 1).render(K, *SIZE, T).depth


class Cameras:
    """Colour and depth as two cameras of a driver, in the namespace of the node under test."""

    def __init__(self, frame: RgbdFrame, namespace: str) -> None:
        self.node = Node("two_cameras", namespace=namespace)
        self._frame = frame
        topics = {"color/image": Image, "color/camera_info": CameraInfo, "depth/image_rect": Image}
        self._publishers = {
            name: self.node.create_publisher(kind, name, qos_profile_sensor_data)
            for name, kind in {**topics, "depth/camera_info": CameraInfo}.items()
        }

    def show(self, depth: Depth, K: Array | None, frame_id: str) -> None:
        """Publish one frame; without K there is no camera_info of the depth camera."""
        stamp_ns = self.node.get_clock().now().nanoseconds
        color, deep = make_header(FRAME, stamp_ns), make_header(frame_id, stamp_ns)
        height, width = self._frame.depth.shape
        messages: dict[str, Any] = {
            "color/image": image_message(self._frame.rgb, "rgb8", color),
            "color/camera_info": camera_info_message(self._frame.K, width, height, color),
            "depth/image_rect": depth_message(depth, deep),
        }
        if K is not None:
            messages["depth/camera_info"] = camera_info_message(K, depth.shape[1], depth.shape[0], deep)
        for name, message in messages.items():
            self._publishers[name].publish(message)


@pytest.fixture(scope="module")
def cameras(context: None, truth: SimCamera) -> Iterator[Cameras]:
    cameras = Cameras(truth.frame(), "/pair")
    yield cameras
    cameras.node.destroy_node()


@pytest.fixture(scope="module")
def asked(context: None) -> Iterator[tuple[GraspClient, CameraInput]]:
    """A client of a node that gets colour and depth of two cameras, and that camera of the node."""
    topics = {"image": "color/image", "camera_info": "color/camera_info", "depth": "depth/image_rect"}
    remaps = [word for a, b in topics.items() for word in ("-r", f"{a}:={b}")]
    options = {"namespace": "/pair", "cli_args": ["--ros-args", *remaps]}
    with running({"timeout_s": 60.0}, **options) as node, GraspClient("/pair/molmo") as client:
        client.wait_ready(120.0)
        yield client, node.cameras[""]


def ask(
    asked: tuple[GraspClient, CameraInput], cameras: Cameras, depth: Depth, K: Array | None, frame_id: str
) -> Any:
    """Show the frame again and again while the query is answered: best effort may lose one."""
    client, camera = asked
    begun_ns = cameras.node.get_clock().now().nanoseconds
    end = threading.Event()

    def film() -> None:
        while not end.is_set():
            cameras.show(depth, K, frame_id)
            end.wait(0.1)

    thread = threading.Thread(target=film, daemon=True)
    thread.start()
    give_up = time.monotonic() + 60.0
    try:
        while camera.pairer.newest(begun_ns) is None:  # what was shown before is still the newest
            assert time.monotonic() < give_up
            time.sleep(0.05)
            camera.collect()
        return client.find(GOOD)
    finally:
        end.set()
        thread.join(5.0)


def error_m(response: Any, truth: SimCamera) -> float:
    """Between the target and the surface that the colour camera shows at its pixel."""
    assert response.success, response.message
    (target,) = response.targets
    assert target.status == target.OK, target.status_text
    u, v = round(target.point.x), round(target.point.y)
    true = truth.truth.depth[v, u] * (np.linalg.inv(truth.K) @ [target.point.x, target.point.y, 1.0])
    return float(np.linalg.norm([target.position.x, target.position.y, target.position.z] - true))


def test_without_its_camera_info_depth_of_another_size_is_refused(
    cameras: Cameras, asked: tuple[GraspClient, CameraInput], truth: SimCamera
) -> None:
    response = ask(asked, cameras, seen_from(truth, np.eye(4)), None, DEPTH_FRAME)
    assert (response.success, response.code) == (False, "BAD_FRAME")
    for word in ("424x240", "640x480", DEPTH_FRAME, FRAME, "/pair/depth/camera_info", "align_depth"):
        assert word in response.message


def test_another_resolution_of_the_same_camera_needs_no_tf(
    cameras: Cameras, asked: tuple[GraspClient, CameraInput], truth: SimCamera
) -> None:
    response = ask(asked, cameras, seen_from(truth, np.eye(4)), K, FRAME)
    assert error_m(response, truth) < 0.004


def test_without_a_transform_depth_in_another_frame_is_refused(
    cameras: Cameras, asked: tuple[GraspClient, CameraInput], truth: SimCamera
) -> None:
    """Without tf2_ros the text says what to install; with it, which transform is missing."""
    response = ask(asked, cameras, seen_from(truth, np.eye(4)), K, "nowhere")
    assert (response.success, response.code) == (False, "BAD_FRAME")
    for word in ("424x240", "640x480", "'nowhere'", FRAME, "align_depth"):
        assert word in response.message
    assert "tf2_ros" in response.message or "No transform from" in response.message


def test_depth_of_another_camera_is_reprojected_by_tf(
    cameras: Cameras, asked: tuple[GraspClient, CameraInput], truth: SimCamera
) -> None:
    tf2_ros = pytest.importorskip("tf2_ros", reason="tf2_ros is not installed here; it comes with ROS 2")
    from geometry_msgs.msg import TransformStamped

    static = tf2_ros.StaticTransformBroadcaster(cameras.node)
    message = TransformStamped(header=Header(frame_id=FRAME), child_frame_id=DEPTH_FRAME)
    translation = message.transform.translation
    translation.x, translation.y, translation.z = map(float, SHIFT)
    message.transform.rotation.w = 1.0
    static.sendTransform(message)
    depth = seen_from(truth, make_transform(np.eye(3), SHIFT))
    assert error_m(ask(asked, cameras, depth, K, DEPTH_FRAME), truth) < 0.004
    # the same taken for aligned: only its topic's name could make the node believe that
    lying = ask(asked, cameras, depth, K, FRAME)
    assert lying.targets[0].status != lying.targets[0].OK or error_m(lying, truth) > 0.010


def test_settings_that_change_at_run_time_count_for_every_frame(context: None, truth: SimCamera) -> None:
    """A track takes its frames by other methods than a query, with the settings of now."""
    cameras = Cameras(truth.frame(), "/changed")
    topics = {"image": "color/image", "camera_info": "color/camera_info", "depth": "depth/image_rect"}
    remaps = [word for a, b in topics.items() for word in ("-r", f"{a}:={b}")]
    node = Node("changed", namespace="/changed", cli_args=["--ros-args", *remaps])
    try:
        config = NodeConfig(max_frame_age_s=60.0, frame_wait_s=60.0)
        camera = CameraInput(node, "", config)
        depth = seen_from(truth, np.eye(4))
        give_up = time.monotonic() + 60.0
        while (newest := camera.pairer.newest()) is None:
            assert time.monotonic() < give_up
            cameras.show(depth, None, DEPTH_FRAME)
            time.sleep(0.05)
            camera.collect()
        config = replace(config, frame_wait_s=0.0)
        started = time.monotonic()
        with pytest.raises(FrameError, match="No camera_info of the depth camera"):
            camera.newer_frame(0, 0, config)
        with pytest.raises(FrameError, match="No camera_info of the depth camera"):
            camera.frame_at(newest.stamp_ns, config)
        assert time.monotonic() - started < 50.0
    finally:
        cameras.node.destroy_node()
        node.destroy_node()


@pytest.mark.parametrize(
    ("remaps", "prefix", "depth", "topic"),
    [
        ([], "", "/camera/depth/image_rect_raw", "/camera/depth/camera_info"),
        ([], "front/", "/front/depth", "/front/camera_info"),
        ([], "", "/camera/depth/image_rect_raw/compressedDepth", "/camera/depth/camera_info"),
        (["depth_camera_info:=/other/info"], "", "/camera/depth/image", "/other/info"),
        (["front/depth_camera_info:=/other/info"], "front/", "/camera/depth/image", "/other/info"),
    ],
)
def test_camera_info_is_beside_the_depth_unless_remapped(
    context: None, remaps: list[str], prefix: str, depth: str, topic: str
) -> None:
    words = ["--ros-args"] if remaps else []
    node = Node("remapped", cli_args=[*words, *(word for remap in remaps for word in ("-r", remap))])
    try:
        assert DepthInfo(node, prefix, depth).topic == topic
        assert node.get_subscriptions_info_by_topic(topic) == []  # nobody listens before it is needed
    finally:
        node.destroy_node()


@pytest.mark.parametrize(
    ("topic", "aligned"),
    [
        ("/camera/camera/aligned_depth_to_color/image_raw", True),
        ("/zed/zed_node/depth/depth_registered", True),
        ("/camera/depth_registered/image_rect", True),
        ("/camera/camera/depth/image_rect_raw", False),
        ("/depth", False),
    ],
)
def test_the_name_tells_what_is_aligned(topic: str, aligned: bool) -> None:
    rgb, depth = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.float32)
    color, deep = Header(frame_id="color"), Header(frame_id="depth")
    assert is_aligned(topic) is aligned
    assert is_apart(rgb, color, depth, deep, topic) is not aligned
    assert not is_apart(rgb, color, depth, Header(frame_id="/color"), topic)
    assert not is_apart(rgb, color, depth, Header(), topic)  # a header that says nothing
    assert is_apart(rgb, color, depth[:2], Header(frame_id="color"), topic)
