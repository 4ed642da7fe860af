"""What the node tells on /diagnostics: state, cameras, latency of each stage, memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from molmo_ros.camera.frames import TOPICS
from molmo_ros.ros.camera import CameraInput
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.memory import resident_mb
from molmo_ros.ros.model_host import ModelHost
from molmo_ros.ros.worker import Worker

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
WINDOW = 200  # answers that the percentiles are taken over


class LatencyLog:
    """Times of the last answers, by stage."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[str, deque[float]] = {}
        self.answered = 0
        self.failed = 0
        self.last_error = ""

    def add(self, stages_ms: Mapping[str, float]) -> None:
        """Note the stages of one answer."""
        with self._lock:
            self.answered += 1
            for stage, value in stages_ms.items():
                self._stages.setdefault(stage, deque(maxlen=WINDOW)).append(value)

    def add_failure(self, error: str) -> None:
        """Note a query that was not answered."""
        with self._lock:
            self.failed += 1
            self.last_error = error

    def percentiles(self) -> dict[str, tuple[float, float]]:
        """stage -> (p50, p95) in ms."""
        with self._lock:
            stages = {stage: list(values) for stage, values in self._stages.items()}
        return {stage: _p50_p95(values) for stage, values in stages.items()}


def node_status(name: str, model: ModelHost, worker: Worker, config: NodeConfig) -> DiagnosticStatus:
    """State of the model and of the queue."""
    state = model.describe()
    level = ERROR if model.error else OK if state == "ready" else WARN
    values = {
        "checkpoint": config.checkpoint,
        "runtime": config.runtime,
        "running": model.running,
        "gripper": config.gripper,
        "progress": f"{model.progress:.0%}",
        "busy": str(worker.busy),
        "queue": f"{worker.waiting} of {config.queue_size}",
        "mean_query_s": f"{worker.mean_s:.3f}",
        "memory_rss_mb": f"{resident_mb():.0f}",
    }
    return _status(f"{name}: model", level, state, values)


def camera_status(name: str, camera: CameraInput, config: NodeConfig, now_ns: int) -> DiagnosticStatus:
    """Age and rate of each topic of a camera, and what is wrong with it."""
    values = {"sync_misses": str(camera.sync_misses())}
    for topic in TOPICS:
        silence = camera.pairer.silence_s(topic, now_ns)
        values[f"{topic}_topic"] = camera.topic_name(topic)
        values[f"{topic}_age_s"] = "never" if silence is None else f"{silence:.3f}"
        values[f"{topic}_rate_hz"] = f"{camera.pairer.rate_hz(topic):.1f}"
    problem = camera.problem(config)
    title = f"{name}: camera {camera.name}".rstrip()
    return _status(title, WARN if problem else OK, problem or "frames arrive", values)


def latency_status(name: str, log: LatencyLog) -> DiagnosticStatus:
    """p50 and p95 of each stage."""
    values = {"answered": str(log.answered), "failed": str(log.failed), "last_error": log.last_error}
    for stage, (p50, p95) in log.percentiles().items():
        values[f"{stage}_ms_p50"], values[f"{stage}_ms_p95"] = f"{p50:.1f}", f"{p95:.1f}"
    message = f"{log.answered} answered, {log.failed} failed"
    return _status(f"{name}: latency", OK, message, values)


def diagnostic_array(stamp: object, statuses: Sequence[DiagnosticStatus]) -> DiagnosticArray:
    """The message for /diagnostics."""
    array = DiagnosticArray(status=list(statuses))
    array.header.stamp = stamp
    return array


def _status(name: str, level: bytes, message: str, values: Mapping[str, str]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=message, hardware_id="molmo_ros", values=pairs)


def _p50_p95(values: Sequence[float]) -> tuple[float, float]:
    return float(np.percentile(values, 50)), float(np.percentile(values, 95))
