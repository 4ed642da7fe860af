"""One answer while it is being written: its tokens so far, what is expected next, and the time it takes."""

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
from molmo_ros.datatypes import Float32, ShouldStop
from molmo_ros.errors import AnswerError, CancelledError

AnyGrammar = Grammar | PatchGrammar
ASK_EVERY_S = 0.005  # while a long pass runs
MIN_TOP_PROBABILITY = 0.05  # probability of the likeliest token: one of ten digits has more


@dataclass
class Steps:
    """Greedy decoding so far: ids, log-probabilities, and the text that each token added."""

    decode: Callable[[list[int]], str]
    digits: dict[int, str]
    pointer: Pointer | None = None
    most: int = 192  # tokens
    passes: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    _pending: list[int] = field(default_factory=list)

    def take(self, logits: Float32) -> None:
        """Append the most probable token; logits (vocabulary,). Raises: AnswerError if not finite."""
        best = int(logits.argmax())  # of NaN, if there is one
        if not np.isfinite(logits[best]):
            raise AnswerError(
                f"The network gave {logits[best]} instead of a probability; its numbers overflow in this "
                "precision or the weights are damaged: take fp32 or bf16, and check the checkpoint."
            )
        odds = np.exp(logits - logits[best])
        total = float(odds.sum(dtype=np.float64))
        self.ids.append(best)
        self.logprobs.append(-math.log(total))
        piece = self._piece(best)
        others = {}
        if best in self.digits:
            others = {text: float(odds[i]) / total for i, text in self.digits.items()}
        elif self.pointer is not None:
            others = self.pointer.alternatives(logits, self.ids)
        self.tokens.append(Token(piece, len(self.text), 1.0 / total, others))
        self.text += piece

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

    ``ahead``: what the model would go on with, were the last draft right; ``guesses``: that is worth reading.
    """

    drafter: Drafter | None
    plan: Plan
    grammar: AnyGrammar
    eos_ids: frozenset[int]
    ahead: str = ""
    guesses: bool = True

    def next(self, steps: Steps, most: int) -> list[int]:
        """At most so many tokens that probably come next."""
        if self.drafter is None:
            return []
        most = min(most, steps.most - len(steps.ids) - 1)
        foreseen = self.grammar.foresee(steps.text, self.ahead, self.plan.foreseen)
        self.plan = replace(self.plan, foreseen=foreseen if self.guesses else ())
        draft = self.grammar.draft(steps.text, self.plan)
        return self.drafter.tokens(draft, steps.ids)[: max(most, 0)]

    def verify(self, steps: Steps, logits: Float32, drafted: list[int]) -> bool:
        """Take the model's own tokens as long as they are the drafted ones, and one more; True at the end."""
        taken = 0
        for row, expected in zip(logits, [*drafted, None], strict=True):
            if len(steps.ids) >= steps.most:
                return True
            steps.take(row)
            taken += 1
            if steps.ids[-1] in self.eos_ids or self.grammar.done(steps.text, self.plan):
                return True
            if steps.ids[-1] != expected:
                break
        self._look_ahead(steps, logits[taken:])
        return len(steps.ids) >= steps.most

    def _look_ahead(self, steps: Steps, logits: Float32) -> None:
        """Read what the model would write behind a wrong draft, (N,vocabulary), unless it has no idea.

        It still tells much of what it will write, and a pass costs little more for some tokens more: Jacobi
        decoding (Santilli et al. 2023, arXiv 2305.10427).
        """
        if len(logits) and 1 / np.exp(logits[0] - logits[0].max()).sum() < MIN_TOP_PROBABILITY:
            self.guesses = False
        self.ahead = steps.decode([int(token) for token in logits.argmax(axis=1)])


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
        """A stage whose pass is ended by ``interrupt``, from another thread, once it is to stop."""
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
            while not over.wait(ASK_EVERY_S):  # on and on: the pass may not have begun when it is first ended
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
