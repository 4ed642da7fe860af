"""Ctrl-C at any moment of a start; 50 moments by hand: ``python -m molmo_ros.tools.interrupt_nodes``."""

from __future__ import annotations

import os

import pytest

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
