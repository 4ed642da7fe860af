"""What a goal of ~/track asks the model: one question at a time, and the views since then."""

from __future__ import annotations

import time

from molmo_ros.checkpoint.query import Query
from molmo_ros.datatypes import Array, Grounding, RgbdFrame
from molmo_ros.errors import BusyError
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.context import NodeContext
from molmo_ros.ros.worker import Job
from molmo_ros.track.patch import Seed
from molmo_ros.track.target import seed_of
from molmo_ros.track.view import View

MAX_VIEWS = 30  # through which an answer is propagated; beyond that, every other one is left out


class Question:
    """Asked by the goal's thread; ``cancel`` may come from any other."""

    def __init__(self, context: NodeContext, query: Query, target_frame: str) -> None:
        self._context, self._query, self._target_frame = context, query, target_frame
        self._job: Job[Grounding] | None = None
        self._views: list[View] = []
        self._T: Array | None = None
        self._when = 0.0

    @property
    def open(self) -> bool:
        """Whether the model is being asked."""
        return self._job is not None

    @property
    def answered(self) -> bool:
        """Whether an answer, or a failure, is ready to be taken."""
        return self._job is not None and self._job.done

    @property
    def since_s(self) -> float:
        """How long ago the model was asked, or its last answer was taken; large if it never was."""
        return time.monotonic() - self._when

    def cancel(self) -> None:
        """Stop the model, also in the middle of its answer."""
        job = self._job
        if job is not None:
            job.cancel()

    def forget(self) -> None:
        """Reset, as if nothing had been asked; a running question is cancelled."""
        self.cancel()
        self._job, self._views, self._when = None, [], 0.0

    def ask(
        self, frame: RgbdFrame, view: View, T: Array | None, background: bool, config: NodeConfig
    ) -> None:
        """Queue the question; in the background, when nobody else waits. T: T_target_camera of the frame."""
        self._when, self._T = time.monotonic(), T

        def work(job: Job[Grounding]) -> Grounding:
            grounder = self._context.model.grounder()
            found = grounder.grasp(
                frame,
                self._query,
                T_target_camera=T,
                target_frame=self._target_frame,
                max_targets=config.max_targets or None,
                should_stop=job.should_stop,
            )
            self._context.guard.permit(self._query.text, frame, found, grounder, config, job.should_stop)
            return found

        try:
            self._job = self._context.worker.submit(work, config.timeout_s, background=background)
            self._views = [view]
        except BusyError:  # asked again at the next chance; the stage says "waiting"
            self._job = None

    def add(self, view: View) -> None:
        """A view that came since; at most MAX_VIEWS are kept, with the first and the last."""
        views = [*self._views, view]
        self._views = views if len(views) <= MAX_VIEWS else [*views[:-1:2], views[-1]]

    def take(self) -> tuple[list[View], list[Seed], str]:
        """The views since the question was asked, what the model found on the first of them, and its words.

        Raises: what the model raised.
        """
        assert self._job is not None
        job, views, self._job, self._views = self._job, self._views, None, []
        grounding = job.result()
        self._when = time.monotonic()
        return views, [seed_of(target, self._T) for target in grounding.targets], grounding.answer.text
