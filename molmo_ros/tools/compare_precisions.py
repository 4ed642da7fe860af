"""What a precision or a runtime costs in accuracy: the same questions on the same scenes, compared with
fp32."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.checkpoint.query import parse_query
from molmo_ros.datatypes import Answer, CountProgress, Float32, Image, ImagePoint, Index, RgbdFrame
from molmo_ros.errors import DepthError, ParameterError, RuntimeUnavailableError
from molmo_ros.network.precision import CPU_PRECISIONS
from molmo_ros.perception.lift import lift_point
from molmo_ros.runtimes.base import Cache, Outputs, Runtime
from molmo_ros.runtimes.engine_store import checkpoint_hash
from molmo_ros.runtimes.names import OPENVINO
from molmo_ros.runtimes.ort import OrtRuntime
from molmo_ros.runtimes.select import load_runtime
from molmo_ros.sim import SimCamera, SimTruth
from molmo_ros.tools.evaluate import calibration_error, missing

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

    def run(
        self, embeds: Float32, kv_limit: Index, cache: Cache, rows: Index, *, logits: bool = False
    ) -> Outputs:
        found = self.inner.run(embeds, kv_limit, cache, rows, logits=True)
        assert found.logits is not None
        self.logits.append(found.logits[-1])
        return found

    def interrupt(self) -> None:
        self.inner.interrupt()

    def close(self) -> None:
        self.inner.close()


@dataclass(frozen=True)
class Question:
    """A thing by name, in a frame; ``ids``: objects that it may mean, none where it is not there."""

    name: str
    frame: RgbdFrame
    truth: SimTruth
    ids: tuple[int, ...]


def compare_precisions(
    scenes: int,
    seed: int,
    progress: CountProgress | None = None,
    checkpoint: str = "tiny",
    quantised: Sequence[str] = (),
) -> dict[str, Any]:
    """Ask for each object of each scene, and for one that is not there, in every precision and by every
    runtime that works on this CPU, and with the matrices of the folders ``quantised``.

    Each is compared with ONNX Runtime in fp32. "weights" in a row's name: computed as on a GPU, where neither
    activations nor the head are rounded. Over questions for what is there: same_answer, share of texts
    that are equal; logit_cosine_mean and _min, and logit_error_max, over the tokens up to the first that
    differs; top1, share of those tokens with the same arg-max; px_shift_p50, _p95 and _max between points of
    answers with as many points, and mm_shift_* between these points in space; confidence_shift, mean change
    of a point's confidence; sigma_ratio, median of its standard deviation relative to fp32. Over all
    questions: flips, share of answers that find something where fp32 finds nothing, or vice versa; ece,
    calibration error of the confidence against the objects' masks (that of fp32 is given as well).
    """
    opened = load_checkpoint(checkpoint)
    recorders = {name: (opened, Recorder(runtime)) for name, runtime in _runtimes(opened)}
    for folder in quantised:
        recorders |= _quantised(opened, folder)
    models = {name: Molmo(held, recorder) for name, (held, recorder) in recorders.items()}
    tallies = {name: _Tally() for name in recorders}
    questions = 0
    for i in range(scenes):
        for question in _questions(seed, i):
            questions += bool(question.ids)
            answers = {}
            for name, model in models.items():
                recorders[name][1].logits.clear()
                prompt = parse_query(question.name).prompt
                answers[name] = model.answer(question.frame.rgb, prompt, drafts=False)
            for name, tally in tallies.items():
                expected, found = recorders["fp32"][1], recorders[name][1]
                tally.add(question, answers["fp32"], answers[name], expected, found)
        if progress is not None:
            progress(i + 1, scenes)
    for model in models.values():
        model.close()
    rows = {name: tally.summary() for name, tally in tallies.items()}
    fp32 = rows.pop("fp32")
    return {
        "precisions": rows, "scenes": scenes, "seed": seed, "questions": questions, "ece_fp32": fp32["ece"],
    }  # fmt: skip


def _questions(seed: int, scene: int) -> Iterator[Question]:
    camera = SimCamera(int(np.random.default_rng([seed, scene]).integers(1 << 29)))
    frame, truth = camera.frame(), camera.truth
    for name in sorted({o.name for o in truth.objects}):
        ids = tuple(i + 1 for i, o in enumerate(truth.objects) if o.name == name)
        yield Question(f"the {name}", frame, truth, ids)
    yield Question(f"the {missing(truth, np.random.default_rng([seed, scene, 1]))}", frame, truth, ())


def _quantised(checkpoint: Checkpoint, folder: str) -> dict[str, tuple[Checkpoint, Recorder]]:
    """A row for the folder. Raises: ParameterError if it was not made from this checkpoint."""
    held = load_checkpoint(folder)
    if held.rounded is None or held.rounded.checkpoint_hash != checkpoint_hash(checkpoint):
        raise ParameterError(f"{folder} was not quantised from {checkpoint.folder}; give one that was.")
    precision, facts = held.rounded.precision, held.rounded.facts
    name = f"{precision} {facts['method']} {facts['bits']:.2f}"
    weights = OrtRuntime(held, precision, weights_only=True)
    return {
        name: (held, Recorder(load_runtime(held, "onnx", precision))),
        f"{name} weights": (held, Recorder(weights)),
    }


def _runtimes(checkpoint: Checkpoint) -> Iterator[tuple[str, Runtime]]:
    """By a name for the table: the precisions of ONNX Runtime, and the other runtimes available here."""
    for precision in CPU_PRECISIONS:
        yield precision, load_runtime(checkpoint, "onnx", precision)
    for precision in ("int8", "int4"):
        yield f"{precision} weights", OrtRuntime(checkpoint, precision, weights_only=True)
    others = [("eager", "fp32"), *(("openvino", precision) for precision in OPENVINO)]
    for runtime, precision in others:
        try:
            yield f"{runtime} {precision}", load_runtime(checkpoint, runtime, precision)
        except RuntimeUnavailableError as error:
            log.info("not compared: %s", error)


@dataclass
class _Tally:
    same: list[bool] = field(default_factory=list)
    flips: list[bool] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    top1: list[bool] = field(default_factory=list)
    px: list[float] = field(default_factory=list)
    mm: list[float] = field(default_factory=list)
    sigmas: list[float] = field(default_factory=list)
    confidence_shifts: list[float] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)

    def add(
        self, question: Question, reference: Answer, answer: Answer, expected: Recorder, found: Recorder
    ) -> None:
        self.flips.append(bool(reference.points) != bool(answer.points))
        for point in answer.points:
            inside = question.truth.ids[round(point.y), round(point.x)] in question.ids
            self.confidence.append(point.confidence)
            self.hits.append(bool(inside))
        if not question.ids:
            return
        self.same.append(reference.text == answer.text)
        for a, b in zip(expected.logits, found.logits, strict=False):
            self.cosines.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
            self.errors.append(float(np.abs(a - b).max()))
            self.top1.append(bool(a.argmax() == b.argmax()))
            if not self.top1[-1]:
                break
        if len(reference.points) == len(answer.points):
            for p, q in zip(reference.points, answer.points, strict=True):
                self._compare(question.frame, p, q)

    def _compare(self, frame: RgbdFrame, p: ImagePoint, q: ImagePoint) -> None:
        self.px.append(float(np.hypot(p.x - q.x, p.y - q.y)))
        self.confidence_shifts.append(abs(p.confidence - q.confidence))
        before, after = (np.trace(np.array(one.covariance)) for one in (p, q))
        if before > 0:
            self.sigmas.append(float((after / before) ** 0.5))
        try:
            a, b = (np.array(lift_point(frame, one).position) for one in (p, q))
        except DepthError:
            return
        self.mm.append(1000 * float(np.linalg.norm(a - b)))

    def summary(self) -> dict[str, float]:
        return {
            "same_answer": float(np.mean(self.same)),
            "flips": float(np.mean(self.flips)),
            "logit_cosine_mean": float(np.mean(self.cosines)),
            "logit_cosine_min": float(np.min(self.cosines)),
            "logit_error_max": float(np.max(self.errors)),
            "top1": float(np.mean(self.top1)),
            **_spread("px_shift", self.px),
            **_spread("mm_shift", self.mm),
            "confidence_shift": float(np.mean(self.confidence_shifts)) if self.px else float("nan"),
            "sigma_ratio": float(np.median(self.sigmas)) if self.sigmas else float("nan"),
            "ece": calibration_error(np.array(self.confidence), np.array(self.hits)),
        }


def _spread(name: str, values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and largest."""
    if not values:
        return dict.fromkeys((f"{name}_p50", f"{name}_p95", f"{name}_max"), float("nan"))
    p50, p95 = np.percentile(values, [50, 95])
    return {f"{name}_p50": float(p50), f"{name}_p95": float(p95), f"{name}_max": max(values)}
