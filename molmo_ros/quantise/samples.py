"""What goes into the text model while it answers: the calibration data, as embeddings of whole sequences."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.checkpoint.query import counting_prompt, parse_query
from molmo_ros.datatypes import Float32, Image, Index, Mask
from molmo_ros.runtimes.base import Cache, Outputs, Runtime

Question = tuple[Image, str]  # an image and a whole prompt
FIRST_SEED = 1 << 30  # of the default scenes; evaluation uses seeds below 2^29, training those above 10^9


@dataclass(frozen=True)
class Sample:
    """Image, prompt and answer as one sequence: embeddings (T,D), how far each token sees (T,), and whether
    its logits are read (T,)."""

    embeds: Float32
    limits: Index
    read: Mask


@dataclass
class Listener:
    """A runtime that keeps what it was given for the cache in use, from its first token on."""

    inner: Runtime
    heard: list[Sample] = field(default_factory=list)
    cache: Cache | None = None

    def __post_init__(self) -> None:
        self.name, self.precision = self.inner.name, self.inner.precision

    def sequence(self) -> Sample:
        """Everything that is in the cache; wrong drafts are not."""
        length = self.cache.length if self.cache is not None else 0
        return Sample(
            np.concatenate([part.embeds for part in self.heard])[:length],
            np.concatenate([part.limits for part in self.heard])[:length],
            np.concatenate([part.read for part in self.heard])[:length],
        )

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)  # encode_image, embed, close ...

    def run(
        self, embeds: Float32, kv_limit: Index, cache: Cache, rows: Index, *, logits: bool = False
    ) -> Outputs:
        self._hear(embeds, kv_limit, cache, rows)
        return self.inner.run(embeds, kv_limit, cache, rows, logits=logits)

    def _hear(self, embeds: Float32, limits: Index, cache: Cache, rows: Index) -> None:
        """Tokens after the first ``cache.length`` are dropped, such as those of the last question."""
        self.cache = cache
        kept, known = [], 0
        for part in self.heard:
            room = max(cache.length - known, 0)
            kept.append(Sample(part.embeds[:room], part.limits[:room], part.read[:room]))
            known += len(part.limits)
        read = np.zeros(len(limits), np.bool_)
        read[rows] = True
        self.heard = [*kept, Sample(embeds.copy(), limits.copy(), read)]


def record(
    checkpoint: Checkpoint, runtime: Runtime, questions: Iterable[Question], most_tokens: int = 64
) -> Iterator[Sample]:
    """Ask each question and return everything that the text model saw, its own answer included.

    Questions about the same image come one after the other.
    """
    listener = Listener(runtime)
    model = Molmo(checkpoint, listener)  # type: ignore[arg-type]
    for rgb, prompt in questions:
        model.answer(rgb, prompt, max_new_tokens=most_tokens)
        yield listener.sequence()


def simulated(count: int, seed: int = 0) -> Iterator[Question]:
    """Questions about new scenes, five each: to point at two things, at several, to count, and for what is
    not there."""
    scenes = (question for i in itertools.count() for question in _scene(seed, i))
    return itertools.islice(scenes, count)


def _scene(seed: int, i: int) -> Iterator[Question]:
    from molmo_ros.sim import SimCamera
    from molmo_ros.sim.objects import PLURALS
    from molmo_ros.tools.evaluate import missing

    rng = np.random.default_rng([FIRST_SEED, seed, i])
    camera = SimCamera(int(rng.integers(FIRST_SEED)) + FIRST_SEED)
    rgb, things = camera.frame().rgb, camera.truth.objects
    names = sorted({thing.name for thing in things})
    plural = PLURALS[things[int(rng.integers(len(things)))].kind]
    for name in rng.permutation(names)[:2]:
        yield rgb, parse_query(f"the {name}").prompt
    yield rgb, parse_query(f"all the {plural}").prompt
    yield rgb, counting_prompt(parse_query(plural))
    yield rgb, parse_query(f"the {missing(camera.truth, rng)}").prompt
