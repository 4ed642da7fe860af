"""The model inside the node: loads it with progress, and says why it is not ready until then."""

from __future__ import annotations

import gc
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from molmo_ros.errors import (
    CancelledError,
    CheckpointError,
    MolmoRosError,
    NotReadyError,
    RuntimeUnavailableError,
)
from molmo_ros.packages import missing_package
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.memory import freeze_gc, map_large_blocks, trim_heap

if TYPE_CHECKING:
    from molmo_ros.pipeline import Grounder
    from molmo_ros.runtimes.remote.remote import RemoteOptions

logger = logging.getLogger(__name__)


class ModelHost:
    """Holds the Grounder of the node; safe to ask from any thread."""

    def __init__(self, node_name: str = "/molmo") -> None:
        """node_name: the full name, for commands suggested to the user."""
        self._node_name = node_name
        self.starting = False  # the node brings itself up
        self._lock = threading.Lock()
        self._grounder: Grounder | None = None
        self._stage = "not configured"
        self._progress = 0.0
        self._loading = False
        self._stopped = False
        self.error, self.error_code = "", ""
        self.active = False

    def prepare(self, config: NodeConfig) -> None:
        """Do what would block the whole process while the model loads: imports, and the tokenizer.

        To be called before the executor spins; errors are reported by ``load``.
        """
        map_large_blocks()
        from molmo_ros.answer import molmo  # noqa: F401
        from molmo_ros.checkpoint.checkpoint import resolve
        from molmo_ros.checkpoint.prompt import read_tokenizer

        if config.runtime in ("auto", "onnx"):
            with suppress(ImportError):
                import onnxruntime  # noqa: F401

                from molmo_ros.runtimes import export  # noqa: F401
        with suppress(CheckpointError, ImportError):
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
                segmenter=config.segmenter,
                upright_frames=config.upright_frames,
                max_crops=None if config.max_crops < 0 else config.max_crops,
                remote=_remote_options(config),
            )
            self._grounder.warm_up()  # the first query must not pay for imports and allocations
        except ModuleNotFoundError as missing:
            told = RuntimeUnavailableError(missing_package(missing))
            self.error, self.error_code = str(told), told.code
            raise told from missing
        except Exception as error:
            known = isinstance(error, MolmoRosError)
            self.error = str(error) if known else f"{type(error).__name__}: {error}"
            self.error_code = getattr(error, "code", "ERROR") if known else "ERROR"
            raise
        finally:
            self._loading = False

    def stop_loading(self) -> None:
        """Make ``load`` stop for good at its next step: the node shuts down."""
        self._stopped = True

    def unload(self) -> None:
        """Free the model's memory."""
        self.active = False
        with self._lock:
            grounder, self._grounder = self._grounder, None
        if grounder is not None:
            grounder.close()
            del grounder
            gc.collect()
            trim_heap()

    def grounder(self) -> Grounder:
        """The model, ready to answer.

        Raises: NotReadyError with the state and the progress; if loading failed, with the code of that error.
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
        if self.starting and not self.active:
            return "The node is starting; ask again in a moment."
        if self._grounder is None:
            return f"No model is loaded; run: ros2 lifecycle set {self._node_name} configure, then activate."
        if not self.active:
            return f"The node is inactive; run: ros2 lifecycle set {self._node_name} activate."
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
    def away(self) -> str:
        """Why the server of a remote model does not answer; empty if it does, or there is none."""
        grounder = self._grounder
        return "" if grounder is None else str(grounder.model.info.get("away", ""))

    @property
    def progress(self) -> float:
        """0..1 while loading, 1 when loaded."""
        return 1.0 if self._grounder is not None else self._progress

    def _report(self, stage: str, progress: float) -> None:
        self._stage, self._progress = stage, min(max(progress, 0.0), 1.0)
        if self._stopped:
            raise CancelledError("Loading was stopped: the node is shutting down.")


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
