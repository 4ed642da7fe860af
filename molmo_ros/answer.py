"""Image and prompt -> answer: the decode loop over a runtime.

The tokens before the user's words depend on the image alone. Their cache is kept, so the second question
about an image costs neither vision nor the long part of the prefill. What an answer's grammar lets one
expect is verified many tokens at a time (see ``pointing``).
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

from molmo_ros.calibration import Calibration
from molmo_ros.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.confidence import Token, annotate
from molmo_ros.datatypes import Answer, Image
from molmo_ros.errors import AnswerError, CancelledError, QueryError
from molmo_ros.grammar import Format, Grammar, Plan
from molmo_ros.pointing import FIRST_DRAFT_TOKENS, NEXT_DRAFT_TOKENS, Drafter
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
        self.calibration = Calibration.load(checkpoint.folder)
        self._digits = checkpoint.encoder.digit_tokens()
        self._grammar = Grammar(Format.MOLMO1 if checkpoint.config.model_type == "molmo" else Format.MOLMO2)
        self._drafter = Drafter(self._grammar, checkpoint.encoder.encode, checkpoint.encoder.decode)
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
        allow_download: bool = False,
    ) -> Molmo:
        """Load "tiny", a checkpoint folder, or a hub id: in the local cache, or fetched if that is allowed.

        Raises: CheckpointError, RuntimeUnavailableError.
        """
        opened = load_checkpoint(checkpoint, progress=progress, allow_download=allow_download)
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
        drafts: bool = True,
        should_stop: ShouldStop | None = None,
    ) -> Answer:
        """The model's whole greedy answer about an image (H,W,3) uint8, and the points in it, in its pixels.

        ``max_points``: stop before the model writes one more than these. ``drafts`` False: one pass a token,
        the reference for the rest. ``should_stop`` is asked before every pass.
        Raises: CancelledError if it said yes; QueryError, FrameError.
        """
        plan = Plan(max_points=max_points, exact=True)
        drafter = self._drafter if drafts else None
        return self._generate(rgb, prompt, plan, drafter, max_new_tokens, should_stop)

    def point(
        self,
        rgb: Image,
        prompt: str,
        *,
        label: str = "",
        max_points: int | None = None,
        exact: bool = False,
        previous: Answer | None = None,
        max_new_tokens: int = 192,
        should_stop: ShouldStop | None = None,
    ) -> Answer:
        """As `answer`, for a prompt that asks for points: it ends as soon as their coordinates are known.

        The points are those of `answer`. The model is not asked to repeat the name of what it points to:
        ``label`` takes that place in the text. ``exact``: the whole greedy text all the same. ``previous``:
        an answer that this one is probably near to, such as that of the frame before; it saves passes, and
        has no influence on the answer.
        """
        known = self._grammar.numbers(previous.text) if previous is not None else ()
        plan = Plan(label, max_points, exact, known)
        return self._generate(rgb, prompt, plan, self._drafter, max_new_tokens, should_stop)

    def _generate(
        self,
        rgb: Image,
        prompt: str,
        plan: Plan,
        drafter: Drafter | None,
        max_new_tokens: int,
        should_stop: ShouldStop | None,
    ) -> Answer:
        with self._lock:
            clock = _Clock(should_stop)
            rgb = as_rgb(rgb)
            steps = _Steps(self._checkpoint.encoder.decode, self._digits, max_new_tokens)
            draft = _Drafting(drafter, plan, self._grammar, self._checkpoint.encoder.eos_ids)
            turn = self._checkpoint.encoder.turn(prompt)
            logits, cache, first = self._prefill(rgb, turn, draft.next(steps, FIRST_DRAFT_TOKENS), clock)
            with clock.stage("decode"):
                self._decode(logits, first, cache, steps, draft, clock)
        text = steps.text if plan.exact else self._grammar.finish(steps.text, plan.label)
        return self._answer(text, steps, rgb.shape[1], rgb.shape[0], clock)

    def close(self) -> None:
        """Free the memory of the network."""
        with self._lock:
            self._prefix = None
            self._runtime.close()

    def _prefill(
        self, rgb: Image, turn: list[int], draft: list[int], clock: _Clock
    ) -> tuple[Float32, Cache, list[int]]:
        """Logits (1+N,vocabulary) of the answer's first token and behind N drafted ones; cache; draft.

        The draft comes back shortened where the model has no room for it.
        """
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
        draft = draft[: self._max_positions - known.length - len(turn)]
        with clock.stage("prefill"):
            words = self._runtime.embed([*turn, *draft])
            embeds = words if embeds is None else np.concatenate([embeds, words])
            image = known.length if self._checkpoint.config.image_sees_ahead else 0
            limits = _kv_limits(prefix_length, image, len(embeds))
            rows = np.arange(len(embeds) - len(draft) - 1, len(embeds), dtype=np.int64)
            logits = self._runtime.run(embeds, limits, known.cache, rows)
        self._prefix = known
        return logits, known.cache, draft

    def _embed_image(self, rgb: Image, clock: _Clock) -> Float32:
        """Embeddings (P,D) of everything before the user's words; image features are added to <im_patch>."""
        encoder, config = self._checkpoint.encoder, self._checkpoint.image
        with clock.stage("preprocess"):
            inputs = preprocess(rgb, config)
            ids = encoder.prefix(image_token_ids(inputs, encoder, config))
            self._check_length(len(ids))
        with clock.stage("vision"):
            embeds = self._runtime.embed(ids)
            features = self._runtime.encode_image(inputs.crops, inputs.pooling, inputs.padding)
            embeds[np.array(ids) == encoder.im_patch] += features
        return embeds

    def _check_length(self, length: int) -> None:
        if length >= self._max_positions:
            raise QueryError(
                f"Image and prompt take {length} tokens, the model holds {self._max_positions}; "
                "shorten the prompt."
            )

    @property
    def _max_positions(self) -> int:
        return self._checkpoint.config.text.max_positions

    def _decode(
        self,
        logits: Float32,
        drafted: list[int],
        cache: Cache,
        steps: _Steps,
        drafting: _Drafting,
        clock: _Clock,
    ) -> None:
        """Fill ``steps``. ``logits`` (1+N,vocabulary) are those in front of and behind ``drafted``, N tokens
        at the end of the cache."""
        while True:
            steps.passes += 1
            before = len(steps.ids)
            known = cache.length - len(drafted)
            finished = drafting.verify(steps, logits, drafted)
            cache.trim(known + max(len(steps.ids) - before - 1, 0))
            room = self._max_positions - cache.length
            if finished or room < 1:
                return
            clock.check()
            drafted = drafting.next(steps, min(NEXT_DRAFT_TOKENS, room - 1))
            tokens = [steps.ids[-1], *drafted]
            limits = np.arange(cache.length + 1, cache.length + 1 + len(tokens), dtype=np.int64)
            rows = np.arange(len(tokens), dtype=np.int64)
            logits = self._runtime.run(self._runtime.embed(tokens), limits, cache, rows)

    def _answer(self, text: str, steps: _Steps, width: int, height: int, clock: _Clock) -> Answer:
        written = self._grammar.scan(text)
        points = annotate(self._grammar.parse(text, width, height), written, steps.tokens, width, height)
        points = self.calibration.apply(points)
        log.debug("%d tokens in %d passes, %s ms: %s", len(steps.ids), steps.passes, clock.ms, text)
        return Answer(
            text, points, tuple(steps.ids), tuple(steps.logprobs), dict(clock.ms), passes=steps.passes
        )


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


@dataclass(frozen=True)
class _Drafting:
    """What is expected next, and how far an answer has come."""

    drafter: Drafter | None
    plan: Plan
    grammar: Grammar
    eos_ids: frozenset[int]

    def next(self, steps: _Steps, most: int) -> list[int]:
        """At most so many tokens that probably come next."""
        if self.drafter is None:
            return []
        most = min(most, steps.most - len(steps.ids) - 1)
        return self.drafter.tokens(steps.text, steps.ids, self.plan)[: max(most, 0)]

    def verify(self, steps: _Steps, logits: Float32, drafted: list[int]) -> bool:
        """Take the model's own tokens as long as they are the drafted ones, and one more; True at the end."""
        for row, expected in zip(logits, [*drafted, None], strict=True):
            if len(steps.ids) >= steps.most:
                return True
            steps.take(row)
            if steps.ids[-1] in self.eos_ids or self.grammar.done(steps.text, self.plan):
                return True
            if steps.ids[-1] != expected:
                break
        return len(steps.ids) >= steps.most


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
