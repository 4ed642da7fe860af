"""Ctrl-C at random moments of a node's start: ``python -m molmo_ros.tools.interrupt_nodes --count 50``.

Each run starts a node as ROS does and sends SIGINT twice, as a terminal and launch do, at a moment between
the start of the process and its first answer (``molmo_node``) or its first frame (``sim_camera_node``). A
clean end has exit status 0 and leaves no trace. It should take less than 15 s, after which launch kills.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ament_index_python.packages import get_package_prefix
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo

from molmo_ros.errors import CancelledError, NotReadyError
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.processes import Processes

NODES = ("molmo_node", "sim_camera_node")
SPACE = "/interrupted"
QUERY = "the white bowl"
FIRST_S = 0.01  # after the script has blocked SIGINT: the interpreter is only starting
FIRST_FRAME_S = 180.0  # of the camera, on a busy machine
TWICE_S = 0.02  # launch hears Ctrl-C too and passes it on
MOST_S = 60.0  # launch kills after 15 s, but a busy machine is not the node's fault
BAD_WORDS = ("Traceback", "terminate called", "Fatal Python error")


@dataclass(frozen=True)
class End:
    """How one run ended. ``moment_s`` is from when SIGINT is blocked, ``took_s`` from the signal."""

    node: str
    moment_s: float
    status: int
    took_s: float
    said: str

    @property
    def clean(self) -> bool:
        """Exit status 0, and no word of a crash."""
        return self.status == 0 and not any(word in self.said for word in BAD_WORDS)


def start(node: str) -> subprocess.Popen[str]:
    """The node as ``ros2 run`` starts it, in a namespace of its own."""
    script = f"{get_package_prefix('molmo_ros')}/lib/molmo_ros/{node}"
    command = [script, "--ros-args", "-r", f"__ns:={SPACE}"]
    if node == "molmo_node":
        command += ["-p", "max_frame_age_s:=20.0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def interrupt(node: str, moment_s: float) -> End:
    """Start it, and interrupt it twice at that moment."""
    process = start(node)
    _wait_until_blocked(process)
    time.sleep(moment_s)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(TWICE_S)
    process.send_signal(signal.SIGINT)
    try:
        said = process.communicate(timeout=MOST_S)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        said = process.communicate()[0]
    return End(node, moment_s, process.returncode, time.monotonic() - begun, said)


def _wait_until_blocked(process: subprocess.Popen[str]) -> None:
    """Until ``env``, with which the script begins, has blocked SIGINT; a busy machine takes its time."""
    give_up, bit = time.monotonic() + MOST_S, 1 << (signal.SIGINT - 1)
    while process.poll() is None and time.monotonic() < give_up:
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        masks = [int(line.split()[1], 16) for line in status if line.startswith(("SigBlk", "SigCgt"))]
        if any(mask & bit for mask in masks):
            return
        time.sleep(0.001)


def time_to_first_answer(node: str) -> float:
    """Seconds from the start of the process to its first answer, or to its first image."""
    begun, process = time.monotonic(), start(node)
    try:
        if node == "molmo_node":
            with GraspClient(f"{SPACE}/molmo") as client:
                client.wait_ready()
                client.find(QUERY, timeout_s=60.0)
        else:
            _wait_for_camera()
        return time.monotonic() - begun
    finally:
        process.kill()
        process.communicate()


def _wait_for_camera() -> None:
    heard: list[CameraInfo] = []
    topic = f"{SPACE}/camera_info"
    with GraspClient() as client:
        client.node.create_subscription(CameraInfo, topic, heard.append, qos_profile_sensor_data)
        give_up = time.monotonic() + FIRST_FRAME_S
        while not heard:
            if time.monotonic() > give_up:
                raise NotReadyError(f"{topic} is silent for {FIRST_FRAME_S:.0f} s; start the camera by hand.")
            client.spin(0.05)


@contextmanager
def asked_all_the_time() -> Iterator[None]:
    """A running camera, and a client that asks as soon as it can, so that answers are interrupted too."""
    end = threading.Event()

    def ask() -> None:
        with GraspClient(f"{SPACE}/molmo") as client:
            while not end.is_set():
                with suppress(CancelledError, NotReadyError):
                    client.find(QUERY, timeout_s=1.0, wait_s=0.5)

    with Processes() as processes:
        processes.start_node("molmo_ros.ros.sim_camera_node", {"rate": 5.0}, ["-r", f"__ns:={SPACE}"])
        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()


def run(node: str, count: int, seed: int, tell: Callable[[End], None] = lambda end: None) -> list[End]:
    """``count`` moments, one in each ``count``-th part of the time to the first answer."""
    rng = np.random.default_rng(seed)
    ends = []
    with asked_all_the_time() if node == "molmo_node" else nullcontext():
        last = 1.1 * time_to_first_answer(node)
        for part in rng.permutation(count):
            moment = FIRST_S + (last - FIRST_S) * (part + rng.random()) / count
            ends.append(interrupt(node, moment))
            tell(ends[-1])
    return ends


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 if a run did not end cleanly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="interrupts of each node (50)")
    parser.add_argument("--node", choices=NODES, action="append", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (0)")
    options = parser.parse_args(arguments)
    bad = 0
    for node in options.node or NODES:
        ends = run(node, options.count, options.seed, _tell)
        clean = sum(end.clean for end in ends)
        bad += len(ends) - clean
        statuses = dict(Counter(end.status for end in ends))
        slowest = round(max(end.took_s for end in ends), 2)
        told = {"node": node, "clean": clean, "of": len(ends), "statuses": statuses, "slowest_s": slowest}
        print(json.dumps(told))
    return int(bad > 0)


def _tell(end: End) -> None:
    line = f"{end.node} after {end.moment_s:.2f} s: status {end.status}, ended in {end.took_s:.2f} s"
    print(line, flush=True)
    if not end.clean:
        print(end.said, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
