"""A goal ends when nobody listens to it any more: a client that is killed never cancels."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from rclpy.node import Node

from molmo_ros.action import Track
from molmo_ros.ros import callers
from molmo_ros.ros.callers import Callers, sign


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.usefixtures("context")
def test_the_last_listener_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "LOOK_S", 0.05)
    monkeypatch.setattr(callers, "LEARN_S", 2.0)
    monkeypatch.setattr(callers, "ALONE_S", 4.0)
    server, client = Node("followed"), Node("follower")
    topic = "/followed/track/_action/feedback"
    feedback = Track.Impl.FeedbackMessage
    listeners = [client.create_subscription(feedback, topic, lambda _: None, 1) for _ in range(2)]
    assert until(lambda: len(server.get_subscriptions_info_by_topic(topic)) == 2)
    someone = Callers(server)
    someone.gone()
    time.sleep(2.1)
    assert not someone.gone()
    client.destroy_subscription(listeners.pop())
    time.sleep(1.0)
    assert not someone.gone()
    later = Callers(server)
    client.destroy_subscription(listeners.pop())
    assert until(someone.gone)
    assert until(later.gone)  # a listener that was there only at first, or nobody at all
    newcomer = client.create_subscription(feedback, topic, lambda _: None, 1)
    assert until(lambda: len(server.get_subscriptions_info_by_topic(topic)) == 1)
    time.sleep(0.2)
    assert someone.gone(), "another client is not that of the goal"
    client.destroy_subscription(newcomer)
    server.destroy_node()
    client.destroy_node()


@pytest.mark.usefixtures("context")
def test_a_goal_that_is_signed_ends_with_its_client_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another client that goes on listening does not keep the goal of one that was killed."""
    monkeypatch.setattr(callers, "LOOK_S", 0.05)
    monkeypatch.setattr(callers, "LEARN_S", 2.0)
    server, client, other = Node("followed"), Node("follower"), Node("bystander")
    topic = "/followed/track/_action/feedback"
    feedback = Track.Impl.FeedbackMessage
    mine = client.create_subscription(feedback, topic, lambda _: None, 1)
    other.create_subscription(feedback, topic, lambda _: None, 1)
    assert until(lambda: len(server.get_subscriptions_info_by_topic(topic)) == 2)
    signed, unsigned = Callers(server, bytes(sign(client).uuid)), Callers(server, bytes(16))
    late = Callers(server, bytes(sign(client).uuid))
    with monkeypatch.context() as unknown:  # on a busy machine a node's name comes seconds after its goal
        unknown.setattr(callers, "_mark", lambda *_: b"")
        assert not late.gone()
        time.sleep(2.1)
        assert not late.gone()
    assert not late.gone() and not signed.gone() and not unsigned.gone()
    time.sleep(2.1)
    assert not late.gone() and not signed.gone() and not unsigned.gone()
    client.destroy_subscription(mine)
    assert until(signed.gone)
    assert until(late.gone)
    assert not unsigned.gone()
    assert sign(client) != sign(client)
    for node in (server, client, other):
        node.destroy_node()


@pytest.mark.usefixtures("context")
def test_a_goal_whose_client_was_killed_before_its_name_came_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "LOOK_S", 0.05)
    monkeypatch.setattr(callers, "LEARN_S", 0.5)
    monkeypatch.setattr(callers, "ALONE_S", 1.0)
    server, killed, other = Node("followed"), Node("killed"), Node("bystander")
    topic = "/followed/track/_action/feedback"
    other.create_subscription(Track.Impl.FeedbackMessage, topic, lambda _: None, 1)
    assert until(
        lambda: [i.node_name for i in server.get_subscriptions_info_by_topic(topic)] == ["bystander"]
    )
    goal_id, unsigned = bytes(sign(killed).uuid), Callers(server, bytes(16))
    assert until(Callers(server, goal_id).gone)
    assert not unsigned.gone()
    time.sleep(1.2)
    assert not unsigned.gone()
    for node in (server, killed, other):
        node.destroy_node()
