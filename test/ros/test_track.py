"""~/track with real action clients over real DDS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatusArray
from ros_helpers import ABSENT, GOOD, Camera, filming, running

from molmo_ros.msg import GraspTargetArray
from molmo_ros.ros import track
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.node import MolmoNode
from molmo_ros.ros.outputs import LATCHED


@pytest.fixture
def film(camera: Camera, client: GraspClient) -> Iterator[Camera]:
    """The camera runs at 15 Hz for the time of a test."""
    with filming(camera):
        yield camera


def follow(goal: Any, count: int, before_the_end: Callable[[], object] | None = None) -> list[Any]:
    """The first ``count`` feedbacks of a goal that follows, which is then cancelled."""
    following: list[Any] = []
    give_up = time.monotonic() + 120.0
    while len(following) < count and time.monotonic() < give_up:
        feedback = next(goal)
        if feedback.stage == "following":
            following.append(feedback)
    assert len(following) == count
    if before_the_end is not None:
        before_the_end()
    goal.close()
    return following


def test_follows_for_a_while_and_says_so(film: Camera, client: GraspClient) -> None:
    following = follow(client.track(GOOD), 10)
    stamps = [(f.targets[0].header.stamp.sec, f.targets[0].header.stamp.nanosec) for f in following]
    assert stamps == sorted(set(stamps))  # every feedback is about a new image
    assert len({feedback.targets[0].point.instance for feedback in following}) == 1
    assert all(0 <= feedback.age < 60 for feedback in following)
    answer = client.find(GOOD).targets[0]
    point = following[-1].targets[0].point
    assert np.hypot(point.x - answer.point.x, point.y - answer.point.y) < 8
    assert abs(following[-1].targets[0].position.z - answer.position.z) < 0.02


def test_a_goal_ends_when_its_time_is_over(film: Camera, client: GraspClient) -> None:
    started, duration_s = time.monotonic(), 2.0
    for _ in range(5):  # twice as long if a busy machine has not got so far as to find the thing
        goal, result = client.track(GOOD, duration_s=duration_s), None
        while result is None:
            try:
                next(goal)
            except StopIteration as end:
                result = end.value
        if result.success:
            break
        started, duration_s = time.monotonic(), 2 * duration_s
    assert result.success, result.message
    assert result.message == "followed to the end"
    assert len(result.targets) == 1
    assert duration_s <= time.monotonic() - started < duration_s + 60


def test_leaving_the_loop_cancels(film: Camera, client: GraspClient, molmo: MolmoNode) -> None:
    goal = client.track(GOOD)
    next(goal)
    started = time.monotonic()
    goal.close()
    while molmo.tracking.running and time.monotonic() - started < 60:
        client.spin(0.05)
    assert molmo.tracking.running == 0


def test_two_clients_follow_side_by_side(film: Camera, client: GraspClient) -> None:
    heard: list[Any] = []
    both = threading.Barrier(2, timeout=120.0)  # each goal lives until the other has been followed as well

    def other() -> None:
        with GraspClient() as second:
            heard.extend(follow(second.track(GOOD), 5, both.wait))

    thread = threading.Thread(target=other)
    thread.start()
    mine = follow(client.track(GOOD), 5, both.wait)
    thread.join(120.0)
    assert len(mine) == len(heard) == 5


def test_what_is_not_there_is_searched_for_and_the_goal_ends(
    film: Camera, client: GraspClient, setting: Callable[..., None]
) -> None:
    setting(track_lost_s=2.0)
    goal = client.track(ABSENT)
    stages = []
    while True:
        try:
            stages.append(next(goal).stage)
        except StopIteration as end:
            result = end.value
            break
    assert "searching" in stages and "lost" not in stages
    assert (result.success, result.code, len(result.targets)) == (False, "LOST", 0)
    assert "was not found" in result.message


def test_bad_goals_are_told_why(camera: Camera, client: GraspClient) -> None:
    for wrong, code in (({"query": ""}, "BAD_QUERY"), ({"query": GOOD, "camera": "nose"}, "BAD_FRAME")):
        goal = client.track(**wrong)
        with pytest.raises(StopIteration) as end:
            next(goal)
        assert (end.value.value.success, end.value.value.code) == (False, code)


def test_silent_camera_ends_the_goal(
    camera: Camera, client: GraspClient, setting: Callable[..., None]
) -> None:
    setting(frame_wait_s=0.5, max_frame_age_s=0.5)
    camera.forget()
    time.sleep(0.6)
    goal = client.track(GOOD)
    with pytest.raises(StopIteration) as end:
        while True:
            next(goal)
    assert end.value.value.code == "BAD_FRAME"


def test_goal_is_cancelled_at_once_while_the_model_is_asked(
    film: Camera, client: GraspClient, molmo: MolmoNode
) -> None:
    """Something else keeps the worker, so that the goal is still "grounding"; its question is never put."""
    release = threading.Event()
    molmo.worker.submit(lambda job: release.wait(60.0), 60.0)
    try:
        goal = client.track(GOOD)
        assert next(goal).stage == "grounding"
        started = time.monotonic()
        goal.close()
        while molmo.tracking.running and time.monotonic() - started < 40:  # the worker is kept for 60 s
            client.spin(0.02)
        assert molmo.tracking.running == 0
    finally:
        release.set()


class Paused:
    """The decoder of the model, which pauses in one of its steps until that job is cancelled."""

    def __init__(self, session: Any, molmo: MolmoNode) -> None:
        self._session, self._molmo = session, molmo
        self.reached = threading.Event()
        self.begun = 0

    def run(self, *args: Any) -> Any:
        self.begun += 1
        if self.begun == 2:  # the first is the prompt
            self.reached.set()
            give_up = time.monotonic() + 60
            while not self._molmo.worker.current.cancelled and time.monotonic() < give_up:
                time.sleep(0.001)
        return self._session.run(*args)

    def interrupt(self) -> None:
        self._session.interrupt()


def test_cancel_ends_the_model_within_a_step(
    film: Camera, client: GraspClient, molmo: MolmoNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrives while the model writes; the current step is the last one."""
    runtime = molmo.model.grounder().model.runtime
    paused = Paused(runtime.decoder, molmo)
    assert molmo.model.grounder().point(film.frame.rgb, GOOD).passes > 2  # it would write on
    monkeypatch.setattr(runtime, "decoder", paused)
    goal = client.track(GOOD)
    assert next(goal).stage == "grounding"
    assert paused.reached.wait(60.0)
    goal.close()
    molmo.worker.submit(lambda job: None, 60.0).result()  # the worker is free again
    assert paused.begun == 2


def test_old_goal_is_cancelled_for_a_new_one(film: Camera, client: GraspClient, molmo: MolmoNode) -> None:
    """To follow something else, a client cancels; the new goal follows at once, under a new number."""
    old = client.track(GOOD)
    while (feedback := next(old)).stage != "following":
        pass
    with GraspClient() as second:
        new = second.track(GOOD)
        while next(new).stage != "following":
            pass
        old.close()
        numbers = {target.point.instance for _ in range(5) for target in next(new).targets}
        assert molmo.tracking.running == 1
        new.close()
    assert numbers.isdisjoint({target.point.instance for target in feedback.targets})


def test_more_goals_than_max_tracks_are_told_busy(
    film: Camera, client: GraspClient, molmo: MolmoNode
) -> None:
    clients = [GraspClient() for _ in range(molmo.config.max_tracks)]
    goals = [one.track(GOOD) for one in clients]
    for goal in goals:
        next(goal)
    with pytest.raises(StopIteration) as end:
        next(client.track(GOOD))
    assert end.value.value.code == "BUSY"
    assert "max_tracks" in end.value.value.message
    for goal, one in zip(goals, clients, strict=True):
        goal.close()
        one.close()


def test_goals_share_the_topic_and_no_instance(film: Camera, client: GraspClient) -> None:
    """While two goals run, every message carries the targets of both, under numbers of their own."""
    heard: list[Any] = []
    subscription = client.node.create_subscription(GraspTargetArray, "/molmo/targets", heard.append, 10)
    with GraspClient() as second:
        other = second.track(GOOD)
        while next(other).stage != "following":
            pass
        mine = client.track(GOOD)
        while next(mine).stage != "following":
            pass
        heard.clear()
        instances = {target.point.instance for target in next(mine).targets}
        instances |= {target.point.instance for target in next(other).targets}
        while len(heard) < 3:
            next(mine)
        together = heard[-1]
        other.close()
    mine.close()
    client.node.destroy_subscription(subscription)
    assert len(instances) == 2
    assert {target.point.instance for target in together.targets} == instances
    assert together.query == f"{GOOD}; {GOOD}"


def test_nothing_is_published_after_a_cancel(film: Camera, client: GraspClient, molmo: MolmoNode) -> None:
    goal = client.track(GOOD)
    while next(goal).stage != "following":
        pass
    goal.close()
    give_up = time.monotonic() + 60
    while molmo.tracking.running and time.monotonic() < give_up:
        client.spin(0.02)
    client.spin(0.2)  # what was under way
    heard: list[Any] = []
    subscription = client.node.create_subscription(GraspTargetArray, "/molmo/targets", heard.append, 10)
    client.spin(0.5)
    client.node.destroy_subscription(subscription)
    assert heard == []


def test_followed_grasp_tells_how_old_it_is(
    film: Camera, client: GraspClient, setting: Callable[..., None]
) -> None:
    setting(reground_s=600.0)
    goal = client.track(GOOD)
    following = follow(goal, 20)
    first, last = following[0], following[-1]
    between = _seconds(last.targets[0].header.stamp) - _seconds(first.targets[0].header.stamp)
    first_s, last_s = (f.targets[0].grasp_age - f.age for f in (first, last))
    assert between > 0.5
    assert last_s - first_s == pytest.approx(between, abs=1e-6)


def test_clock_that_jumps_back_starts_the_track_anew(
    camera: Camera, client: GraspClient, setting: Callable[..., None]
) -> None:
    """A bag that loops: the stamps of the second round are older, and are followed all the same."""
    setting(max_frame_age_s=60.0)
    ages, end = [0.0], threading.Event()

    def run() -> None:
        while not end.wait(1 / 15):
            camera.publish(*camera.messages(ages[0]))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    goal = client.track(GOOD)
    try:
        while next(goal).stage != "following":
            pass
        ages[0] = 20.0
        old = time.time() - 10.0
        while True:
            feedback = next(goal)
            if feedback.stage == "following" and _seconds(feedback.targets[0].header.stamp) < old:
                break
    finally:
        goal.close()
        end.set()
        thread.join(2.0)
        camera.forget()


def _seconds(stamp: Any) -> float:
    return float(stamp.sec + stamp.nanosec / 1e9)


@pytest.mark.usefixtures("context")
def test_goals_that_have_ended_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """rclpy keeps goals for 15 minutes unless told otherwise; the status then lists hundreds."""
    monkeypatch.setattr(track, "RESULT_KEPT_S", 1.0)
    listed: list[int] = []
    with running({"autostart": False}, namespace="/brief"), GraspClient("/brief/molmo") as client:
        topic = "/brief/molmo/track/_action/status"
        client.node.create_subscription(
            GoalStatusArray, topic, lambda message: listed.append(len(message.status_list)), LATCHED
        )
        for _ in range(3):  # refused at once: there is no model
            assert list(client.track(GOOD)) == []
            client.spin(3.0)  # longer than a result is kept
    assert max(listed) == 1, listed
