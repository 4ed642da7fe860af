"""Fewer passes for an answer: the text that the grammar expects is drafted, and verified by the model.

The model sees the expected tokens together with the last one it chose, in one pass, and its own choice at
each of them is read off. Those that agree are kept, and the first that does not is replaced by the model's
choice, so an answer is the same, token by token, as when each token takes a pass of its own (speculative
decoding with a grammar for a draft model: Leviathan et al. 2023, arXiv 2211.17192).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from molmo_ros.answer_format.grammar import Draft

# An image has at least this many tokens, so a longer draft costs the prefill almost nothing.
FIRST_DRAFT_TOKENS = 256
# The pass of a decode step grows with its tokens on a CPU; engines are built for up to 16.
NEXT_DRAFT_TOKENS = 15

Encode = Callable[[str], list[int]]
Decode = Callable[[list[int]], str]


class Drafter:
    """Drafts of tokens. Tokenizers differ in what they merge: only tokens that are certain are drafted."""

    def __init__(self, encode: Encode, decode: Decode) -> None:
        self._encode, self._decode = encode, decode
        self._tokens = lru_cache(maxsize=4096)(self._tokenize)

    def tokens(self, draft: Draft, ids: list[int]) -> list[int]:
        """The tokens of ``draft`` after ``ids``."""
        if not draft.text:
            return []
        return list(self._tokens(ids[-1] if ids else None, draft))

    def _tokenize(self, last: int | None, draft: Draft) -> tuple[int, ...]:
        """The draft's tokens after the token ``last``, up to where what may follow would change them."""
        tail = "" if last is None else self._decode([last])
        known = [] if last is None else [last]
        found = [self._encode(tail + draft.text + follower) for follower in draft.followers]
        agreed = [column[0] for column in _agreeing(found)]
        return tuple(agreed[len(known) :]) if agreed[: len(known)] == known else ()


def _agreeing(rows: list[list[int]]) -> list[tuple[int, ...]]:
    """The leading columns of ``rows`` that hold the same value in every row."""
    columns = list(zip(*rows, strict=False))
    different = [i for i, column in enumerate(columns) if len(set(column)) > 1]
    return columns[: different[0]] if different else columns
