"""Image and prompt -> answer: the decode loop over a runtime.

The tokens before the user's words depend on the image alone. Their cache is kept, so the second question
about an image costs neither vision nor the long part of the prefill.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from molmo_ros.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.confidence import Token, annotate
from molmo_ros.datatypes import Answer, Image
from molmo_ros.errors import CancelledError, QueryError
from molmo_ros.points import parse_molmo2, scan_molmo2, select_molmo2
from molmo_ros.preprocess import as_rgb, image_token_ids, preprocess
from molmo_ros.runtimes.base import Cache, Float32, Index, Runtime, load_runtime

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
ShouldStop = Callable[[], bool]


class Molmo:
    """One loaded model. Queries from several threads wait for each other."""

    def __init__(self, checkpoint: Checkpoint, runtime: Runtime) -> None:
        self._checkpoint = checkpoint
        self._runtime = runtime
        self._digits = checkpoint.encoder.digit_tokens()
        self._prefix: _Prefix | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        checkpoint: str = "tiny",
        runtime: str = "auto",
        progress: Progress | None = None,
        *,
        precision: str = "auto",
        threads: int | None = None,
    ) -> Molmo:
        """Load "tiny", a checkpoint folder, or a hub id in the local cache.

        Raises: CheckpointError, RuntimeUnavailableError.
        """
        opened = load_checkpoint(checkpoint, progress=progress)
        return cls(opened, load_runtime(opened, runtime, precision, threads=threads, progress=progress))

    @property
    def info(self) -> dict[str, Any]:
        """What is loaded."""
        config = self._checkpoint.config
        return {
            "checkpoint": str(self._checkpoint.folder),
            "model_type": config.model_type,
            "parameters": self._checkpoint.weights.parameters,
            "runtime": self._runtime.name,
            "precision": self._runtime.precision,
            "layers": config.text.num_layers,
            "hidden_size": config.text.hidden_size,
            "vocab_size": config.text.vocab_size,
            "image_size": config.vision.image_size,
            "max_crops": self._checkpoint.image.max_crops,
            "max_positions": config.text.max_positions,
        }

    def answer(
        self,
        rgb: Image,
        prompt: str,
        *,
        max_new_tokens: int = 192,
        max_points: int | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Answer:
        """The model's greedy answer about an image (H,W,3) uint8, and the points in it, in pixels of it.

        ``max_points``: stop before the model writes one more than these. ``should_stop`` is asked before
        every step. Raises: CancelledError if it said yes; QueryError, FrameError.
        """
        with self._lock:
            clock = _Clock(should_stop)
            rgb = as_rgb(rgb)
            turn = self._checkpoint.encoder.turn(prompt)
            logits, cache = self._prefill(rgb, turn, clock)
            room = self._checkpoint.config.text.max_positions - cache.length
            with clock.stage("decode"):
                steps = self._decode(logits, cache, min(max_new_tokens, room), max_points, clock)
        return self._answer(steps, rgb.shape[1], rgb.shape[0], clock)

    def close(self) -> None:
        """Free the memory of the network."""
        with self._lock:
            self._prefix = None
            self._runtime.close()

    def _prefill(self, rgb: Image, turn: list[int], clock: _Clock) -> tuple[Float32, Cache]:
        """The cache of image and question, and the logits (vocabulary,) of the answer's first token."""
        key = _fingerprint(rgb)
        known = self._prefix
        if known is None or known.key != key:
            self._prefix = None  # a failure half way must not leave the cache of another image behind
            embeds, cache, prefix_length = self._embed_image(rgb, clock), self._runtime.new_cache(), 0
            known = _Prefix(key, cache, len(embeds))
        else:
            embeds, prefix_length = None, known.length
            known.cache.trim(known.length)
            for stage in ("preprocess", "vision"):
                clock.ms[stage] = 0.0
        self._check_length(known.length + len(turn))
        with clock.stage("prefill"):
            words = self._runtime.embed(turn)
            embeds = words if embeds is None else np.concatenate([embeds, words])
            limits = _kv_limits(prefix_length, known.length, len(embeds))
            last = np.array([len(embeds) - 1], dtype=np.int64)
            logits = self._runtime.run(embeds, limits, known.cache, last)[0]
        self._prefix = known
        return logits, known.cache

    def _embed_image(self, rgb: Image, clock: _Clock) -> Float32:
        """Embeddings (P,D) of everything before the user's words; image features are added to <im_patch>."""
        encoder, config = self._checkpoint.encoder, self._checkpoint.image
        with clock.stage("preprocess"):
            inputs = preprocess(rgb, config)
            ids = encoder.prefix(image_token_ids(inputs, encoder, config))
            self._check_length(len(ids))
        with clock.stage("vision"):
            embeds = self._runtime.embed(ids)
            features = self._runtime.encode_image(inputs.crops, inputs.pooling)
            embeds[np.array(ids) == encoder.im_patch] += features
        return embeds

    def _check_length(self, length: int) -> None:
        limit = self._checkpoint.config.text.max_positions
        if length >= limit:
            raise QueryError(
                f"Image and prompt take {length} tokens, the model holds {limit}; shorten the prompt."
            )

    def _decode(
        self, logits: Float32, cache: Cache, max_new_tokens: int, max_points: int | None, clock: _Clock
    ) -> _Steps:
        steps = _Steps(self._checkpoint.encoder.decode, self._digits)
        while len(steps.ids) < max_new_tokens:
            clock.check()
            steps.take(logits)
            if steps.ids[-1] in self._checkpoint.encoder.eos_ids or _exceeds(steps.text, max_points):
                break
            if len(steps.ids) < max_new_tokens:
                limit = np.array([cache.length + 1], dtype=np.int64)
                row = np.zeros(1, dtype=np.int64)
                logits = self._runtime.run(self._runtime.embed(steps.ids[-1:]), limit, cache, row)[0]
        return steps

    def _answer(self, steps: _Steps, width: int, height: int, clock: _Clock) -> Answer:
        text = steps.text
        points = annotate(parse_molmo2(text, width, height), select_molmo2(text), steps.tokens, width, height)
        log.debug("%d tokens, %s ms: %s", len(steps.ids), clock.ms, text)
        return Answer(text, points, tuple(steps.ids), tuple(steps.logprobs), dict(clock.ms))


@dataclass
class _Prefix:
    """The cache of an image; its first ``length`` tokens are those before the user's words."""

    key: bytes
    cache: Cache
    length: int


@dataclass
class _Steps:
    """Greedy decoding so far: ids, log-probabilities, and the text that each token added."""

    decode: Callable[[list[int]], str]
    digits: dict[int, str]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    _pending: list[int] = field(default_factory=list)

    def take(self, logits: Float32) -> None:
        """Append the most probable token; logits (vocabulary,)."""
        best = int(logits.argmax())
        shifted = logits - logits[best]
        total = float(np.exp(shifted, dtype=np.float64).sum())
        self.ids.append(best)
        self.logprobs.append(-float(np.log(total)))
        piece = self._piece(best)
        others = {}
        if best in self.digits:
            others = {text: float(np.exp(shifted[i])) / total for i, text in self.digits.items()}
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


class _Clock:
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

    def check(self) -> None:
        if self._should_stop is not None and self._should_stop():
            raise CancelledError("The query was cancelled before its answer was complete; ask again.")


def _kv_limits(past: int, prefix: int, count: int) -> Index:
    """How far each of ``count`` tokens behind ``past`` sees: text up to itself, the image to its own end.

    Tokens 1 ... prefix - 1 are those of the image (token 0 is BOS), and see each other in both directions.
    """
    at = np.arange(past, past + count, dtype=np.int64)
    return np.where((at >= 1) & (at < prefix), prefix, at + 1)


def _fingerprint(rgb: Image) -> bytes:
    return hashlib.blake2b(rgb.data, digest_size=16, salt=str(rgb.shape).encode()[:16]).digest()


def _exceeds(text: str, max_points: int | None) -> bool:
    """True once ``max_points`` points are complete and the model goes on to another."""
    if max_points is None:
        return False
    written = scan_molmo2(text)
    if len(written) < max_points or not written:
        return False
    return text[written[max_points - 1].y_span[1] :][:1] in (" ", ";", "\t", ",", ":")
