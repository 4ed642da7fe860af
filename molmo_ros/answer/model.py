"""What the pipeline needs of a model, wherever it runs: in this process (``Molmo``) or on a server."""

from __future__ import annotations

from typing import Any, Protocol

from molmo_ros.datatypes import Answer, Image, ShouldStop


class Model(Protocol):
    """Images and prompts in, answers out; pixels are those of the image that was given."""

    @property
    def info(self) -> dict[str, Any]:
        """What is loaded: at least checkpoint, runtime and precision."""
        ...

    def answer(
        self,
        rgb: Image,
        prompt: str,
        *,
        max_new_tokens: int = 192,
        max_points: int | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Answer:
        """The whole greedy answer about rgb (H,W,3) uint8, and the points in it.

        Raises: QueryError, FrameError, AnswerError, CancelledError once ``should_stop`` says yes.
        """
        ...

    def point(
        self,
        rgb: Image,
        prompt: str,
        *,
        label: str = "",
        max_points: int | None = None,
        exact: bool = False,
        previous: Answer | None = None,
        max_new_tokens: int = 192,
        should_stop: ShouldStop | None = None,
    ) -> Answer:
        """As ``answer``, for a prompt that asks for points; ends as soon as their coordinates are known."""
        ...

    def close(self) -> None:
        """Free the memory; the model is not used again."""
        ...
