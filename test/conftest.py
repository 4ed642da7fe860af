"""What all tests share: a ROS domain for each process that runs tests, and the order of the files."""

from __future__ import annotations

import os

import pytest

# The files that take longest, in this order: with several workers they must not be the last to begin.
LONGEST = """
    test_real_server.py test_tiny_training.py test_grasp_physics.py test_engine.py test_drafter.py test_cli.py
    test_wild.py test_quantise.py test_device.py test_examples.py test_segmenter_training.py test_draw.py
    test_interrupts.py test_soak.py test_load.py test_node.py test_track.py test_processes.py
""".split()  # noqa: SIM905 (a list of words reads best as one)


def own_domain() -> str:
    """Set before anything joins the network: sessions and their workers must not hear each other.

    Domains beyond 101 would use ports that the system gives to others.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")  # gw0, gw1, ...
    return str(1 + (os.getpid() if worker is None else os.getppid() + int(worker[2:])) % 100)


os.environ["ROS_DOMAIN_ID"] = own_domain()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
