"""What a precision or a runtime costs in accuracy: the same questions on the same scenes, beside fp32."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.checkpoint.query import parse_query
from molmo_ros.datatypes import Answer, CountProgress, Float32, Image, Index
from molmo_ros.errors import RuntimeUnavailableError
from molmo_ros.network.precision import CPU_PRECISIONS
from molmo_ros.runtimes.base import Cache, Runtime
from molmo_ros.runtimes.names import OPENVINO
from molmo_ros.runtimes.select import load_runtime
from molmo_ros.sim import SimCamera

log = logging.getLogger(__name__)


@dataclass
class Recorder:
    """A runtime that keeps the logits of each pass."""

    inner: Runtime
    logits: list[Float32] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name, self.precision = self.inner.name, self.inner.precision

    def encode_image(self, crops: Image | Float32, pooling: Index, padding: Index | None = None) -> Float32:
        return self.inner.encode_image(crops, pooling, padding)

    def embed(self, token_ids: list[int]) -> Float32:
        return self.inner.embed(token_ids)

    def new_cache(self) -> Cache:
        return self.inner.new_cache()

    def run(self, embeds: Float32, kv_limit: Index, cache: Cache, rows: Index) -> Float32:
        logits = self.inner.run(embeds, kv_limit, cache, rows)
        self.logits.append(logits[-1])
        return logits

    def interrupt(self) -> None:
        self.inner.interrupt()

    def close(self) -> None:
        self.inner.close()


def compare_precisions(
    scenes: int, seed: int, progress: CountProgress | None = None, checkpoint: str = "tiny"
) -> dict[str, Any]:
    """Ask for each object of each scene in every precision and by every runtime that works on this CPU.

    Each is compared with ONNX Runtime in fp32: same_answer, share of answers with its text; logit_cosine_mean
    and _min, and logit_error_max, over the tokens up to the first that differs; top1, share of those tokens
    with the same arg-max; px_shift_p50 and _max between points of answers with as many points.
    """
    opened = load_checkpoint(checkpoint)
    recorders = {name: Recorder(runtime) for name, runtime in _runtimes(opened)}
    models = {name: Molmo(opened, recorder) for name, recorder in recorders.items()}
    tallies = {name: _Tally() for name in recorders if name != "fp32"}
    questions = 0
    for i in range(scenes):
        camera = SimCamera(int(np.random.default_rng([seed, i]).integers(1 << 29)))
        rgb = camera.frame().rgb
        for name in sorted({"the " + o.name for o in camera.truth.objects}):
            questions += 1
            answers = {}
            for precision, model in models.items():
                recorders[precision].logits.clear()
                answers[precision] = model.answer(rgb, parse_query(name).prompt, drafts=False)
            for precision, tally in tallies.items():
                tally.add(answers["fp32"], answers[precision], recorders["fp32"], recorders[precision])
        if progress is not None:
            progress(i + 1, scenes)
    for model in models.values():
        model.close()
    rows = {name: tally.summary() for name, tally in tallies.items()}
    return {"precisions": rows, "scenes": scenes, "seed": seed, "questions": questions}


def _runtimes(checkpoint: Checkpoint) -> Iterator[tuple[str, Runtime]]:
    """By a name for the table: the precisions of ONNX Runtime, and what else there is here."""
    for precision in CPU_PRECISIONS:
        yield precision, load_runtime(checkpoint, "onnx", precision)
    others = [("eager", "fp32"), *(("openvino", precision) for precision in OPENVINO)]
    for runtime, precision in others:
        try:
            yield f"{runtime} {precision}", load_runtime(checkpoint, runtime, precision)
        except RuntimeUnavailableError as error:
            log.info("not compared: %s", error)


@dataclass
class _Tally:
    same: list[bool] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    top1: list[bool] = field(default_factory=list)
    shifts: list[float] = field(default_factory=list)

    def add(self, reference: Answer, answer: Answer, expected: Recorder, found: Recorder) -> None:
        self.same.append(reference.text == answer.text)
        for a, b in zip(expected.logits, found.logits, strict=False):
            self.cosines.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
            self.errors.append(float(np.abs(a - b).max()))
            self.top1.append(bool(a.argmax() == b.argmax()))
            if not self.top1[-1]:
                break
        if len(reference.points) == len(answer.points):
            pairs = zip(reference.points, answer.points, strict=True)
            self.shifts += [float(np.hypot(p.x - q.x, p.y - q.y)) for p, q in pairs]

    def summary(self) -> dict[str, float]:
        return {
            "same_answer": float(np.mean(self.same)),
            "logit_cosine_mean": float(np.mean(self.cosines)),
            "logit_cosine_min": float(np.min(self.cosines)),
            "logit_error_max": float(np.max(self.errors)),
            "top1": float(np.mean(self.top1)),
            "px_shift_p50": float(np.median(self.shifts)) if self.shifts else float("nan"),
            "px_shift_max": float(np.max(self.shifts)) if self.shifts else float("nan"),
        }
