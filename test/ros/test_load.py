"""Many clients at once, clients that are killed, a camera that stands still."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import rclpy
from rclpy.context import Context
from ros_helpers import GOOD, SEED, Camera, filming, found_in_time

from molmo_ros.errors import NotReadyError
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.domain import take_domain
from molmo_ros.ros.node import MolmoNode
from molmo_ros.ros.processes import Processes

CLIENTS, CALLS = 10, 10
TIMEOUT_S = 120.0
LEASE_S = 60.0  # Fast DDS forgets a process after 20 s; a busy machine later
# Asks this often at once; what is refused as busy is asked again a little later. Prints when each answer
# came, and its code.
CLIENT = """
import json, sys, time
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.domain import take_domain
from molmo_ros.ros.context import REQUEST_QOS
from molmo_ros.srv import Ground
words, calls, timeout_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
with GraspClient() as client:
    client.wait_ready(60.0)
    service = client.node.create_client(Ground, "/molmo/ground", qos_profile=REQUEST_QOS)
    service.wait_for_service(30.0)
    while not client.spin_until(service.call_async(Ground.Request(query="")), 2.0):
        pass  # the node has not discovered this client yet, and DDS drops the answer
    request = Ground.Request(query=words, timeout_s=timeout_s)
    print("ready", flush=True)
    sys.stdin.readline()
    begun = [time.monotonic()] * calls
    futures = [service.call_async(request) for _ in range(calls)]
    answers, refused, due = [], 0, [0.0] * calls
    while len(answers) < calls and time.monotonic() < begun[0] + timeout_s:
        client.spin(0.02)
        for i, future in enumerate(futures):
            if future is None and 0 < due[i] < time.monotonic():
                due[i], begun[i] = 0.0, time.monotonic()
                futures[i] = service.call_async(request)
            if future is None or not future.done():
                continue
            code, futures[i] = future.result().code, None
            assert time.monotonic() < begun[i] + timeout_s + 2
            if code == "BUSY":
                refused += 1
                due[i] = time.monotonic() + 0.3
            else:
                answers.append((time.monotonic(), code))
print(json.dumps({"answers": answers, "refused": refused}))
"""


def start(words: str, calls: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CLIENT, words, str(calls), str(TIMEOUT_S)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(client: subprocess.Popen[str]) -> None:
    assert client.stdin is not None
    client.stdin.write("go\n")
    client.stdin.flush()


def wait_until_ready(clients: list[subprocess.Popen[str]]) -> None:
    for client in clients:
        assert client.stdout is not None and client.stdout.readline() == "ready\n"


def test_a_hundred_calls_of_ten_processes_are_answered_and_fairly(camera: Camera) -> None:
    """Ten words at once of each of ten clients. Half-way, nobody has been left out."""
    clients = [start(f"{GOOD} {'please ' * i}".strip(), CALLS) for i in range(CLIENTS)]
    try:
        wait_until_ready(clients)
        with filming(camera, 2.0):
            for client in clients:
                go(client)
            told = [json.loads(client.communicate(timeout=2 * TIMEOUT_S)[0]) for client in clients]
    finally:
        for client in clients:
            client.kill()
    assert [client.returncode for client in clients] == [0] * CLIENTS
    answers = sorted((when, code, i) for i, one in enumerate(told) for when, code in one["answers"])
    assert len(answers) == CLIENTS * CALLS
    assert not {code for _, code, _ in answers} & {"CANCELLED", "LOST", "INTERNAL"}
    served = [i for _, _, i in answers[: len(answers) // 2]]
    counts = [served.count(i) for i in range(CLIENTS)]
    print("answers half-way", counts, "refused", [one["refused"] for one in told])
    assert min(counts) >= 1, counts


def test_clients_that_are_killed_leave_the_node_free(
    camera: Camera, client: GraspClient, molmo: MolmoNode
) -> None:
    clients = [start(GOOD, 3) for _ in range(3)]
    wait_until_ready(clients)
    with filming(camera, 2.0):
        for one in clients:
            go(one)
        time.sleep(0.1)  # their calls are under way
        for one in clients:
            one.kill()
            one.communicate()
        assert found_in_time(client, 60.0)
    give_up = time.monotonic() + 60.0
    while molmo.worker.busy and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not molmo.worker.busy


FOLLOWER = """
import sys
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.domain import take_domain
with GraspClient() as client:
    for told in client.track(sys.argv[1]):
        print(told.stage, flush=True)
"""


def test_tracks_whose_clients_are_killed_end(camera: Camera, client: GraspClient, molmo: MolmoNode) -> None:
    """kill -9: no goal is cancelled, and none has an end; another client listens to the feedback of all."""
    with filming(camera, 5.0):
        own = client.track(GOOD)
        next(own)
        command = [sys.executable, "-c", FOLLOWER, GOOD]
        followers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for follower in followers:
            assert follower.stdout is not None and follower.stdout.readline()
        assert molmo.tracking.running == 3
        for follower in followers:
            follower.kill()
            follower.communicate()
        give_up = time.monotonic() + LEASE_S
        while molmo.tracking.running > 1 and time.monotonic() < give_up:
            next(own)
        assert molmo.tracking.running == 1
        own.close()


def test_a_client_in_another_domain_is_told_so(client: GraspClient) -> None:
    elsewhere = Context()
    domain, held = take_domain()
    rclpy.init(context=elsewhere, domain_id=domain)
    with GraspClient(context=elsewhere) as stranger, pytest.raises(NotReadyError, match="ROS_DOMAIN_ID"):
        stranger.find(GOOD, wait_s=2.0)
    rclpy.shutdown(context=elsewhere)
    os.close(held)
    assert client.find("", timeout_s=10.0).code == "BAD_QUERY"


def test_a_camera_that_stands_still_and_comes_back() -> None:
    """SIGSTOP: the process and its topics exist, but nothing arrives."""
    names = ["-r", "__ns:=/still"]
    with Processes() as processes, GraspClient("/still/molmo") as client:
        eye = processes.start_node("molmo_ros.ros.sim_camera_node", {"seed": SEED, "rate": 10.0}, names)
        settings = {"max_frame_age_s": 3.0, "frame_wait_s": 30.0}
        processes.start_node("molmo_ros.ros.node", settings, names)
        client.wait_ready(120.0)
        assert found_in_time(client)
        eye.send_signal(signal.SIGSTOP)
        time.sleep(3.5)
        response = client.find(GOOD, timeout_s=5.0)
        assert (response.success, response.code in ("BAD_FRAME", "CANCELLED")) == (False, True)
        eye.send_signal(signal.SIGCONT)
        assert found_in_time(client)
