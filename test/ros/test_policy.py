"""config/policy.xml allows what the running nodes do, and only a few things besides that they may need."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter

from molmo_ros.ros.sim_camera_node import SimCameraNode

POLICY = Path(__file__).parent.parent.parent / "config" / "policy.xml"
# Allowed and not always used: depth of another camera, sim time, tf2 where it is installed, what newer
# distributions have.
SOMETIMES = {
    ("subscribe", "/depth_camera_info"),
    ("subscribe", "/clock"),
    ("subscribe", "/tf"),
    ("subscribe", "/tf_static"),
    ("reply", "/tf2_frames"),
    ("reply", "~/get_type_description"),
}
ACTION_SERVICES = ("send_goal", "cancel_goal", "get_result")
ACTION_TOPICS = ("feedback", "status")


def allowed(node: str) -> set[tuple[str, str]]:
    """(verb, absolute name) of one node; an action stands for its services and topics (design.ros2.org)."""
    profile = ElementTree.parse(POLICY).getroot().find(f".//profile[@node='{node}']")
    assert profile is not None and profile.get("ns") == "/"
    found = set()
    for group in profile:
        for verb, rule in group.attrib.items():
            assert rule == "ALLOW"
            found |= {(verb, full(entry.text or "", node)) for entry in group}
    for verb, name in [rule for rule in found if rule[0] == "execute"]:
        found.remove((verb, name))
        found |= {("reply", f"{name}/_action/{part}") for part in ACTION_SERVICES}
        found |= {("publish", f"{name}/_action/{part}") for part in ACTION_TOPICS}
    return found


def full(name: str, node: str) -> str:
    if name.startswith("~"):
        return f"/{node}{name[1:]}"
    return name if name.startswith("/") else f"/{name}"


def used(observer: Node, node: Node) -> set[tuple[str, str]]:
    """(verb, absolute name) of everything that the graph shows of a node."""
    who = (node.get_name(), node.get_namespace())
    kinds = {
        "publish": observer.get_publisher_names_and_types_by_node,
        "subscribe": observer.get_subscriber_names_and_types_by_node,
        "reply": observer.get_service_names_and_types_by_node,
        "request": observer.get_client_names_and_types_by_node,
    }
    return {(verb, name) for verb, query in kinds.items() for name, _ in query(*who)}


def settled(observer: Node, node: Node) -> set[tuple[str, str]]:
    """The same once discovery brings nothing new."""
    before: set[tuple[str, str]] = set()
    for _ in range(40):
        now = used(observer, node)
        if now and now == before:
            return now
        before = now
        time.sleep(0.25)
    raise AssertionError("the graph does not settle")


@pytest.fixture
def observer(context: None) -> Iterator[Node]:
    node = Node("policy_observer")
    yield node
    node.destroy_node()


def compare(uses: set[tuple[str, str]], node: str) -> None:
    rules = allowed(node)
    assert uses - rules == set(), "used, and not allowed: add it to config/policy.xml"
    sometimes = {(verb, full(name, node)) for verb, name in SOMETIMES}
    assert rules - uses - sometimes == set(), "allowed, and not used: take it out of config/policy.xml"


def test_policy_of_the_node(molmo: Node, observer: Node) -> None:
    uses = settled(observer, molmo)
    assert ("reply", "/molmo/ground") in uses and (
        "publish",
        "/diagnostics",
    ) in uses
    compare(uses, "molmo")


def test_policy_of_the_simulated_camera(observer: Node) -> None:
    small = [Parameter("width", value=64), Parameter("height", value=48)]
    camera = SimCameraNode(parameter_overrides=small)
    try:
        compare(settled(observer, camera), "sim_camera")
    finally:
        camera.destroy_node()
