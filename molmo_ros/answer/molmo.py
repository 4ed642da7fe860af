"""Image and prompt -> answer: the decode loop over a runtime.

1. Preprocess: the image as crops, the prompt as tokens (``checkpoint.preprocess``, ``checkpoint.prompt``).
2. Vision: the features of the crops are added to the embeddings of the image's tokens.
3. Prefill: image, prompt and a first draft of the answer go through the text model in one pass.
4. Decode, until the answer ends or its coordinates are complete:
   a. verify: keep the drafted tokens that the model itself would have written, and its own next token;
   b. draft: what the answer's grammar expects next, up to 15 tokens (``drafter``);
   c. run: the new token and the draft go through the text model in one pass.
5. Points: parsed from the text, with calibrated confidence (``answer_format``, ``calibration``).

The tokens before the user's words depend on the image alone. Their keys and values are kept
(``image_cache``), so a second question about an image skips 1, 2 and the long part of 3.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, cast

import numpy as np

from molmo_ros.answer.calibration import Calibration
from molmo_ros.answer.decoding import AnyGrammar, Clock, Drafting, Steps, kv_limits
from molmo_ros.answer.drafter import FIRST_DRAFT_TOKENS, NEXT_DRAFT_TOKENS, Drafter
from molmo_ros.answer.image_cache import CachedImage, ImageCache
from molmo_ros.answer.molmo_point import Pointer
from molmo_ros.answer_format.grammar import Format, Grammar, Plan
from molmo_ros.answer_format.grammar_point import PatchGrammar
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.checkpoint.preprocess import as_rgb, image_token_ids, preprocess
from molmo_ros.datatypes import Answer, Float32, Image, Index, Progress, ShouldStop
from molmo_ros.errors import QueryError
from molmo_ros.network.config import V1
from molmo_ros.runtimes.base import PointRuntime, Runtime
from molmo_ros.runtimes.choices import Choices
from molmo_ros.runtimes.select import load_runtime

log = logging.getLogger(__name__)


class Molmo:
    """One loaded model. Queries from several threads wait for each other."""

    def __init__(self, checkpoint: Checkpoint, runtime: Runtime) -> None:
        self._checkpoint = checkpoint
        self.runtime = runtime
        self.calibration = Calibration.load(checkpoint.folder)
        self._digits = checkpoint.encoder.digit_tokens()
        self._grammar = _grammar(checkpoint)
        self._drafter = Drafter(checkpoint.encoder.encode, checkpoint.encoder.decode)
        self.images = ImageCache()
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
        max_crops: int | None = None,
    ) -> Molmo:
        """Load "tiny", a checkpoint folder, or a hub id: in the local cache, or fetched if that is allowed.

        ``max_crops``: high-resolution crops of an image, if other than the checkpoint's number.
        Raises: CheckpointError, RuntimeUnavailableError, ParameterError.
        """
        opened = load_checkpoint(
            checkpoint, progress=progress, allow_download=allow_download, max_crops=max_crops
        )
        return cls(opened, load_runtime(opened, runtime, precision, threads=threads, progress=progress))

    @property
    def info(self) -> dict[str, Any]:
        """What is loaded."""
        config = self._checkpoint.config
        return {
            "checkpoint": str(self._checkpoint.folder),
            "model_type": config.model_type,
            "parameters": self._checkpoint.weights.parameters,
            "runtime": self.runtime.name,
            "precision": self.runtime.precision,
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

        ``max_points``: stop before the model writes one more than these. ``drafts`` False: one pass per
        token, the reference for the rest. ``should_stop`` is polled before every pass, and by another thread
        during the long ones, vision and prefill, which are then aborted.
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

        The points are those of `answer`. The model does not have to repeat the name of what it points to:
        ``label`` takes its place in the text. ``exact``: the whole greedy text nevertheless. ``previous``: an
        answer that this one is probably close to, such as that of the previous frame; it saves passes, and
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
        encoder = self._checkpoint.encoder
        with self._lock:
            clock = Clock(should_stop)
            rgb = as_rgb(rgb)
            turn = encoder.turn(prompt)
            # 1 and 2. Preprocess and vision, unless the image is in the cache.
            image = self._cached(rgb, clock) or self._encode(rgb, clock)
            grammar = self._grammar if image.pointer is None else PatchGrammar(image.pointer.places)
            steps = Steps(encoder.decode, self._digits, image.pointer, max_new_tokens)
            drafting = Drafting(drafter, plan, grammar, encoder.eos_ids)
            # 3. Prefill, with a first draft.
            found, drafted = self._prefill(image, turn, drafting.next(steps, FIRST_DRAFT_TOKENS), clock)
            # 4. Decode: verify, draft, run.
            with clock.stage("decode"):
                self._decode(found, drafted, image, steps, drafting, clock)
        # 5. Points.
        text = steps.text if plan.exact else grammar.finish(steps.text, plan.label)
        return self._answer(text, steps, grammar, rgb.shape[1], rgb.shape[0], clock)

    def close(self) -> None:
        """Free the memory of the network."""
        with self._lock:
            self.images.clear()
            self.runtime.close()

    def _cached(self, rgb: Image, clock: Clock) -> CachedImage | None:
        """The image as it was encoded before, None if it is not in the cache."""
        image = self.images.take(rgb)
        if image is None:
            return None
        image.cache.trim(image.length)
        for stage in ("preprocess", "vision"):
            clock.ms[stage] = 0.0
        return image

    def _encode(self, rgb: Image, clock: Clock) -> CachedImage:
        """Embed everything before the user's words; image features are added to the image's tokens."""
        encoder, config = self._checkpoint.encoder, self._checkpoint.image
        pointer = None
        with clock.stage("preprocess"):
            inputs = preprocess(rgb, config)
            ids = encoder.prefix(image_token_ids(inputs, encoder, config))
            self._check_length(len(ids))
        with clock.long_stage("vision", self.runtime.interrupt):
            if self._checkpoint.config.point:
                runtime = cast(PointRuntime, self.runtime)
                features, *patches = runtime.encode_patches(inputs.crops, inputs.pooling)
                pointer = Pointer(self._checkpoint, inputs, features, *patches)
            else:
                features = self.runtime.encode_image(inputs.crops, inputs.pooling, inputs.padding)
            embeds = self.runtime.embed(ids)
            places = np.flatnonzero(np.isin(ids, (encoder.im_patch, encoder.im_low)))
            embeds[places] += features
        cache = self.runtime.new_cache()
        return CachedImage(rgb.copy(), cache, len(ids), embeds, places, pointer)

    def _prefill(
        self, image: CachedImage, turn: list[int], draft: list[int], clock: Clock
    ) -> tuple[Choices, list[int]]:
        """The answer's first token, and what would come after each of N drafted ones; the draft.

        The draft is returned shortened where the model has no room for it.
        """
        self._check_length(image.length + len(turn))
        draft = draft[: self._max_positions - image.length - len(turn)]
        with clock.long_stage("prefill", self.runtime.interrupt):
            past = image.cache.length
            embeds = self._embed(image, [], [*turn, *draft])
            if not past:
                embeds = np.concatenate([image.embeds, embeds])
            sees_ahead = image.length if self._checkpoint.config.image_sees_ahead else 0
            limits = kv_limits(past, sees_ahead, len(embeds))
            found = self._run(image, embeds, limits, [], draft)
        self.images.keep(image.prefilled())
        return found, draft

    def _run(
        self, image: CachedImage, embeds: Float32, limits: Index, answer: list[int], drafted: list[int]
    ) -> Choices:
        """1+N choices: after ``answer``, and after each of the N drafted tokens at the end of ``embeds``."""
        rows = np.arange(len(embeds) - len(drafted) - 1, len(embeds), dtype=np.int64)
        first = not image.cache.length
        outputs = self.runtime.run(embeds, limits, image.cache, rows)
        if image.pointer is None:
            return outputs.choices
        assert outputs.pointing is not None
        if first:
            image.pointer.remember(outputs.pointing[image.places])
        answers = [[*answer, *drafted[:i]] for i in range(len(rows))]
        return image.pointer.choices(outputs.choices, outputs.pointing[rows], answers)

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
        found: Choices,
        drafted: list[int],
        image: CachedImage,
        steps: Steps,
        drafting: Drafting,
        clock: Clock,
    ) -> None:
        """Fill ``steps``. ``found``: the choices before and after each of ``drafted``, N tokens at the end of
        the cache."""
        cache = image.cache
        while True:
            # a. Verify; the cache forgets the drafted tokens that were wrong.
            steps.passes += 1
            before = len(steps.ids)
            known = cache.length - len(drafted)
            finished = drafting.verify(steps, found, drafted)
            cache.trim(known + max(len(steps.ids) - before - 1, 0))
            room = self._max_positions - cache.length
            if finished or room < 1:
                return
            clock.check()
            # b. Draft.
            drafted = drafting.next(steps, min(NEXT_DRAFT_TOKENS, room - 1))
            # c. Run.
            tokens = [steps.ids[-1], *drafted]
            limits = np.arange(cache.length + 1, cache.length + 1 + len(tokens), dtype=np.int64)
            found = self._run(image, self._embed(image, steps.ids[:-1], tokens), limits, steps.ids, drafted)

    def _embed(self, image: CachedImage, answer: list[int], tokens: list[int]) -> Float32:
        """Embeddings (T,D) of ``tokens``, which follow ``answer``."""
        if image.pointer is None:
            return self.runtime.embed(tokens)
        return image.pointer.embed(self.runtime.embed, answer, tokens)

    def _answer(
        self, text: str, steps: Steps, grammar: AnyGrammar, width: int, height: int, clock: Clock
    ) -> Answer:
        points = self.calibration.apply(grammar.points(text, steps.tokens, width, height))
        log.debug("%d tokens in %d passes, %s ms: %s", len(steps.ids), steps.passes, clock.ms, text)
        return Answer(
            text,
            points,
            tuple(steps.ids),
            tuple(steps.logprobs),
            dict(clock.ms),
            passes=steps.passes,
            drafted=steps.drafted,
            accepted=steps.accepted,
        )


def _grammar(checkpoint: Checkpoint) -> AnyGrammar:
    if checkpoint.config.point:
        return PatchGrammar()
    return Grammar(Format.MOLMO1 if checkpoint.config.model_type == V1 else Format.MOLMO2)
