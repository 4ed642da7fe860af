"""The node's behaviour: it never blocks, says what it does, and publishes what it answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import MultiThreadedExecutor
from rclpy.parameter import Parameter
from ros_helpers import GOOD, Camera, Spinning, heard_publisher
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from molmo_ros.msg import GraspTargetArray
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.node import MolmoNode
from molmo_ros.ros.outputs import LATCHED
from molmo_ros.srv import Ground


class Ear:
    """Collects the messages of a topic."""

    def __init__(self, client: GraspClient, kind: type, topic: str, qos: Any = 10) -> None:
        self.messages: list[Any] = []
        self._client = client
        self._subscription = client.node.create_subscription(kind, topic, self.messages.append, qos)

    def wait(self, accept: Callable[[Any], bool] = lambda message: True, wait_s: float = 60.0) -> Any:
        give_up = time.monotonic() + wait_s
        while time.monotonic() < give_up:
            for message in self.messages:
                if accept(message):
                    return message
            self._client.spin(0.05)
        raise AssertionError(f"nothing acceptable among {len(self.messages)} messages")

    def close(self) -> None:
        self._client.node.destroy_subscription(self._subscription)


@pytest.fixture
def ear(client: GraspClient) -> Iterator[Callable[..., Ear]]:
    ears: list[Ear] = []

    def make(kind: type, topic: str, qos: Any = 10) -> Ear:
        ears.append(Ear(client, kind, topic, qos))
        return ears[-1]

    yield make
    for one in ears:
        one.close()


def test_answer_comes_out_on_the_topics(camera: Camera, client: GraspClient, ear: Callable[..., Ear]) -> None:
    listening = {
        "targets": ear(GraspTargetArray, "/molmo/targets"),
        "pose": ear(PoseStamped, "/molmo/grasp_pose"),
        "points": ear(PointCloud2, "/molmo/object_points"),
        "markers": ear(MarkerArray, "/molmo/markers"),
        "annotated": ear(Image, "/molmo/annotated"),
    }
    client.spin(0.5)
    camera.show()
    response = client.find(GOOD)
    assert response.success, response.message
    stamp = response.targets[0].header.stamp
    targets = listening["targets"].wait(lambda message: message.header.stamp == stamp)
    assert targets.query == GOOD
    assert targets.targets == response.targets
    pose = listening["pose"].wait(lambda message: message.header.stamp == stamp)
    assert pose.pose == response.targets[0].grasp_pose
    assert listening["points"].wait(lambda message: message.header.stamp == stamp).width > 100
    markers = listening["markers"].wait(lambda message: message.markers[0].header.stamp == stamp)
    assert len(markers.markers) > 5
    annotated = listening["annotated"].wait(lambda message: message.header.stamp == stamp)
    assert (annotated.width, annotated.height, annotated.encoding) == (640, 480, "rgb8")


def test_query_topic_answers_on_the_topics(
    camera: Camera, client: GraspClient, ear: Callable[..., Ear]
) -> None:
    targets = ear(GraspTargetArray, "/molmo/targets")
    publisher = heard_publisher(client, String, "/molmo/query")
    client.spin(0.5)
    targets.messages.clear()
    camera.show()
    publisher.publish(String(data=f"  {GOOD}\n"))
    assert targets.wait().query == GOOD
    client.node.destroy_publisher(publisher)


def test_bad_query_on_the_topic_is_survived(camera: Camera, client: GraspClient) -> None:
    publisher = heard_publisher(client, String, "/molmo/query")
    publisher.publish(String(data=""))
    publisher.publish(String(data="x" * 1_000_000))
    camera.show()
    assert client.find(GOOD).success
    client.node.destroy_publisher(publisher)


def test_late_subscriber_gets_the_last_answer(
    camera: Camera, client: GraspClient, ear: Callable[..., Ear]
) -> None:
    camera.show()
    client.find(GOOD)
    assert ear(GraspTargetArray, "/molmo/targets", LATCHED).wait().query == GOOD


def test_grasp_is_left_out_if_not_wanted(camera: Camera, client: GraspClient) -> None:
    camera.show()
    response = client.find(GOOD, grasp=False)
    assert response.success
    assert response.targets[0].position.z > 0.1
    assert response.targets[0].width != response.targets[0].width  # NaN


def test_ask(camera: Camera, client: GraspClient) -> None:
    camera.show()
    response = client.ask("How many mugs are there?", max_tokens=8)
    assert response.success, response.message
    assert response.answer
    assert not client.ask("").success


def test_diagnostics_tell_model_cameras_and_latency(
    camera: Camera, client: GraspClient, ear: Callable[..., Ear]
) -> None:
    camera.show()
    client.find(GOOD)
    message = ear(DiagnosticArray, "/diagnostics").wait()
    by_name = {status.name: status for status in message.status}
    assert set(by_name) == {"molmo: model", "molmo: camera", "molmo: latency"}
    values = {pair.key: pair.value for status in message.status for pair in status.values}
    assert by_name["molmo: model"].message == "ready"
    assert by_name["molmo: model"].level == b"\x00"
    assert values["image_topic"] == "/image"
    assert float(values["image_age_s"]) < 60
    assert float(values["total_ms_p50"]) <= float(values["total_ms_p95"])
    assert float(values["memory_rss_mb"]) > 50


def test_silent_camera_is_named_in_the_diagnostics(
    camera: Camera, client: GraspClient, setting: Callable[..., None], ear: Callable[..., Ear]
) -> None:
    camera.show()
    setting(max_frame_age_s=0.5)
    ears = ear(DiagnosticArray, "/diagnostics")
    message = ears.wait(lambda message: message.status[1].level == b"\x01")
    assert "/image has been silent" in message.status[1].message


def test_frame_is_waited_for(camera: Camera, client: GraspClient, setting: Callable[..., None]) -> None:
    setting(frame_wait_s=30.0)
    camera.forget()
    later = threading.Timer(0.5, camera.show)
    later.start()
    assert client.find(GOOD).success
    later.join()


def test_too_many_queries_are_told_busy_and_nothing_blocks(
    molmo: MolmoNode, camera: Camera, client: GraspClient, setting: Callable[..., None]
) -> None:
    """The camera is silent and a query waits for it: the queue fills, the rest is refused at once."""
    setting(frame_wait_s=60.0)
    camera.forget()
    size = molmo.config.queue_size
    ground = client.node.create_client(Ground, "/molmo/ground")
    assert ground.wait_for_service(10.0)
    futures = [ground.call_async(Ground.Request(query=GOOD))]
    while not molmo.worker.busy:
        client.spin(0.02)
    futures += [ground.call_async(Ground.Request(query=GOOD)) for _ in range(size + 3)]
    get_state = client.node.create_client(GetState, "/molmo/get_state")
    started = time.monotonic()
    state = get_state.call_async(GetState.Request())
    assert client.spin_until(state, 10.0)
    assert state.result().current_state.label == "active"
    while sum(future.done() for future in futures) < 3 and time.monotonic() - started < 40.0:
        client.spin(0.05)
    refused = [future.result() for future in futures if future.done()]
    assert len(refused) == 3  # one runs, queue_size wait
    assert {response.code for response in refused} == {"BUSY"}
    assert "queries are waiting" in refused[0].message
    camera.show()
    for future in futures:
        client.spin_until(future, 60.0)
    assert sum(future.result().success for future in futures) == size + 1


def test_whole_numbers_serve_where_the_messages_want_floats(camera: Camera, client: GraspClient) -> None:
    """The generated C code aborts the process on an int in place of a float."""
    camera.show()
    assert client.find(GOOD, timeout_s=60, max_targets=1.0).success  # type: ignore[arg-type]
    followed = client.track(GOOD, duration_s=1, rate_hz=5)
    assert next(followed).stage
    followed.close()


def test_timeout_of_a_request_holds(
    camera: Camera, client: GraspClient, setting: Callable[..., None]
) -> None:
    setting(frame_wait_s=60.0)
    camera.forget()
    started = time.monotonic()
    response = client.find(GOOD, timeout_s=0.5)
    assert time.monotonic() - started < 30.0
    assert (response.success, response.code) == (False, "CANCELLED")
    assert "0.5 s" in response.message
    assert "timeout_s" in response.message
    camera.show()
    assert client.find(GOOD).success


class Managed:
    """A second node that is told what to do, as a lifecycle manager does it."""

    def __init__(self, **overrides: Any) -> None:
        values = {"autostart": False, "max_frame_age_s": 60.0, **overrides}
        parameters = [Parameter(name, value=value) for name, value in values.items()]
        self.node = MolmoNode(
            parameter_overrides=parameters, cli_args=["--ros-args", "-r", "__node:=managed"]
        )
        self._spinning = Spinning(self.node, MultiThreadedExecutor(8))
        self.node.start()
        self.client = GraspClient("/managed")
        self._change = self.client.node.create_client(ChangeState, "/managed/change_state")
        self._state = self.client.node.create_client(GetState, "/managed/get_state")

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self._answer(self._change, request).success)

    def state(self) -> str:
        return str(self._answer(self._state, GetState.Request()).current_state.label)

    def _answer(self, service: Any, request: Any) -> Any:
        assert service.wait_for_service(60.0)
        future = service.call_async(request)
        assert self.client.spin_until(future, 60.0)
        return future.result()

    def close(self) -> None:
        self.client.close()
        self._spinning.stop()
        self.node.destroy_node()


@pytest.fixture
def managed(context: None) -> Iterator[Callable[..., Managed]]:
    made: list[Managed] = []

    def make(**overrides: Any) -> Managed:
        made.append(Managed(**overrides))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_manager_leads_through_all_states(managed: Callable[..., Managed], camera: Camera) -> None:
    node = managed()
    assert node.state() == "unconfigured"
    response = node.client.find(GOOD)
    assert (response.success, response.code) == (False, "NOT_READY")
    assert "configure" in response.message
    assert node.change(Transition.TRANSITION_CONFIGURE)
    assert "activate" in node.client.find(GOOD).message
    assert not node.change(Transition.TRANSITION_CONFIGURE)  # not allowed now: refused, and the node lives on
    assert node.change(Transition.TRANSITION_ACTIVATE)
    assert node.state() == "active"
    camera.show()
    assert node.client.find(GOOD).success
    assert node.change(Transition.TRANSITION_DEACTIVATE)
    assert node.client.find(GOOD).code == "NOT_READY"
    assert node.change(Transition.TRANSITION_CLEANUP)
    assert node.state() == "unconfigured"
    assert node.change(Transition.TRANSITION_CONFIGURE)


def test_missing_checkpoint_is_told_and_the_node_lives(managed: Callable[..., Managed]) -> None:
    node = managed(checkpoint="/nowhere/at/all")
    assert not node.change(Transition.TRANSITION_CONFIGURE)
    assert node.state() == "unconfigured"
    response = node.client.find(GOOD)
    assert response.code == "BAD_CHECKPOINT"
    assert "/nowhere/at/all" in response.message


def test_loading_is_told_with_its_progress_and_blocks_nothing(managed: Callable[..., Managed]) -> None:
    """A timer of the node ticks on while the model loads, and calls are answered."""
    node = managed()
    ticks: list[float] = []
    timer = node.node.create_timer(0.01, lambda: ticks.append(time.monotonic()))
    configure = threading.Thread(target=node.node.trigger_configure)
    assert node.client.find(GOOD).code == "NOT_READY"  # it is there, and heard
    ticks.clear()
    configure.start()
    messages = []
    while configure.is_alive():
        messages.append(node.client.find(GOOD).message)
    node.node.destroy_timer(timer)
    assert any(message.startswith("loading, ") and "%" in message for message in messages), messages
    assert len(ticks) >= 5  # dozens on a free machine, one at most if loading held the executor
