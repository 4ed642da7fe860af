"""Ctrl-C at any moment of a start; 50 moments by hand: ``python -m molmo_ros.tools.interrupt_nodes``."""

from __future__ import annotations

import os

import pytest
import rclpy
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode

from molmo_ros.errors import CancelledError
from molmo_ros.msg import GraspTargetArray
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.outputs import Outputs
from molmo_ros.tools.interrupt_nodes import FIRST_S, NODES, interrupt, run

COUNT = int(os.environ.get("MOLMO_ROS_INTERRUPTS", "3"))


@pytest.mark.parametrize("node", NODES)
def test_a_node_ends_cleanly_at_any_moment(node: str) -> None:
    """From the first line of the interpreter to the first answer, with a client that asks."""
    assert [end for end in run(node, COUNT, seed=os.getpid()) if not end.clean] == []


@pytest.mark.parametrize("node", NODES)
def test_a_node_ends_cleanly_while_python_itself_starts(node: str) -> None:
    """Before any line of a script Python would end with a trace of its own."""
    for moment_s in (FIRST_S, 2 * FIRST_S, 4 * FIRST_S):
        end = interrupt(node, moment_s)
        assert end.clean, end


def test_what_is_published_after_ctrl_c_is_no_error() -> None:
    context = Context()
    rclpy.init(context=context)
    node = LifecycleNode("ended", context=context, enable_communication_interface=False)
    outputs = Outputs(node, NodeConfig)
    node.trigger_configure()
    node.trigger_activate()
    outputs.publish_targets(GraspTargetArray())
    context.shutdown()
    with pytest.raises(CancelledError, match="shutting down"):
        outputs.publish_targets(GraspTargetArray())
