"""Nodes as separate processes, ended together whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType

PATIENCE_S = 5.0  # from asking a process to end until it is killed


class Processes:
    """Context manager over child processes; leaving it interrupts them, waits, and kills what is left."""

    def __init__(self, env: Mapping[str, str] | None = None, quiet: bool = True) -> None:
        """env replaces the environment of the children; quiet keeps their log until one of them fails."""
        self._env = dict(os.environ if env is None else env)
        self._quiet = quiet
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start_node(
        self, module: str, parameters: Mapping[str, object] | None = None, ros_args: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Start ``python -m module`` with ROS parameters and further ROS arguments."""
        command = [sys.executable, "-m", module, "--ros-args", *ros_args]
        for name, value in (parameters or {}).items():
            command += ["-p", f"{name}:={_yaml(value)}"]
        output = subprocess.DEVNULL if self._quiet else None
        child = subprocess.Popen(command, env=self._env, stdout=output, stderr=output)
        self._children[module] = child
        return child

    def dead(self) -> list[str]:
        """Modules and exit statuses of the children that have ended by themselves."""
        return [
            f"{module} (status {child.returncode})"
            for module, child in self._children.items()
            if child.poll() is not None
        ]

    def stop(self) -> None:
        """End all children."""
        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
        for child in self._children.values():
            try:
                child.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _yaml(value: object) -> str:
    """A parameter value as the command line of ROS wants it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)
