"""How the node behaves on a running robot: ``python -m molmo_ros.tools.measure_node WHAT``, quiet machine.

idle: CPU compared with a bare rclpy node with the same subscriptions. heartbeat: how long the executor stalls
while the model loads, answers and refuses. cancel: how long the worker is busy after a track was cancelled.
cycles: memory over cleanup and configure. rate: how often a track reports where its object is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.parameter import Parameter

from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.memory import resident_mb
from molmo_ros.ros.node import SPARE_THREADS, MolmoNode, spin
from molmo_ros.ros.processes import Processes

CAMERAS = ("front", "wrist")
RATE_HZ = 30.0
QUERY = "the white bowl"
BARE = """
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
rclpy.init()
node = rclpy.create_node("bare")
for camera in ("front", "wrist"):
    for topic, kind in (("image", Image), ("depth", Image), ("camera_info", CameraInfo)):
        node.create_subscription(kind, f"/{camera}/{topic}", lambda message: None, qos_profile_sensor_data)
rclpy.spin(node)
"""
SHOW = "molmo_ros.ros.sim_camera_node"


def idle(seconds: float) -> dict[str, float]:
    """Share of a core that the node takes with two cameras and no query, and that of the bare node."""
    with Processes() as first, Processes() as second, Processes() as ours:
        for processes, camera in zip((first, second), CAMERAS, strict=True):
            processes.start_node(SHOW, {"rate": RATE_HZ}, ["-r", f"__ns:=/{camera}"])
        node = ours.start_node("molmo_ros.ros.node", {"cameras": list(CAMERAS), "frame_wait_s": 60.0})
        bare = subprocess.Popen([sys.executable, "-c", BARE])
        try:
            with GraspClient() as client:
                client.wait_ready()
                for camera in CAMERAS:  # the cameras build their scenes
                    client.find(QUERY, camera=camera, timeout_s=60.0)
            time.sleep(2.0)
            ours_share, bare_share = _cpu_shares((node.pid, bare.pid), seconds)
        finally:
            bare.kill()
    return {"cpu_node": ours_share, "cpu_bare": bare_share, "ratio": ours_share / bare_share}


def _cpu_shares(pids: Sequence[int], seconds: float) -> list[float]:
    """Share of a core that each of them takes over some seconds."""
    before, start = [_cpu_s(pid) for pid in pids], time.monotonic()
    time.sleep(seconds)
    spent = [_cpu_s(pid) - b for pid, b in zip(pids, before, strict=True)]
    return [s / (time.monotonic() - start) for s in spent]


def heartbeat(checkpoint: str) -> dict[str, Any]:
    """Gaps between the ticks of a 5 ms timer of the node, ms, while it loads, answers and refuses."""
    with _node(checkpoint) as node, Processes() as processes, GraspClient() as client:
        ticks: list[float] = []
        node.create_timer(
            0.005, lambda: ticks.append(time.monotonic()), callback_group=MutuallyExclusiveCallbackGroup()
        )
        time.sleep(1.0)
        gaps = {"loading": _gaps(ticks, node.trigger_configure)}
        node.trigger_activate()
        processes.start_node(SHOW, {"rate": 10.0})
        client.find(QUERY, timeout_s=60.0)
        gaps["thinking"] = _gaps(ticks, lambda: [client.find(QUERY, timeout_s=60.0) for _ in range(20)])
        gaps["refusing"] = _gaps(ticks, lambda: [client.find("") for _ in range(100)])
        gaps["following"] = _gaps(ticks, lambda: list(client.track(QUERY, duration_s=6.0)))
        gaps["cleaning up"] = _gaps(ticks, lambda: (node.trigger_deactivate(), node.trigger_cleanup()))
        gaps["loading again"] = _gaps(ticks, node.trigger_configure)
    return gaps


def cancel(checkpoint: str, repeat: int) -> dict[str, float]:
    """From the cancel of a track in the middle of the model's work until the worker is idle."""
    with _node(checkpoint) as node, Processes() as processes, GraspClient() as client:
        node.trigger_configure()
        node.trigger_activate()
        processes.start_node(SHOW, {"rate": 10.0})
        frame = next(iter(node.cameras.values())).newest_frame(node.config, lambda: False)
        model = node.model.grounder().model
        model.answer(frame.rgb, QUERY)  # warms up
        start = time.monotonic()
        plain = model.answer(frame.rgb[::-1].copy(), QUERY)
        whole_s, rng, times = time.monotonic() - start, np.random.default_rng(0), []
        for _ in range(repeat):
            goal = client.track(QUERY)
            with suppress(StopIteration):
                next(goal)
            while not node.worker.busy:
                time.sleep(0.0005)
            time.sleep(float(rng.uniform(0, whole_s)))
            times.append(_ms_until_idle(node, goal.close))
    stages = {f"{name}_ms": plain.stages_ms[name] for name in ("vision", "prefill")}
    return {
        "queries": repeat,
        "step_ms": plain.stages_ms["decode"] / max(plain.passes - 1, 1),
        **stages,
        "idle_after_ms_p50": float(np.median(times)),
        "idle_after_ms_p90": float(np.percentile(times, 90)),
        "idle_after_ms_max": max(times),
    }


def cycles(checkpoint: str, repeat: int) -> dict[str, Any]:
    """Resident memory after each configure, query and cleanup."""
    from molmo_ros.sim import SimCamera

    frame = SimCamera(0).frame()
    loaded, cleaned = [], []
    with _node(checkpoint) as node:
        for _ in range(repeat):
            node.trigger_configure()
            node.trigger_activate()
            node.model.grounder().grasp(frame, QUERY)
            loaded.append(resident_mb())
            node.trigger_deactivate()
            node.trigger_cleanup()
            cleaned.append(resident_mb())
    return {
        "loaded_mb": [round(value) for value in loaded],
        "cleaned_mb": [round(value) for value in cleaned],
        "loaded_last_to_second": loaded[-1] / loaded[1],
        "cleaned_last_to_second": cleaned[-1] / cleaned[1],
    }


def rate(seconds: float, reliability: str) -> dict[str, Any]:
    """Of a track on one camera: how often it reports where its object is, and how old that report is."""
    topics = ("/image", "/depth", "/camera_info")
    qos = {f"qos_overrides.{topic}.subscription.reliability": reliability for topic in topics}
    with Processes() as processes, GraspClient() as client:
        processes.start_node(SHOW, {"rate": RATE_HZ})
        processes.start_node("molmo_ros.ros.node", {"frame_wait_s": 60.0, **qos})
        client.wait_ready()
        client.find(QUERY, timeout_s=60.0)
        heard = [told for told in client.track(QUERY, duration_s=seconds) if told.stage == "following"]
    stamps = [told.targets[0].header.stamp for told in heard]
    times = np.array([stamp.sec + stamp.nanosec / 1e9 for stamp in stamps])
    ages = 1e3 * np.array([told.age for told in heard])
    return {
        "hz": (len(times) - 1) / float(times[-1] - times[0]),
        "longest_gap_ms": 1e3 * float(np.diff(times).max()),
        "age_ms_p50": float(np.median(ages)),
        "age_ms_p90": float(np.percentile(ages, 90)),
    }


@contextmanager
def _node(checkpoint: str) -> Iterator[MolmoNode]:
    """The node in this process, unconfigured and spun as ever."""
    values = {"autostart": False, "checkpoint": checkpoint, "max_frame_age_s": 5.0, "frame_wait_s": 30.0}
    node = MolmoNode(parameter_overrides=[Parameter(name, value=value) for name, value in values.items()])
    threads = node.config.queue_size + node.config.max_tracks + SPARE_THREADS
    thread = threading.Thread(target=spin, args=(node, threads), daemon=True)
    thread.start()
    try:
        yield node
    finally:
        rclpy.try_shutdown()
        thread.join(5.0)


def _gaps(ticks: list[float], work: Callable[[], object]) -> dict[str, float]:
    ticks.clear()
    start = time.monotonic()
    work()
    end = time.monotonic()
    gaps = 1e3 * np.diff([start, *ticks, end])
    return {"seconds": end - start, "max_ms": float(gaps.max()), "p99_ms": float(np.percentile(gaps, 99))}


def _ms_until_idle(node: MolmoNode, stop: Callable[[], object]) -> float:
    """From the moment that the cancel has reached the node; its way there is that of any service call."""
    asked = threading.Thread(target=stop)
    asked.start()
    start = time.monotonic()
    while (job := node.worker.current) is not None:
        if not job.cancelled:
            start = time.monotonic()
        time.sleep(0.0002)
    spent = 1e3 * (time.monotonic() - start)
    asked.join()
    return spent


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["idle", "heartbeat", "cancel", "cycles", "rate"])
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--repeat", type=int, default=20)
    args = parser.parse_args()
    rclpy.init()
    if args.what == "idle":
        result: dict[str, Any] = idle(20.0)
    elif args.what == "heartbeat":
        result = heartbeat(args.checkpoint)
    elif args.what == "cancel":
        result = cancel(args.checkpoint, args.repeat)
    elif args.what == "rate":
        result = {kind: rate(15.0, kind) for kind in ("best_effort", "reliable")}
    else:
        result = cycles(args.checkpoint, args.repeat)
    print(json.dumps(result), flush=True)
    os._exit(0)  # threads of the executor may still be at work


if __name__ == "__main__":
    main()
