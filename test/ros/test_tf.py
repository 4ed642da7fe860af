"""Targets in another frame: the pose of the camera at the stamp of the image, not the latest one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from ros_helpers import FRAME, GOOD, Camera

from molmo_ros.camera.conversions import stamp_to_ns
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.messages import make_header

tf2_ros = pytest.importorskip(
    "tf2_ros", reason="tf2_ros is not installed here; it comes with a robot's ROS 2"
)
SPEED = 0.5  # m/s along x of the base


class MovingCamera:
    """tf of a camera that looks down at the base from z = 1 m and moves along x with SPEED."""

    def __init__(self, camera: Camera) -> None:
        self._node = camera.node
        self._broadcaster = tf2_ros.TransformBroadcaster(camera.node)
        self.start_ns = camera.node.get_clock().now().nanoseconds - 5_000_000_000
        self._timer = camera.node.create_timer(0.02, self._send)

    def x_at(self, stamp_ns: int) -> float:
        return SPEED * (stamp_ns - self.start_ns) / 1e9

    def transform_at(self, stamp_ns: int) -> object:
        from geometry_msgs.msg import TransformStamped

        message = TransformStamped(header=make_header("base_link", stamp_ns), child_frame_id=FRAME)
        message.transform.translation.x = self.x_at(stamp_ns)
        message.transform.translation.z = 1.0
        message.transform.rotation.x, message.transform.rotation.w = 1.0, 0.0  # half a turn about x
        return message

    def send_past(self) -> None:
        for stamp_ns in range(self.start_ns, self._node.get_clock().now().nanoseconds, 50_000_000):
            self._broadcaster.sendTransform(self.transform_at(stamp_ns))

    def _send(self) -> None:
        self._broadcaster.sendTransform(self.transform_at(self._node.get_clock().now().nanoseconds))

    def close(self) -> None:
        self._node.destroy_timer(self._timer)


@pytest.fixture
def moving(camera: Camera, client: GraspClient) -> Iterator[MovingCamera]:
    from rclpy.executors import SingleThreadedExecutor
    from ros_helpers import Spinning

    camera.show()
    client.find(GOOD, target_frame="base_link")  # the node begins to listen to tf
    moving = MovingCamera(camera)
    spinning = Spinning(camera.node, SingleThreadedExecutor())
    threading.Event().wait(1.0)
    moving.send_past()
    threading.Event().wait(0.5)
    yield moving
    spinning.stop()
    moving.close()


def test_pose_is_that_at_the_stamp_of_the_image(
    camera: Camera, client: GraspClient, moving: MovingCamera
) -> None:
    """Half a turn about x: (x, y, z) of the camera is (x + where it was, -y, 1 - z) of the base."""
    camera.show(age_s=2.0)
    seen = client.find(GOOD).targets[0]
    there = client.find(GOOD, target_frame="base_link").targets[0]
    assert there.header.frame_id == "base_link"
    assert there.header.stamp == seen.header.stamp
    x = moving.x_at(stamp_to_ns(seen.header.stamp))
    wanted = np.array([seen.position.x + x, -seen.position.y, 1.0 - seen.position.z])
    got = np.array([there.position.x, there.position.y, there.position.z])
    np.testing.assert_allclose(got, wanted, atol=1e-6)  # "latest" would be SPEED * 2 s = 1 m off


def test_covariance_is_rotated(camera: Camera, client: GraspClient, moving: MovingCamera) -> None:
    camera.show()
    seen = np.array(client.find(GOOD).targets[0].position_covariance).reshape(3, 3)
    there = np.array(client.find(GOOD, target_frame="base_link").targets[0].position_covariance).reshape(3, 3)
    R = np.diag([1.0, -1.0, -1.0])
    np.testing.assert_allclose(there, R @ seen @ R.T, atol=1e-12)


def test_frame_before_the_first_transform(camera: Camera, client: GraspClient, moving: MovingCamera) -> None:
    camera.forget()
    camera.show(age_s=15.0)
    response = client.find(GOOD, target_frame="base_link")
    assert (response.success, response.code) == (False, "NO_TRANSFORM")
    assert "extrapolation into the past" in response.message
    camera.forget()


def test_followed_target_is_moved_by_the_transform_of_each_image(
    camera: Camera, client: GraspClient, moving: MovingCamera
) -> None:
    """The camera moves by tf and sees the same all the time: so the thing moves along in the base."""
    end = threading.Event()

    def film() -> None:
        while not end.wait(1 / 15):
            camera.publish(*camera.messages(age_s=0.4))  # "latest" would be SPEED * 0.4 s = 0.2 m off

    thread = threading.Thread(target=film, daemon=True)
    camera.show(age_s=0.4)
    seen = client.find(GOOD).targets[0]
    thread.start()
    goal, offsets, travelled = client.track(GOOD, target_frame="base_link", duration_s=20.0), [], []
    while len(offsets) < 12:
        feedback = next(goal)
        if feedback.stage == "following":
            there = feedback.targets[0]
            assert (there.header.frame_id, there.status) == ("base_link", there.OK)
            travelled.append(moving.x_at(stamp_to_ns(there.header.stamp)))
            offsets.append(there.position.x - seen.position.x - travelled[-1])
    goal.close()
    end.set()
    thread.join(2.0)
    assert travelled[-1] - travelled[0] > 0.2
    assert np.abs(offsets).max() < 0.02
