"""Each thing that goes wrong on a robot gets its own text, and the next good query works."""

from __future__ import annotations

import array
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import serialize_message
from ros_helpers import ABSENT, GOOD, Camera
from sensor_msgs.msg import Image

from molmo_ros.camera.conversions import stamp_to_ns
from molmo_ros.errors import FrameError
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.node import MolmoNode
from molmo_ros.ros.polled_subscription import stamp_of

pytestmark = pytest.mark.usefixtures("camera")


@pytest.fixture(autouse=True)
def next_good_query_works(camera: Camera, client: GraspClient) -> Any:
    yield
    camera.show()
    response = client.find(GOOD)
    assert response.success, response.message


def refused(response: Any, code: str, *words: str) -> None:
    assert not response.success
    assert response.code == code, response.message
    assert not response.targets
    for word in words:
        assert word in response.message


def test_good_query(camera: Camera, client: GraspClient) -> None:
    camera.show()
    response = client.find(GOOD)
    assert response.success, response.message
    assert response.code == ""
    assert response.answer


def test_absent_object_is_success_without_targets(camera: Camera, client: GraspClient) -> None:
    camera.show()
    response = client.find(ABSENT)
    assert response.success
    assert response.targets == []
    assert response.answer == "There are none."
    assert response.message == "not there"


@pytest.mark.parametrize("query", ["", "   \t\n", "\x00\x1b\x07", "<|im_end|>"])
def test_empty_query(camera: Camera, client: GraspClient, query: str) -> None:
    camera.show()
    refused(client.find(query), "BAD_QUERY", "empty", "the red mug")


def test_query_of_a_megabyte(camera: Camera, client: GraspClient) -> None:
    camera.show()
    refused(client.find("mug " * 250_000), "BAD_QUERY", "1000000", "256")


def test_depth_of_another_size(camera: Camera, client: GraspClient) -> None:
    def halve(image: Any, depth: Any, info: Any) -> None:
        depth.width, depth.height, depth.step = 320, 240, 640
        depth.data = array.array("B", bytes(320 * 240 * 2))

    camera.show(halve)
    refused(client.find(GOOD), "BAD_FRAME", "320x240", "640x480", "align_depth")


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_no_depth_at_all_keeps_the_point(camera: Camera, client: GraspClient, encoding: str) -> None:
    """Zeros of 16UC1 and NaN of 32FC1: the point is returned, with the reason why there is no target."""

    def blind(image: Any, depth: Any, info: Any) -> None:
        dtype, value = (np.uint16, 0) if encoding == "16UC1" else (np.float32, np.nan)
        pixels = np.full((depth.height, depth.width), value, dtype)
        depth.encoding, depth.step = encoding, pixels.strides[0]
        depth.data = array.array("B", pixels.tobytes())

    camera.show(blind)
    response = client.find(GOOD)
    assert response.success, response.message
    assert len(response.targets) >= 1
    for target in response.targets:
        assert target.status == target.NO_DEPTH
        assert "depth" in target.status_text
        assert 0 <= target.point.x < 640
        assert np.isnan(target.position.x)
        assert np.isnan(target.grasp_pose.orientation.w)


def test_a_point_in_a_hole_of_the_depth_is_marked(camera: Camera, client: GraspClient) -> None:
    camera.show()
    (before,) = client.find(GOOD).targets
    u, v = round(before.point.x), round(before.point.y)

    def punch(image: Any, depth: Any, info: Any) -> None:
        pixels = np.frombuffer(bytes(depth.data), np.uint16).reshape(depth.height, depth.width).copy()
        pixels[v - 4 : v + 5, u - 4 : u + 5] = 0
        depth.data = array.array("B", pixels.tobytes())

    camera.show(punch)
    (after,) = client.find(GOOD).targets
    assert (before.depth_distance, before.status, after.status) == (0.0, after.OK, after.OK)
    assert 4 < after.depth_distance < 6
    assert after.status_text == ""
    assert abs(after.position.z - before.position.z) < 0.003


def test_padded_rows_give_the_same_answer(camera: Camera, client: GraspClient) -> None:
    def pad(image: Any, depth: Any, info: Any) -> None:
        for message in (image, depth):
            rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
            padded = np.full((message.height, message.step + 64), 77, np.uint8)
            padded[:, : message.step] = rows
            message.step += 64
            message.data = array.array("B", padded.tobytes())

    camera.show()
    plain = client.find(GOOD)
    camera.show(pad)
    padded = client.find(GOOD)
    assert padded.success, padded.message
    assert padded.answer == plain.answer
    assert [t.position for t in padded.targets] == [t.position for t in plain.targets]


def test_step_shorter_than_a_row(camera: Camera, client: GraspClient) -> None:
    def shorten(image: Any, depth: Any, info: Any) -> None:
        image.step = 640

    camera.show(shorten)
    refused(client.find(GOOD), "BAD_FRAME", "step 640", "1920")


def test_truncated_data(camera: Camera, client: GraspClient) -> None:
    def cut(image: Any, depth: Any, info: Any) -> None:
        image.data = image.data[: 640 * 3 * 100]

    camera.show(cut)
    refused(client.find(GOOD), "BAD_FRAME", "192000 bytes", "921600")


def test_a_message_that_is_cut_off_on_its_way(
    camera: Camera, client: GraspClient, molmo: MolmoNode, setting: Callable[..., None]
) -> None:
    """Serialized (CDR): one without a complete header, and one that ends in the middle of its fields."""
    setting(frame_wait_s=1.0)
    with pytest.raises(FrameError, match="7 bytes holds no header"):
        stamp_of(b"\0\1\0\0abc")
    raw = camera.node.create_publisher(Image, "image", qos_profile_sensor_data)
    for _ in range(50):
        image, depth, info = camera.messages()
        raw.publish(b"\0\1\0\0abc\0")
        camera.publish(image, depth, info)
        stamp_ns = stamp_to_ns(image.header.stamp)
        if Camera._arrived(molmo.cameras[""], stamp_ns):  # the short one has not held the others up
            break
    camera.forget()
    for _ in range(50):
        image, depth, info = camera.messages()
        raw.publish(serialize_message(image)[:60])
        camera._depth.publish(depth)
        camera._info.publish(info)
        if Camera._arrived(molmo.cameras[""], stamp_to_ns(image.header.stamp)):
            break
    refused(client.find(GOOD), "BAD_FRAME", "/image cannot be read")
    camera.node.destroy_publisher(raw)


@pytest.mark.parametrize(("which", "encoding"), [(0, "yuv422_yuy2"), (1, "64FC1"), (0, ""), (1, "bgr8")])
def test_unknown_encoding(camera: Camera, client: GraspClient, which: int, encoding: str) -> None:
    def rename(*messages: Any) -> None:
        messages[which].encoding = encoding

    camera.show(rename)
    known = ("rgb8", "16UC1")[which]
    refused(client.find(GOOD), "BAD_FRAME", repr(encoding), known)


def test_zero_intrinsics(camera: Camera, client: GraspClient) -> None:
    def forget(image: Any, depth: Any, info: Any) -> None:
        info.k, info.p = [0.0] * 9, [0.0] * 12

    camera.show(forget)
    refused(client.find(GOOD), "BAD_CAMERA_INFO", "no intrinsics", "calibrate")


def test_intrinsics_of_another_size(camera: Camera, client: GraspClient) -> None:
    def shrink(image: Any, depth: Any, info: Any) -> None:
        info.width, info.height = 320, 240

    camera.show(shrink)
    refused(client.find(GOOD), "BAD_CAMERA_INFO", "320x240", "640x480")


def test_nameless_frame(camera: Camera, client: GraspClient) -> None:
    def unname(image: Any, depth: Any, info: Any) -> None:
        image.header.frame_id = ""

    camera.show(unname)
    refused(client.find(GOOD), "BAD_FRAME", "frame_id")


def test_stale_frame(camera: Camera, client: GraspClient, setting: Callable[..., None]) -> None:
    setting(max_frame_age_s=5.0, frame_wait_s=0.1)
    camera.forget()
    camera.show(age_s=60.0)
    response = client.find(GOOD)
    refused(response, "BAD_FRAME", "max_frame_age_s = 5")
    ages = [float(word) for word in re.findall(r"\d+\.\d+", response.message)]
    assert any(60 <= age < 120 for age in ages), response.message


def test_frame_from_the_future(camera: Camera, client: GraspClient, setting: Callable[..., None]) -> None:
    setting(max_frame_age_s=5.0, frame_wait_s=0.1)
    camera.forget()
    camera.show(age_s=-60.0)
    refused(client.find(GOOD), "BAD_FRAME", "ahead", "use_sim_time")
    camera.forget()


def test_depth_that_does_not_pair(camera: Camera, client: GraspClient, setting: Callable[..., None]) -> None:
    setting(sync_slop_s=0.01, frame_wait_s=0.2)
    camera.forget()
    give_up, response = time.monotonic() + 60.0, None
    while response is None or ("1.000 s" not in response.message and time.monotonic() < give_up):
        image, depth, info = camera.messages()  # best effort may lose one
        depth.header.stamp.sec += 1
        camera.publish(image, depth, info)
        response = client.find(GOOD)
        camera.forget()
    refused(response, "BAD_FRAME", "/depth", "1.000 s")


def test_camera_that_does_not_exist(camera: Camera, client: GraspClient) -> None:
    refused(client.find(GOOD, camera="wrist"), "BAD_FRAME", "'wrist'")


@pytest.mark.parametrize("timeout_s", [-1.0, float("nan"), 1e9])
def test_impossible_timeout(camera: Camera, client: GraspClient, timeout_s: float) -> None:
    camera.show()
    refused(client.find(GOOD, timeout_s=timeout_s), "BAD_PARAMETER", "600")


def test_target_frame_without_a_transform(camera: Camera, client: GraspClient) -> None:
    """Without tf2_ros the text says what to install; with it, which transform is missing."""
    camera.show()
    response = client.find(GOOD, target_frame="base_link")
    refused(response, "NO_TRANSFORM", "base_link")
    assert "tf2_ros" in response.message or "No transform from" in response.message


def test_the_transform_is_asked_for_before_the_model(
    camera: Camera, client: GraspClient, molmo: MolmoNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long generation must not outlast the tf buffer: without a transform the model is not even asked."""
    asked: list[Any] = []
    model = molmo.model.grounder().model
    point = model.point
    monkeypatch.setattr(model, "point", lambda *args, **more: asked.append(args) or point(*args, **more))
    camera.show()
    refused(client.find(GOOD, target_frame="base_link"), "NO_TRANSFORM")
    assert asked == []
    assert client.find(GOOD).success
    assert len(asked) == 1


def test_target_frame_of_the_camera_itself_needs_no_tf(camera: Camera, client: GraspClient) -> None:
    camera.show()
    response = client.find(GOOD, target_frame="camera_color_optical_frame")
    assert response.success, response.message
