"""The state of one answer while it is decoded: its tokens, the drafts of what comes next, and the times."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from molmo_ros.answer.drafter import Drafter
from molmo_ros.answer.molmo_point import Pointer
from molmo_ros.answer_format.confidence import Token
from molmo_ros.answer_format.grammar import Grammar, Plan
from molmo_ros.answer_format.grammar_point import PatchGrammar
from molmo_ros.datatypes import Index, ShouldStop
from molmo_ros.errors import AnswerError, CancelledError
from molmo_ros.runtimes.choices import Choice, Choices

AnyGrammar = Grammar | PatchGrammar
ASK_EVERY_S = 0.005  # how often ``should_stop`` is polled while a long pass runs
MIN_TOP_PROBABILITY = 0.05  # below, the likeliest token is a mere guess: one of ten digits has more


@dataclass
class Steps:
    """Greedy decoding so far: ids, log-probabilities, and the text that each token added."""

    decode: Callable[[list[int]], str]
    digits: dict[int, str]
    pointer: Pointer | None = None
    most: int = 192  # tokens
    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    _pending: list[int] = field(default_factory=list)

    def take(self, choice: Choice) -> None:
        """Append the token that was chosen. Raises: AnswerError if its probability is not finite."""
        if not math.isfinite(choice.logprob):
            raise AnswerError(
                f"The network gave {choice.logprob} instead of a probability; its numbers overflow in this "
                "precision or the weights are damaged: take fp32 or bf16, and check the checkpoint."
            )
        self.ids.append(choice.token)
        self.logprobs.append(choice.logprob)
        piece = self._piece(choice.token)
        probability = math.exp(choice.logprob)
        self.tokens.append(Token(piece, len(self.text), probability, self._alternatives(choice)))
        self.text += piece

    def _alternatives(self, choice: Choice) -> dict[str, float]:
        """The probabilities of other digits in place of a digit, of other points in place of a point."""
        if choice.token in self.digits:
            return dict(zip(self.digits.values(), np.exp(choice.scores).tolist(), strict=False))
        return {} if self.pointer is None else self.pointer.alternatives(choice)

    def _piece(self, token: int) -> str:
        """The text that a token adds; a character spread over several tokens comes with the last of them."""
        self._pending.append(token)
        piece = self.decode(self._pending)
        if piece.endswith("\N{REPLACEMENT CHARACTER}") and len(self._pending) < 4:
            return ""
        self._pending.clear()
        return piece


@dataclass
class Drafting:
    """What is expected next, and how far an answer has come.

    ``ahead``: the text that the model would continue with if the last draft were right; ``guesses``: whether
    that text is worth reading.
    """

    drafter: Drafter | None
    plan: Plan
    grammar: AnyGrammar
    eos_ids: frozenset[int]
    ahead: str = ""
    guesses: bool = True

    def next(self, steps: Steps, most: int) -> list[int]:
        """At most this many tokens that probably come next."""
        if self.drafter is None:
            return []
        most = min(most, steps.most - len(steps.ids) - 1)
        foreseen = self.grammar.foresee(steps.text, self.ahead, self.plan.foreseen)
        self.plan = replace(self.plan, foreseen=foreseen if self.guesses else ())
        draft = self.grammar.draft(steps.text, self.plan)
        return self.drafter.tokens(draft, steps.ids)[: max(most, 0)]

    def verify(self, steps: Steps, found: Choices, drafted: list[int]) -> bool:
        """Take the model's own tokens as long as they match the drafted ones, and one more; True at the
        end."""
        steps.drafted += len(drafted)
        for row, expected in enumerate([*drafted, None]):
            if len(steps.ids) >= steps.most:
                return True
            steps.take(found.choice(row))
            as_drafted = steps.ids[-1] == expected
            steps.accepted += as_drafted
            if steps.ids[-1] in self.eos_ids or self.grammar.done(steps.text, self.plan):
                return True
            if not as_drafted:
                break
        self._look_ahead(steps, found, row + 1)
        return len(steps.ids) >= steps.most

    def _look_ahead(self, steps: Steps, found: Choices, first: int) -> None:
        """Read what the model would write after a wrong draft, from row ``first`` on, unless it only guesses.

        It still shows much of what the model will write, and a few tokens more hardly make a pass longer:
        Jacobi decoding (Santilli et al. 2023, arXiv 2305.10427).
        """
        ahead = found.tokens[first:]
        if ahead and found.choice(first).logprob < math.log(MIN_TOP_PROBABILITY):
            self.guesses = False
        self.ahead = steps.decode(ahead)


def kv_limits(past: int, prefix: int, count: int) -> Index:
    """How far each of ``count`` tokens after ``past`` sees: text up to itself, the image to its own end.

    Tokens 1 ... prefix - 1 are those of the image (token 0 is BOS), and see each other in both directions.
    """
    at = np.arange(past, past + count, dtype=np.int64)
    return np.where((at >= 1) & (at < prefix), prefix, at + 1)


class Clock:
    """Milliseconds per stage, and the question whether to go on."""

    def __init__(self, should_stop: ShouldStop | None) -> None:
        self.ms: dict[str, float] = {}
        self._should_stop = should_stop

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.check()
        start = time.perf_counter()
        yield
        self.ms[name] = (time.perf_counter() - start) * 1e3

    @contextmanager
    def long_stage(self, name: str, interrupt: Callable[[], None]) -> Iterator[None]:
        """A stage whose pass is aborted by ``interrupt``, from another thread, once it is to stop."""
        with self.stage(name), self._watched(interrupt):
            yield

    @contextmanager
    def _watched(self, interrupt: Callable[[], None]) -> Iterator[None]:
        should_stop = self._should_stop
        if should_stop is None:
            yield
            return
        over, interrupted = threading.Event(), threading.Event()

        def watch() -> None:
            while not over.wait(ASK_EVERY_S):  # repeatedly: the pass may not have begun at first
                if should_stop():
                    interrupted.set()
                    interrupt()

        watcher = threading.Thread(target=watch, name="should_stop", daemon=True)
        watcher.start()
        try:
            yield
        except Exception as error:
            if interrupted.is_set():
                raise _cancelled() from error
            raise
        finally:
            over.set()
            watcher.join()

    def check(self) -> None:
        if self._should_stop is not None and self._should_stop():
            raise _cancelled()


def _cancelled() -> CancelledError:
    return CancelledError("The query was cancelled before its answer was complete; ask again.")
