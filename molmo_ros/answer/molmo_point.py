"""MolmoPoint's predictor on the host: scores of image tokens, patches and places become logits.

The network gives queries and keys (``network.pointing``); here they are turned, multiplied, and put behind
the logits of the vocabulary as those of further tokens: <POINT_0> ... (``patches``). Then an answer is
decoded like that of any other generation.

Sizes in the comments: V vocabulary and extra tokens, P image tokens, W patches behind each, E width of keys.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from molmo_ros.answer_format.patches import PLACES, PatchMap, point_token
from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.checkpoint.preprocess import ImageInputs
from molmo_ros.checkpoint.prompt import PointPromptEncoder
from molmo_ros.datatypes import Float32, Index
from molmo_ros.network.config import PointConfig
from molmo_ros.network.weights import NO_POINT

_NEVER = np.float32(-np.inf)
# What the released code gives to tokens that are not impossible, but not to be chosen either.
_HARDLY = np.float32(-100_000)
_RARE = 1e-4  # alternatives less probable than this are not remembered


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
        self._scores: dict[int, Float32] = {}  # of image tokens, by the length of the answer before them

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        return self._embeds.nbytes + self._patch_embeds.nbytes + self._patch_keys.nbytes + self._keys.nbytes

    def remember(self, pointing: Float32) -> None:
        """Take the keys from the network's rows (P,3E+places) of the image tokens."""
        size = self._config.embed_size
        keys = self._turned(pointing[:, size : 2 * size], np.arange(len(pointing)) - self.places.low)
        self._keys = np.concatenate([keys, self._no_point[None]])

    def begin(self) -> None:
        """Forget the answer before."""
        self._scores.clear()

    def embed(self, plain: Callable[[list[int]], Float32], answer: list[int], tokens: list[int]) -> Float32:
        """Embeddings (T,D) of ``tokens``, which follow ``answer``; ``plain`` embeds those of the vocabulary.

        An image token is read as it was in the image, a patch as its features alone: so does the released
        code; in training, <|vit_index|> was added to them.
        """
        embeds = plain([self._read_as(token) for token in tokens])
        for i, number in enumerate(self._numbers(tokens)):
            if 0 <= number < self.places.no_more:
                embeds[i] += self._embeds[number]
            elif self._is_patch(number) and (token := self._last_token([*answer, *tokens[:i]])) is not None:
                embeds[i] = self._patch_embeds[token, number - self.places.no_more - 1]
        return embeds

    def logits(self, logits: Float32, pointing: Float32, answers: list[list[int]]) -> Float32:
        """logits (N,V), pointing (N,3E+places), each row behind one of ``answers`` -> (N,V+P+1+W+places)."""
        return np.stack([self._row(*row) for row in zip(logits, pointing, answers, strict=True)])

    def alternatives(self, logits: Float32, answer: list[int]) -> dict[str, float]:
        """<POINT_k> -> how probable it was that it stands where the last token of ``answer`` does.

        Given that a token of its kind stands there; ``logits`` are those in which it was chosen.
        """
        (number,) = self._numbers(answer[-1:])
        first = self.places.no_more + 1
        if number < 0:
            return {}
        if number < first:
            scores, first = self._scores[len(answer) - 1], 0
        elif self._is_patch(number):
            scores = logits[self._encoder.first_point + first :][: self.places.slots]
        else:
            first += self.places.slots
            scores = logits[self._encoder.first_point + first :]
        chances = np.exp(scores - scores.max())
        chances /= chances.sum()
        return {point_token(first + int(i)): float(chances[i]) for i in np.flatnonzero(chances > _RARE)}

    def _row(self, logits: Float32, pointing: Float32, answer: list[int]) -> Float32:
        """The widened logits (V+P+1+W+places) behind ``answer``.

        An image token as such competes with the vocabulary, by the logit of <|token_index|>; which one it
        would be is settled by the scores. The first token of an answer is never one.
        """
        e, slots, size = self._encoder, self.places.slots, self._config.embed_size
        first = e.first_point
        patches = first + self.places.no_more + 1
        row = np.full(patches + slots + PLACES, _HARDLY, dtype=np.float32)
        row[:first] = logits
        row[[e.token_index, e.patch_index, e.place_index]] = _HARDLY
        last = self._numbers(answer[-1:])
        if last:
            scores = self._token_scores(pointing[:size], self._last_token(answer[:-1]))
            self._scores[len(answer)] = scores
            row[first + int(scores.argmax())] = logits[e.token_index]
        if last and 0 <= last[0] < self.places.no_more:
            scores = self._patch_keys[last[0]] @ pointing[2 * size : 3 * size] / np.sqrt(np.float32(size))
            row[patches : patches + slots] = np.where(self._valid[last[0]], scores, _HARDLY)
        elif last and self._is_patch(last[0]):
            row[patches + slots :] = pointing[3 * size :]
        return self._allowed(row, answer)

    def _token_scores(self, query: Float32, last: int | None) -> Float32:
        """query (E,) -> scores (P+1,) of the image tokens, and of "no more points"."""
        turn = 0 if last is None else max(last - self.places.low, 0)
        scores = self._keys @ self._turned(query[None], np.array([turn]))[0]
        scores /= np.sqrt(np.float32(len(scores)))
        scores[: self.places.low] = -1e8
        return np.asarray(scores, dtype=np.float32)

    def _allowed(self, row: Float32, answer: list[int]) -> Float32:
        """Rule out what cannot stand behind ``answer``; points come in the order of training."""
        c, p = self._config, self.places
        tokens = self._encoder.first_point
        patches = tokens + p.no_more + 1
        places = patches + p.slots
        numbers = self._numbers(answer)
        last = numbers[-1] if numbers else -1
        before = self._last_token(answer[:-2])
        patch = next((n for n in reversed(numbers[:-2]) if self._is_patch(n)), None)
        if p.no_more in numbers:
            row[tokens:] = _NEVER
        elif 0 <= last < p.no_more:
            row[:patches] = row[places:] = _NEVER
            if c.sorted_patches and before == last and patch is not None:
                row[patches : min(tokens + patch + c.no_repeats, places - 1)] = _NEVER
        elif self._is_patch(last):
            row[:places] = _NEVER
        else:
            row[patches:] = _NEVER
            if c.sorted_tokens and before is not None:
                row[tokens : tokens + before] = _NEVER
            if c.sorted_patches and c.no_repeats and before is not None and patch == places - 1 - tokens:
                row[tokens + before] = _NEVER
        return row

    def _numbers(self, ids: list[int]) -> list[int]:
        """k of each <POINT_k>, below 0 for other tokens."""
        return [i - self._encoder.first_point for i in ids]

    def _is_patch(self, number: int) -> bool:
        return self.places.no_more < number <= self.places.no_more + self.places.slots

    def _last_token(self, answer: list[int]) -> int | None:
        """The image token that was chosen last."""
        return next((n for n in reversed(self._numbers(answer)) if 0 <= n < self.places.no_more), None)

    def _read_as(self, token: int) -> int:
        """The token of the vocabulary that stands for one that points."""
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
