"""Demos and tests must not share a ROS domain, or their nodes would answer each other's queries."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from molmo_ros.ros import domain
from molmo_ros.ros.domain import DOMAINS, take_domain

TAKE = "from molmo_ros.ros.domain import take_domain; print(take_domain({first})[0])"


def test_a_domain_is_taken_once_and_given_back() -> None:
    mine, held = take_domain()
    command = [sys.executable, "-c", TAKE.format(first=mine - DOMAINS[0])]
    other = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert mine in DOMAINS and other in DOMAINS and other != mine
    os.close(held)
    again, held = take_domain(mine - DOMAINS[0])  # the process that had the other one has ended
    os.close(held)
    assert again == mine


def test_when_all_are_taken_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "DOMAINS", range(1000, 1003))  # nobody else wants these
    held = [take_domain() for _ in range(3)]
    assert sorted(number for number, _ in held) == [1000, 1001, 1002]
    with pytest.raises(OSError, match="1000 to 1002 are taken; end a demo or a test"):
        take_domain()
    for _, one in held:
        os.close(one)
