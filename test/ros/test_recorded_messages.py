"""What a recording holds is what the node publishes: the same fields, types and topics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message

from molmo_ros.camera.conversions import camera_info_message, depth_message, image_message
from molmo_ros.datatypes import GraspTarget, Grounding, RgbdFrame
from molmo_ros.draw import annotate
from molmo_ros.pipeline import Grounder
from molmo_ros.recording.replay import Replayed
from molmo_ros.ros.markers import target_markers
from molmo_ros.ros.messages import cloud_message, grasp_pose_stamped, make_header, target_array
from molmo_ros.ros.node import MolmoNode

pytest.importorskip("rosbags", reason='rosbags is not installed: pip install ".[bag]"')
from molmo_ros.recording.mcap import TOPICS, contents
from molmo_ros.recording.messages import Codec

STAMP_NS = 12_000_000_345
T = np.array([[1.0, 0, 0, 0.1], [0, -1, 0, 0.2], [0, 0, -1, 1.0], [0, 0, 0, 1]])
LAYOUT = Path(__file__).parents[2] / "config" / "molmo.foxglove.json"


@pytest.fixture(scope="module")
def result(frame: RgbdFrame) -> Replayed:
    """A bowl that can be grasped, in another frame, and a target that is not known at all."""
    stamped = replace(frame, stamp_ns=STAMP_NS)
    grounder = Grounder.load()
    found = grounder.grasp(stamped, "the white bowl", T_target_camera=T, target_frame="base")
    grounder.close()
    (good,) = found.targets
    bare = GraspTarget(good.point, good.status.NO_DEPTH, "no depth", "base", STAMP_NS)
    both = replace(found, targets=(good, bare))
    assert good.grasp is not None
    return Replayed(0, STAMP_NS, True, stamped, both, None, T, "base")


def of_the_node(frame: RgbdFrame, found: Grounding) -> dict[str, Any]:
    """The messages that the node makes."""
    height, width = frame.depth.shape
    head, optical = make_header(frame.frame_id, STAMP_NS), frame.frame_id
    targets = target_array(found, "base", optical, STAMP_NS, 0.0)
    return {
        "/image": image_message(frame.rgb, "rgb8", head),
        "/depth": depth_message(frame.depth, head),
        "/camera_info": camera_info_message(frame.K, width, height, head),
        "/molmo/targets": targets,
        "/molmo/grasp_pose": grasp_pose_stamped(targets.targets[0]),
        "/molmo/object_points": cloud_message(found.targets, optical, STAMP_NS),
        "/molmo/markers": target_markers(found.targets, "base", STAMP_NS),
        "/molmo/annotated": image_message(annotate(frame.rgb, found.targets, found.query), "rgb8", head),
    }


def plain(value: Any) -> Any:
    """A message as nested dicts and lists. (Its bytes cannot be compared: padding in CDR is arbitrary.)"""
    if hasattr(value, "get_fields_and_field_types"):
        return {name: plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def test_the_fields_are_those_of_the_node(result: Replayed) -> None:
    assert result.frame is not None and result.found is not None
    codec, made = Codec(), contents(result)
    for topic, message in of_the_node(result.frame, result.found).items():
        recorded, sent = codec.encode(TOPICS[topic], made[topic]), serialize_message(message)
        mine, theirs = (plain(deserialize_message(data, type(message))) for data in (recorded, sent))
        np.testing.assert_equal(mine, theirs, topic)  # NaN is as NaN


def test_a_field_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError, match="geometry_msgs/msg/Point has no field w"):
        Codec().encode("geometry_msgs/msg/Point", {"w": 1.0})


def test_topics_and_types_are_those_of_the_running_node(molmo: MolmoNode) -> None:
    """Those of the recording and of the layout, except what a camera and tf publish."""
    published = dict(molmo.get_publisher_names_and_types_by_node("molmo", "/"))
    heard = dict(molmo.get_subscriber_names_and_types_by_node("molmo", "/"))
    for topic, kind in TOPICS.items():
        if topic.startswith("/molmo/") or topic == "/diagnostics":
            assert published[topic] == [kind], topic
        elif topic != "/tf":
            assert heard[topic] == [kind], topic
    config = json.loads(LAYOUT.read_text())["configById"]
    publish = config["Publish!query"]
    assert heard[publish["topicName"]] == [publish["datatype"]]
    assert list(json.loads(publish["value"])) == ["data"]
    assert config["3D!scene"]["followTf"] == RgbdFrame.frame_id
