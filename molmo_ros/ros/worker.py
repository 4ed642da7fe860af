"""One thread that does the slow work, fed by a bounded queue. Knows no ROS."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from molmo_ros.errors import BusyError, CancelledError, MolmoRosError
from molmo_ros.ros.turns import Turns

logger = logging.getLogger(__name__)
R = TypeVar("R")
KEEP_S = 1.0  # a refused client's place is kept for this long after the wait it was told
LOOK_S = 0.5  # how often a caller that waits checks the deadline, which may be set when the job starts
SMOOTHING = 0.3  # weight of the newest job in the running mean of the durations


class Job(Generic[R]):
    """A piece of work with a deadline; the caller waits for its result.

    ``waits``: the time in the queue does not count, since nobody waits for the answer.
    """

    def __init__(
        self, work: Callable[[Job[R]], R], timeout_s: float, client: str = "", waits: bool = False
    ) -> None:
        self._work: Callable[[Job[R]], R] | None = work
        self.client = client
        self.timeout_s = timeout_s
        self.deadline = math.inf if waits else time.monotonic() + timeout_s
        self._cancelled = threading.Event()
        self._done = threading.Event()
        self._result: R | None = None
        self._error: BaseException | None = None

    def cancel(self) -> None:
        """Ask the work to stop; it does when it next polls ``should_stop``."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """True once somebody has asked it to stop."""
        return self._cancelled.is_set()

    @property
    def done(self) -> bool:
        """True once ``result`` would not wait."""
        return self._done.is_set()

    def should_stop(self) -> bool:
        """True when the caller has given up or the time is up."""
        return self._cancelled.is_set() or time.monotonic() > self.deadline

    def result(self) -> R:
        """Wait for the result until the deadline; to be called once.

        Raises: CancelledError if the time is up or the job was cancelled; whatever the work raised.
        """
        while not self._done.wait(max(0.0, min(self.deadline - time.monotonic(), LOOK_S))):
            if time.monotonic() > self.deadline:
                self.cancel()
                raise self._too_late()
        if self._error is None:
            return self._result  # type: ignore[return-value]
        # An error refers to every stack frame that it passes, and these to the job: it is handed over, not
        # shared.
        error, self._error = self._error, CancelledError("The answer has been taken already.")
        try:
            raise error
        finally:
            del error

    def deliver(self, result: R) -> None:
        """Hand the result over before the work is quite done, so that nobody waits for what follows."""
        self._result = result
        self._done.set()

    def run(self) -> None:
        """Do the work, in the thread of the worker."""
        self.deadline = min(self.deadline, time.monotonic() + self.timeout_s)
        work, self._work = self._work, None  # it may hold the caller, and images
        try:
            if self.should_stop() or work is None:
                raise self._too_late()
            result = work(self)
            if not self._done.is_set():
                self._result = result
        except BaseException as error:
            self._note(error)
        finally:
            self._done.set()

    def _note(self, error: BaseException) -> None:
        """Keep the error for the caller.

        Nobody reads the traceback of our own errors, and it holds what the work held: images, the model's
        state.
        """
        if self._done.is_set():  # nobody is waiting any more to be told
            if not isinstance(error, CancelledError):
                logger.error("failed after the answer was delivered", exc_info=error)
        elif isinstance(error, CancelledError) and time.monotonic() > self.deadline:
            self._error = self._too_late()
        elif isinstance(error, MolmoRosError):
            error.__cause__ = error.__context__ = None
            self._error = error.with_traceback(None)
        else:
            self._error = error if isinstance(error, Exception) else _as_error(error)

    def fail(self, error: BaseException) -> None:
        """End the job without running it."""
        self._error, self._work = error, None
        self._done.set()

    def _too_late(self) -> CancelledError:
        if time.monotonic() <= self.deadline:
            return CancelledError("The query was cancelled before it was answered.")
        return CancelledError(
            f"No answer within {self.timeout_s:.1f} s; give it more time (timeout_s), a shorter answer or a "
            "faster runtime."
        )


def _as_error(cause: BaseException) -> RuntimeError:
    """SystemExit, or a panic in a native library, would end the caller's thread without an answer."""
    error = RuntimeError(f"the work ended by {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


class Worker:
    """Runs jobs one after the other; ``submit`` never waits and refuses what does not fit the queue.

    Clients take turns: of those that wait, the one served longest ago comes first; and a refused client's
    place is kept for a while, and not given to others that were served meanwhile.
    """

    def __init__(self, queue_size: int) -> None:
        self._queue: deque[Job[object]] = deque()
        self._background: deque[Job[object]] = deque()
        self._queue_size = queue_size
        self._turns = Turns()
        self._wake = threading.Condition()
        self._current: Job[object] | None = None
        self._started_at = 0.0
        self._mean_s = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="inference", daemon=True)
        self._thread.start()

    def submit(
        self, work: Callable[[Job[R]], R], timeout_s: float, background: bool = False, client: str = ""
    ) -> Job[R]:
        """Queue the work of a client; background work starts when nothing else waits, and is never refused.

        ``timeout_s`` counts from now, for background work from its start.
        Raises: BusyError with the expected wait if the queue is full.
        """
        job = Job(work, timeout_s, client, waits=background)
        with self._wake:
            if self._closed:
                raise CancelledError("The node is shutting down.")
            self._drop_abandoned()
            if background:
                self._background.append(job)  # type: ignore[arg-type]
                self._wake.notify_all()
                return job
            kept = self._turns.before(client) if self._queue else 0
            if len(self._queue) + kept >= self._queue_size:
                self._turns.refuse(client, KEEP_S + self._expected_wait())
                raise BusyError(
                    f"Busy: {len(self._queue)} queries are waiting, the next one would start in about "
                    f"{self._expected_wait():.1f} s; ask again then, or raise queue_size."
                )
            self._turns.admit(client)
            self._queue.append(job)  # type: ignore[arg-type]
            self._wake.notify_all()
        return job

    @property
    def waiting(self) -> int:
        """Jobs in the queue, without the one that runs."""
        return len(self._queue)

    @property
    def current(self) -> Job[object] | None:
        """The job that runs, if one does."""
        return self._current

    @property
    def busy(self) -> bool:
        """True while a job runs."""
        return self._current is not None

    @property
    def mean_s(self) -> float:
        """Running mean of the durations of the jobs, 0 before the first."""
        return self._mean_s

    def cancel_all(self, reason: str, wait_s: float = 0.0) -> None:
        """Stop the running job and fail the waiting ones; optionally wait for the running one to end."""
        with self._wake:
            waiting = [*self._queue, *self._background]
            self._queue.clear()
            self._background.clear()
            if self._current is not None:
                self._current.cancel()
        for job in waiting:
            job.fail(CancelledError(reason))
        with self._wake:
            self._wake.wait_for(lambda: self._current is None, wait_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Cancel everything and end the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self.cancel_all("The node is shutting down.")
        self._thread.join(timeout_s)

    def _drop_abandoned(self) -> None:
        """Jobs that nobody waits for any more must not keep others out of the queue."""
        for queue in (self._queue, self._background):
            for job in [job for job in queue if job.should_stop()]:
                queue.remove(job)
                job.run()  # ends at once, since it may no longer start

    def _expected_wait(self) -> float:
        running = max(0.0, self._mean_s - (time.monotonic() - self._started_at)) if self.busy else 0.0
        return running + self._mean_s * len(self._queue)

    def _next(self) -> Job[object]:
        if not self._queue:
            return self._background.popleft()
        job = self._turns.choose(self._queue)
        self._queue.remove(job)
        return job

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._background and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                job = self._current = self._next()
                self._started_at = time.monotonic()
            job.run()
            duration = time.monotonic() - self._started_at
            with self._wake:
                self._current = None
                known = self._mean_s > 0
                self._mean_s += (SMOOTHING if known else 1.0) * (duration - self._mean_s)
                self._wake.notify_all()
            del job  # a result may hold a camera frame; do not keep it until the next job
