"""One thread, a bounded queue, time-outs that hold."""

from __future__ import annotations

import gc
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from molmo_ros.errors import BusyError, CancelledError, QueryError
from molmo_ros.ros.turns import Turns
from molmo_ros.ros.worker import Job, Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(queue_size=2)
    yield worker
    worker.close()


class Gate:
    """Work that runs until it is opened, or told to stop."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, job: Job[str]) -> str:
        self.entered.set()
        while not self.open.wait(0.005):
            if job.should_stop():
                raise CancelledError("stopped")
        return "done"


def test_result_comes_back(worker: Worker) -> None:
    assert worker.submit(lambda job: 6 * 7, 5.0).result() == 42


def test_error_comes_back_and_the_next_job_works(worker: Worker) -> None:
    def fail(job: Job[int]) -> int:
        raise QueryError("no")

    with pytest.raises(QueryError):
        worker.submit(fail, 5.0).result()
    assert worker.submit(lambda job: 1, 5.0).result() == 1


def test_jobs_run_one_after_the_other_in_order(worker: Worker) -> None:
    gate, order = Gate(), []
    first = worker.submit(gate, 5.0)
    gate.entered.wait(5.0)
    others = [worker.submit(lambda job, n=n: order.append(n), 5.0) for n in (1, 2)]
    assert worker.waiting == 2
    assert order == []
    gate.open.set()
    assert first.result() == "done"
    for job in others:
        job.result()
    assert order == [1, 2]


def test_full_queue_says_how_long_to_wait(worker: Worker) -> None:
    worker.submit(lambda job: time.sleep(0.2), 5.0).result()
    gate = Gate()
    worker.submit(gate, 5.0)
    gate.entered.wait(5.0)
    for _ in range(2):
        worker.submit(lambda job: None, 5.0)
    with pytest.raises(BusyError, match="2 queries are waiting") as refused:
        worker.submit(lambda job: None, 5.0)
    mean_s = worker.mean_s
    gate.open.set()
    told = re.search(r"about (\d+\.\d) s", str(refused.value))
    assert told is not None
    # those that wait, and what is left of the one that runs, at the mean so far
    assert 2 * mean_s - 0.1 <= float(told[1]) <= 3 * mean_s + 0.1


def test_time_out_holds_and_stops_the_work(worker: Worker) -> None:
    gate = Gate()
    started = time.monotonic()
    with pytest.raises(CancelledError, match=r"No answer within 0\.2 s"):
        worker.submit(gate, 0.2).result()
    assert time.monotonic() - started < 4.0  # the work itself would never end
    assert worker.submit(lambda job: "next", 5.0).result() == "next"


def test_time_in_the_queue_counts(worker: Worker) -> None:
    gate, ran = Gate(), []
    first = worker.submit(gate, 5.0)
    gate.entered.wait(5.0)
    with pytest.raises(CancelledError):
        worker.submit(lambda job: ran.append(1), 0.1).result()
    gate.open.set()
    first.result()
    worker.submit(lambda job: None, 5.0).result()
    assert ran == []


def test_abandoned_jobs_do_not_fill_the_queue(worker: Worker) -> None:
    gate = Gate()
    worker.submit(gate, 5.0)
    gate.entered.wait(5.0)
    for _ in range(2):
        worker.submit(lambda job: None, 0.01)
    time.sleep(0.05)
    worker.submit(lambda job: None, 5.0)
    assert worker.waiting == 1
    gate.open.set()


def test_cancel_all_ends_running_and_waiting(worker: Worker) -> None:
    gate = Gate()
    running = worker.submit(gate, 5.0)
    gate.entered.wait(5.0)
    waiting = worker.submit(lambda job: None, 5.0)
    worker.cancel_all("The node was deactivated.")
    with pytest.raises(CancelledError, match="deactivated"):
        waiting.result()
    with pytest.raises(CancelledError):
        running.result()


def test_cancel_all_waits_for_the_running_job(worker: Worker) -> None:
    gate = Gate()
    worker.submit(gate, 5.0)
    gate.entered.wait(5.0)
    worker.cancel_all("enough", wait_s=5.0)
    assert not worker.busy


def test_delivered_result_does_not_wait_for_what_follows(worker: Worker) -> None:
    gate = Gate()

    def work(job: Job[str]) -> str:
        job.deliver("early")
        gate(job)
        return "late"

    assert worker.submit(work, 5.0).result() == "early"
    assert worker.busy
    gate.open.set()


def test_closed_worker_refuses() -> None:
    worker = Worker(queue_size=1)
    worker.close()
    with pytest.raises(CancelledError, match="shutting down"):
        worker.submit(lambda job: None, 1.0)


def test_background_work_waits_for_everything_else_and_is_never_refused(worker: Worker) -> None:
    gate, order = Gate(), []
    worker.submit(gate, 5.0)
    gate.entered.wait(5.0)
    last = [worker.submit(lambda job, n=n: order.append(n), 5.0, background=True) for n in ("b1", "b2", "b3")]
    for n in (1, 2):
        worker.submit(lambda job, n=n: order.append(n), 5.0)
    gate.open.set()
    for job in last:
        job.result()
    assert order == [1, 2, "b1", "b2", "b3"]


def test_background_work_is_cancelled_with_the_rest(worker: Worker) -> None:
    gate = Gate()
    worker.submit(gate, 5.0)
    gate.entered.wait(5.0)
    waiting = worker.submit(lambda job: 1, 5.0, background=True)
    worker.cancel_all("over", 5.0)
    with pytest.raises(CancelledError, match="over"):
        waiting.result()
    assert waiting.done


@pytest.mark.parametrize("cause", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_an_exception_that_is_no_error_is_answered_and_the_worker_lives(cause: BaseException) -> None:
    """A native library may panic, or call exit: whoever waits gets an error, and the next is served."""
    worker = Worker(2)

    def work(job: Job[int]) -> int:
        raise cause

    with pytest.raises(RuntimeError, match=type(cause).__name__):
        worker.submit(work, 5.0).result()
    assert worker.submit(lambda job: 7, 5.0).result() == 7
    worker.close()


def test_clients_take_turns() -> None:
    """One client fills the queue first; the other's jobs come between."""
    worker = Worker(8)
    gate, served = threading.Event(), []
    worker.submit(lambda job: gate.wait(5.0), 30.0)
    jobs = [worker.submit(lambda job, name=name: served.append(name), 30.0, client=name) for name in "aaaabb"]
    gate.set()
    for job in jobs:
        job.result()
    assert "".join(served) == "ababaa"
    worker.close()


def test_ten_clients_that_ask_again_and_again_are_served_alike() -> None:
    """Ten threads, a queue of four, a job of 10 ms; each asks again at once, or when it was told to."""
    worker = Worker(4)
    end = time.monotonic() + 60.0
    done = dict.fromkeys("abcdefghij", 0)

    def ask(name: str) -> None:
        while sum(done.values()) < 200 and time.monotonic() < end:
            try:
                worker.submit(lambda job: time.sleep(0.01), 30.0, client=name).result()
                done[name] += 1
            except BusyError:
                time.sleep(0.02)

    threads = [threading.Thread(target=ask, args=(name,)) for name in done]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.close()
    assert min(done.values()) > 0.4 * max(done.values()), done


def test_a_place_that_is_kept_is_free_again_after_a_while() -> None:
    turns = Turns()
    turns.refuse("a", 1.0)
    turns.refuse("b", 10.0)
    assert (turns.before("a"), turns.before("b"), turns.before("c")) == (0, 1, 2)
    time.sleep(1.1)
    assert (turns.before("b"), turns.before("c")) == (0, 1)
    turns.admit("b")
    assert turns.before("c") == 0


def test_time_of_background_work_starts_when_it_runs(worker: Worker) -> None:
    """A busy node lets it wait for long; it must not have expired when its turn comes."""
    gate = Gate()
    worker.submit(gate, 5.0)
    gate.entered.wait(5.0)
    late = worker.submit(lambda job: "done", 0.1, background=True)
    time.sleep(0.2)
    worker.submit(lambda job: None, 5.0)
    gate.open.set()
    assert late.result() == "done"
    with pytest.raises(CancelledError, match=r"within 0\.2 s"):
        worker.submit(Gate(), 0.2, background=True).result()


def test_background_work_that_was_cancelled_is_dropped(worker: Worker) -> None:
    gate = Gate()
    worker.submit(gate, 5.0)
    gate.entered.wait(5.0)
    given_up = worker.submit(lambda job: 1, 5.0, background=True)
    given_up.cancel()
    worker.submit(lambda job: None, 5.0)
    assert given_up.done
    gate.open.set()
    with pytest.raises(CancelledError):
        given_up.result()


class Picture:
    """Stands for the megabytes that work holds in its frames."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is in a reference cycle stays: the node's collector hardly ever runs."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def failing(picture: Picture, kind: type[Exception]) -> Callable[[Job[int]], int]:
    def work(job: Job[int]) -> int:
        seen = picture  # held by this frame, and it by the traceback
        if seen:
            raise kind("no")
        return 0

    return work


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("kind", [QueryError, CancelledError, ValueError])
def test_an_error_that_was_told_holds_nothing(worker: Worker, kind: type[Exception]) -> None:
    picture = Picture()
    alive = weakref.ref(picture)
    job = worker.submit(failing(picture, kind), 5.0)
    del picture
    with suppress(kind):
        job.result()
    del job
    worker.submit(lambda job: 1, 5.0).result()  # the worker has forgotten the job before
    assert alive() is None


@pytest.mark.usefixtures("no_collector")
def test_a_job_that_nobody_asks_for_holds_nothing(worker: Worker) -> None:
    """As a track that ends while the model is asked: the question holds its job, the work the question."""

    class Asks:
        def __init__(self, wait: Gate) -> None:
            self.picture = Picture()
            self.job = worker.submit(lambda job: (self.picture, wait(job)), 5.0)

    gate = Gate()
    first, second = Asks(gate), Asks(Gate())
    alive = [weakref.ref(asks.picture) for asks in (first, second)]
    gate.entered.wait(5.0)
    first.job.cancel()
    second.job.cancel()
    del first, second
    worker.submit(lambda job: 1, 5.0).result()
    assert [reference() for reference in alive] == [None, None]


def test_an_error_is_told_once(worker: Worker) -> None:
    job = worker.submit(failing(Picture(), QueryError), 5.0)
    with pytest.raises(QueryError):
        job.result()
    with pytest.raises(CancelledError, match="taken"):
        job.result()


def test_what_was_delivered_stays_a_result(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()

    def work(job: Job[int]) -> int:
        job.deliver(1)
        try:
            raise ValueError("afterwards")
        finally:
            ended.set()

    job = worker.submit(work, 5.0)
    ended.wait(5.0)
    worker.submit(lambda job: 1, 5.0).result()
    assert job.result() == 1
    assert "afterwards" in caplog.text
