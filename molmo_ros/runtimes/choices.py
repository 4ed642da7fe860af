"""What comes next, according to a pass: the most probable token after each row, and its alternatives.

A runtime that computes on the host gives logits, and a row is read on demand: most rows of a wrong draft
never are. A device returns only the few numbers that are needed (``network.choices``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from molmo_ros.datatypes import AnyArray, Float32
from molmo_ros.network.config import AskedTokens


@dataclass(frozen=True)
class Choice:
    """The most probable token; its ``logprob`` is not finite if the network's numbers are not.

    ``scores``: of a word, the log-probabilities (K,) of ``AskedTokens.columns``; of one of MolmoPoint's
    tokens, the scores of all tokens of its kind (``answer.molmo_point``).
    """

    token: int
    logprob: float
    scores: Float32


class Choices(Protocol):
    """Of N rows."""

    @property
    def tokens(self) -> list[int]:
        """The most probable token of each row."""
        ...

    def choice(self, row: int) -> Choice: ...


class LogitChoices:
    """Read off logits (N,vocabulary)."""

    def __init__(self, logits: Float32, asked: AskedTokens) -> None:
        self._logits, self._columns = logits, asked.columns
        self._allowed = logits
        if asked.never:
            self._allowed = logits.copy()
            self._allowed[:, asked.never] = -np.inf
        self.tokens: list[int] = self._allowed.argmax(axis=1).tolist()  # of NaN, if there is one

    def choice(self, row: int) -> Choice:
        token, allowed = self.tokens[row], self._allowed[row]
        if not np.isfinite(allowed[token]):
            return Choice(token, float(allowed[token]), self._logits[row, self._columns])
        total = float(np.exp(allowed - allowed[token]).sum(dtype=np.float64))
        log_total = float(np.log(total))
        scores = self._logits[row, self._columns] - (allowed[token] + np.float32(log_total))
        return Choice(token, -log_total, scores)


class DeviceChoices:
    """The outputs of a graph that chooses: token, logit, logprob (N,1), known (N,K)."""

    def __init__(self, found: Mapping[str, AnyArray]) -> None:
        self._found = found
        self.tokens: list[int] = found["token"][:, 0].tolist()

    def choice(self, row: int) -> Choice:
        logit, logprob, known = (self._found[name][row] for name in ("logit", "logprob", "known"))
        return Choice(self.tokens[row], float(logprob[0]), known + (logprob - logit))
