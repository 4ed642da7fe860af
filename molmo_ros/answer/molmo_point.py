"""MolmoPoint's pointing head on the host: image tokens, patches and places are chosen by their scores.

The network gives queries and keys (``network.patch_pointer``). Here they are rotated and multiplied; the
scores choose among further tokens after those of the vocabulary, <POINT_0> ... (``patches``). So an answer is
decoded like that of any other generation.

Sizes in the comments: P image tokens, W patches per image token, E width of keys and queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from molmo_ros.answer_format.patches import PatchMap, point_token
from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.checkpoint.preprocess import ImageInputs
from molmo_ros.checkpoint.prompt import PointPromptEncoder
from molmo_ros.datatypes import Float32, Index
from molmo_ros.network.config import PointConfig
from molmo_ros.network.weights import NO_POINT
from molmo_ros.runtimes.choices import Choice, Choices

_NEVER = np.float32(-np.inf)
# The score that the released code gives to tokens that are not impossible, but not to be chosen either.
_HARDLY = np.float32(-100_000)
_RARE = 1e-4  # alternatives less probable than this are not remembered


@dataclass(frozen=True)
class PointChoices:
    """Words and tokens that point."""

    rows: list[Choice]

    @property
    def tokens(self) -> list[int]:
        return [choice.token for choice in self.rows]

    def choice(self, row: int) -> Choice:
        return self.rows[row]


class Pointer:
    """One image as the model points into it, and the scores of the answer that is being decoded."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        inputs: ImageInputs,
        embeds: Float32,
        patch_embeds: Float32,
        patch_keys: Float32,
    ) -> None:
        """``embeds`` (P,D) of the image tokens, ``patch_embeds`` (P,W,D) and ``patch_keys`` (P,W,E)."""
        assert checkpoint.config.point is not None and isinstance(checkpoint.encoder, PointPromptEncoder)
        self.places = PatchMap.of(inputs, checkpoint.image.pooling)
        self._config: PointConfig = checkpoint.config.point
        self._encoder = checkpoint.encoder
        self._valid = inputs.pooling >= 0  # (P,W)
        self._embeds = embeds
        self._patch_embeds, self._patch_keys = patch_embeds, patch_keys
        self._no_point = checkpoint.weights.read(NO_POINT)
        self._keys: Float32 = self._no_point[None]  # (P+1,E) after ``remember``

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        return self._embeds.nbytes + self._patch_embeds.nbytes + self._patch_keys.nbytes + self._keys.nbytes

    def remember(self, pointing: Float32) -> None:
        """Take the keys from the network's rows (P,3E+places) of the image tokens."""
        size = self._config.embed_size
        keys = self._turned(pointing[:, size : 2 * size], np.arange(len(pointing)) - self.places.low)
        self._keys = np.concatenate([keys, self._no_point[None]])

    def embed(self, plain: Callable[[list[int]], Float32], answer: list[int], tokens: list[int]) -> Float32:
        """Embeddings (T,D) of ``tokens``, which follow ``answer``; ``plain`` embeds those of the vocabulary.

        An image token is read as it was in the image, a patch as its features alone, as in the released code;
        in training, <|vit_index|> was added to them.
        """
        embeds = plain([self._read_as(token) for token in tokens])
        for i, number in enumerate(self._numbers(tokens)):
            if 0 <= number < self.places.no_more:
                embeds[i] += self._embeds[number]
            elif self._is_patch(number) and (token := self._last_token([*answer, *tokens[:i]])) is not None:
                embeds[i] = self._patch_embeds[token, number - self.places.no_more - 1]
        return embeds

    def choices(self, words: Choices, pointing: Float32, answers: list[list[int]]) -> PointChoices:
        """What comes after each of N ``answers``: one of ``words``, or a token that points.

        pointing (N,3E+places).
        """
        rows = zip(pointing, answers, strict=True)
        return PointChoices([self._choice(words.choice(i), *row) for i, row in enumerate(rows)])

    def alternatives(self, choice: Choice) -> dict[str, float]:
        """<POINT_k> -> how probable it was instead of ``choice``, given that a token of this kind comes
        there."""
        number = choice.token - self._encoder.first_point
        if number < 0:
            return {}
        if number <= self.places.no_more:
            first = 0
        else:
            first = self.places.no_more + 1 + (0 if self._is_patch(number) else self.places.slots)
        chances = np.exp(choice.scores - choice.scores.max())
        chances /= chances.sum()
        return {point_token(first + int(i)): float(chances[i]) for i in np.flatnonzero(chances > _RARE)}

    def _choice(self, word: Choice, pointing: Float32, answer: list[int]) -> Choice:
        """A patch after an image token, a place after a patch, else a word or an image token."""
        size, numbers = self._config.embed_size, self._numbers(answer)
        if not numbers or self.places.no_more in numbers:  # the first token of an answer never points
            return word
        last = numbers[-1]
        if 0 <= last < self.places.no_more:
            scores = self._patch_keys[last] @ pointing[2 * size : 3 * size] / np.sqrt(np.float32(size))
            scores = np.where(self._valid[last], scores, _HARDLY)
            scores[: self._passed_patches(answer)] = _NEVER
            return self._best(scores, self.places.no_more + 1)
        if self._is_patch(last):
            return self._best(pointing[3 * size :], self.places.no_more + 1 + self.places.slots)
        scores = self._token_scores(pointing[:size], self._last_token(answer[:-1]))
        return self._word_or_token(word, scores, answer)

    def _best(self, scores: Float32, first: int) -> Choice:
        """The best of ``scores``, those of <POINT_first> and the next."""
        best = int(scores.argmax())
        total = np.exp(scores - scores[best]).sum(dtype=np.float64)
        return Choice(self._encoder.first_point + first + best, -float(np.log(total)), scores)

    def _word_or_token(self, word: Choice, scores: Float32, answer: list[int]) -> Choice:
        """An image token as such competes with the words, by the logit of <|token_index|>; which one it would
        be is settled by its ``scores`` (P+1,)."""
        token = int(scores.argmax())
        if not self._may_follow(token, answer):
            return word
        odds = float(word.scores[-1])  # its log-odds against all words together
        total = float(np.logaddexp(0.0, odds))
        if odds > word.logprob:
            return Choice(self._encoder.first_point + token, odds - total, scores)
        return Choice(word.token, word.logprob - total, word.scores - np.float32(total))

    def _token_scores(self, query: Float32, last: int | None) -> Float32:
        """query (E,) -> scores (P+1,) of the image tokens, and of "no more points"."""
        turn = 0 if last is None else max(last - self.places.low, 0)
        scores = self._keys @ self._turned(query[None], np.array([turn]))[0]
        scores /= np.sqrt(np.float32(len(scores)))
        scores[: self.places.low] = -1e8
        return np.asarray(scores, dtype=np.float32)

    def _may_follow(self, token: int, answer: list[int]) -> bool:
        """Whether an image token can follow ``answer``; points come in the order of training."""
        c, before = self._config, self._last_token(answer[:-2])
        if before is None:
            return True
        if c.sorted_tokens and token < before:
            return False
        used_up = self._last_patch(answer) == self.places.slots - 1
        return not (c.sorted_patches and c.no_repeats and used_up and token == before)

    def _passed_patches(self, answer: list[int]) -> int:
        """How many patches of the image token that ends ``answer`` can no longer be chosen."""
        c, patch = self._config, self._last_patch(answer)
        same = self._numbers(answer)[-1] == self._last_token(answer[:-2])
        if not (c.sorted_patches and same) or patch is None:
            return 0
        return min(patch + c.no_repeats, self.places.slots - 1)

    def _last_patch(self, answer: list[int]) -> int | None:
        """The patch of the point before the last two tokens, from 0 within its image token."""
        patches = (n for n in reversed(self._numbers(answer[:-2])) if self._is_patch(n))
        return next((n - self.places.no_more - 1 for n in patches), None)

    def _numbers(self, ids: list[int]) -> list[int]:
        """k of each <POINT_k>, below 0 for other tokens."""
        return [i - self._encoder.first_point for i in ids]

    def _is_patch(self, number: int) -> bool:
        return self.places.no_more < number <= self.places.no_more + self.places.slots

    def _last_token(self, answer: list[int]) -> int | None:
        """The image token that was chosen last."""
        return next((n for n in reversed(self._numbers(answer)) if 0 <= n < self.places.no_more), None)

    def _read_as(self, token: int) -> int:
        """The vocabulary's token as which a token that points is read."""
        number = token - self._encoder.first_point
        if number < 0:
            return token
        if number <= self.places.no_more:
            return self._encoder.token_index
        return self._encoder.patch_index if self._is_patch(number) else self._encoder.place_index

    def _turned(self, x: Float32, turns: Index) -> Float32:
        """Rotary embedding, half-split form, at integer positions; x (N,E), turns (N,)."""
        cosine, sine = self._config.rotations(turns)
        first, second = np.split(x, 2, axis=1)
        return np.asarray(x * cosine + np.concatenate([-second, first], axis=1) * sine, dtype=np.float32)
