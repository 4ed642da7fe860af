"""What all tests share: a ROS domain for each process that runs tests, and the order of the files."""

from __future__ import annotations

import os

import pytest

from molmo_ros.ros.domain import take_domain

# The files that take longest, in this order: with several workers they must not be the last to begin.
LONGEST = """
    test_real_server.py test_tiny_training.py test_grasp_physics.py test_engine.py test_drafter.py test_cli.py
    test_wild.py test_quantise.py test_device.py test_examples.py test_segmenter_training.py test_draw.py
    test_interrupts.py test_soak.py test_load.py test_node.py test_track.py test_processes.py
""".split()  # noqa: SIM905 (a list of words reads best as one)


# Before anything joins the network: sessions, their workers and demos must not hear each other.
_domain, _held = take_domain()
os.environ["ROS_DOMAIN_ID"] = str(_domain)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
