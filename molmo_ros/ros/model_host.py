"""The model inside the node: loading with progress, and "not ready" in words until it is there."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from molmo_ros.errors import CheckpointError, MolmoRosError, NotReadyError
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.memory import freeze_gc, map_large_blocks, trim_heap

if TYPE_CHECKING:
    from molmo_ros.pipeline import Grounder
    from molmo_ros.runtimes.remote.remote import RemoteOptions

logger = logging.getLogger(__name__)


class ModelHost:
    """Holds the Grounder of the node; safe to ask from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._grounder: Grounder | None = None
        self._stage = "not configured"
        self._progress = 0.0
        self._loading = False
        self.error, self.error_code = "", ""
        self.active = False

    def prepare(self, config: NodeConfig) -> None:
        """What would hold the whole process while the model loads: imports, and the tokenizer.

        To be called before the executor spins; whatever is wrong is told by ``load``.
        """
        map_large_blocks()
        from molmo_ros.answer import molmo  # noqa: F401
        from molmo_ros.checkpoint.checkpoint import resolve
        from molmo_ros.checkpoint.prompt import read_tokenizer

        if config.runtime in ("auto", "onnx"):
            with suppress(ImportError):
                import onnxruntime  # noqa: F401

                from molmo_ros.runtimes import export  # noqa: F401
        with suppress(CheckpointError):
            read_tokenizer(resolve(config.checkpoint) / "tokenizer.json")
        freeze_gc()

    def load(self, config: NodeConfig) -> None:
        """Load the model; slow. Raises: what Grounder.load raises."""
        self.error, self.error_code, self._loading = "", "", True
        self._report("starting", 0.0)
        try:
            from molmo_ros.pipeline import Grounder

            self._grounder = Grounder.load(
                checkpoint=config.checkpoint,
                runtime=config.runtime,
                gripper=config.gripper,
                progress=self._report,
                precision=config.precision,
                allow_download=config.allow_download,
                max_tilt_deg=config.max_tilt_deg,
                max_crops=None if config.max_crops < 0 else config.max_crops,
                remote=_remote_options(config),
            )
        except Exception as error:
            known = isinstance(error, MolmoRosError)
            self.error = str(error) if known else f"{type(error).__name__}: {error}"
            self.error_code = getattr(error, "code", "ERROR") if known else "ERROR"
            raise
        finally:
            self._loading = False

    def unload(self) -> None:
        """Free the model's memory."""
        self.active = False
        with self._lock:
            grounder, self._grounder = self._grounder, None
        if grounder is not None:
            grounder.close()
            del grounder
            trim_heap()

    def grounder(self) -> Grounder:
        """The model, ready to answer.

        Raises: NotReadyError with the state and the progress; if loading failed, with the code of why.
        """
        grounder = self._grounder
        if grounder is None or not self.active:
            error = NotReadyError(self.describe())
            error.code = self.error_code or error.code
            raise error
        return grounder

    def describe(self) -> str:
        """The state in one sentence."""
        if self._loading:
            return f"loading, {self._progress:.0%} ({self._stage}); ask again in a moment."
        if self.error:
            return f"The model could not be loaded: {self.error}"
        if self._grounder is None:
            return "No model is loaded; configure and activate the node (ros2 lifecycle set)."
        if not self.active:
            return "The node is inactive; activate it (ros2 lifecycle set ... activate)."
        return "ready"

    @property
    def running(self) -> str:
        """What the model runs on: "onnx, fp32" or "remote, http://gpu-box:8000/v1"; empty without one."""
        grounder = self._grounder
        if grounder is None:
            return ""
        info = grounder.model.info
        return f"{info['runtime']}, {info.get('url') or info['precision']}"

    @property
    def progress(self) -> float:
        """0..1 while loading, 1 when loaded."""
        return 1.0 if self._grounder is not None else self._progress

    def _report(self, stage: str, progress: float) -> None:
        self._stage, self._progress = stage, min(max(progress, 0.0), 1.0)


def _remote_options(config: NodeConfig) -> RemoteOptions:
    """The node's parameters ``remote_*``."""
    from molmo_ros.runtimes.remote.remote import RemoteOptions

    return RemoteOptions(
        url=config.remote_url,
        model=config.remote_model,
        key_env=config.remote_key_env,
        timeout_s=config.remote_timeout_s,
        retries=config.remote_retries,
        image=config.remote_image,
        format=config.remote_format,
    )
