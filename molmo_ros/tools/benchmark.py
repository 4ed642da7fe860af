"""How long a pointing query takes, compared with the same work by transformers' generate, in alternation.

A model with random weights can be made to give a certain answer: the network does all its work, and then the
wanted token is made the most probable one. So it takes the time that a trained one takes for that answer.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.checkpoint.preprocess import image_token_ids, preprocess
from molmo_ros.checkpoint.query import parse_query
from molmo_ros.datatypes import Answer, Float32, Image, Index
from molmo_ros.network.weights import TEXT
from molmo_ros.runtimes.base import Cache, Outputs, Runtime
from molmo_ros.runtimes.choices import Choice, Choices

ONE_POINT = '<points coords="1 1 308 305">red mug</points>'
LOUDER = 5.0  # the logit of the token to be said, above all others
REST_S = 0.01  # before each measurement: threads of the previous one may still hold the cores
BITS = {"int8": 8, "fp8": 8, "int8_dynamic": 8, "int4": 4.25, "fp16": 16, "bf16": 16}


class Prompted:
    """A runtime whose every answer is ``text``, at the full cost of the network.

    After a drafted token that is not part of this answer it says what the random weights say, so that guesses
    of what comes next gain nothing here.
    """

    def __init__(self, runtime: Runtime, checkpoint: Checkpoint, text: str) -> None:
        self.name, self.precision = runtime.name, runtime.precision
        encoder = checkpoint.encoder
        self.answer = [*encoder.encode(text), min(encoder.eos_ids)]
        self._runtime = runtime
        self._fed: list[int] = []  # the tokens of the pass to come, those of the image left out
        self._said: list[int] = []
        self._start = 0

    def run(
        self, embeds: Float32, kv_limit: Index, cache: Cache, rows: Index, *, logits: bool = False
    ) -> Outputs:
        past = cache.length
        found = self._runtime.run(embeds, kv_limit, cache, rows, logits=logits)
        if rows[0] > 0:  # a prompt: its last token is the first that is asked about
            self._start = past + int(rows[0])
        known = past + len(embeds) - len(rows) - self._start
        self._said = [*self._said[:known], *self._fed[len(self._fed) - len(rows) :]]
        wanted: dict[int, int] = {}
        for i in range(len(rows)):
            said = self._said[1 : known + i + 1]  # after the prompt's last token
            if said == self.answer[: len(said)] and len(said) < len(self.answer):
                wanted[i] = self.answer[len(said)]
        return replace(found, choices=PromptedChoices(found.choices, wanted))

    def encode_image(self, crops: Any, pooling: Index, padding: Index | None = None) -> Float32:
        return self._runtime.encode_image(crops, pooling, padding)

    def embed(self, token_ids: list[int]) -> Float32:
        self._fed = token_ids
        return self._runtime.embed(token_ids)

    def new_cache(self) -> Cache:
        return self._runtime.new_cache()

    def interrupt(self) -> None:
        self._runtime.interrupt()

    def close(self) -> None:
        self._runtime.close()


@dataclass(frozen=True)
class PromptedChoices:
    """Those of a network, except for the rows in which a token is ``wanted``."""

    inner: Choices
    wanted: dict[int, int]

    @property
    def tokens(self) -> list[int]:
        return [self.wanted.get(i, token) for i, token in enumerate(self.inner.tokens)]

    def choice(self, row: int) -> Choice:
        choice = self.inner.choice(row)
        if row not in self.wanted:
            return choice
        total = float(np.logaddexp(0.0, LOUDER + choice.logprob))
        scores = choice.scores - np.float32(total)
        return Choice(self.wanted[row], LOUDER + choice.logprob - total, scores)


class Transformers:
    """transformers' own Molmo2 and its generate, as one would use it; tiling and tokens are ours."""

    def __init__(self, checkpoint: Checkpoint, dtype: str) -> None:
        import torch
        from transformers import Molmo2ForConditionalGeneration

        importlib.import_module("transformers.utils.logging").disable_progress_bar()
        self._checkpoint, self._torch = checkpoint, torch
        model: Any = Molmo2ForConditionalGeneration.from_pretrained(
            str(checkpoint.folder), dtype=getattr(torch, dtype), local_files_only=True
        )
        self._model = model.eval()

    def generate(
        self, rgb: Image, prompt: str, answer: Sequence[int] | None = None, **options: Any
    ) -> list[int]:
        """Tokens of the greedy answer; or of ``answer``, at the cost of the network.

        ``options`` go to generate.
        """
        torch, encoder = self._torch, self._checkpoint.encoder
        image = self._checkpoint.image
        inputs = preprocess(rgb, image)
        ids = [*encoder.prefix(image_token_ids(inputs, encoder, image)), *encoder.turn(prompt)]
        tokens = torch.tensor([ids], device=self._model.device)
        of_image = torch.isin(tokens, torch.tensor(encoder.image_ids, device=tokens.device))
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                mm_token_type_ids=of_image.long(),
                pixel_values=self._pixels(inputs.crops),
                image_token_pooling=torch.tensor(inputs.pooling, device=tokens.device),
                image_grids=torch.tensor([[len(inputs.pooling), 1, 0, 0]], device=tokens.device),
                do_sample=False,
                max_new_tokens=len(answer) if answer else 192,
                eos_token_id=sorted(encoder.eos_ids),
                pad_token_id=min(encoder.eos_ids),
                logits_processor=[_Say(answer, len(ids))] if answer else None,
                **options,
            )
        return [int(t) for t in out[0, len(ids) :]]

    def _pixels(self, crops: Any) -> Any:
        c = self._checkpoint.image
        g, p = c.grid, c.patch_size
        patches = crops.reshape(-1, g, p, g, p * 3).swapaxes(2, 3).reshape(-1, g * g, p * p, 3)
        mean, std = np.array(c.mean, np.float32), np.array(c.std, np.float32)
        pixels = (patches.astype(np.float32) / 255 - mean) / std
        tensor = self._torch.from_numpy(pixels.reshape(len(crops), g * g, -1))
        return tensor.to(self._model.device, self._model.dtype)


class RandomTransformers(Transformers):
    """The same with weights that transformers draws itself, on any device of torch's."""

    def __init__(self, checkpoint: Checkpoint, dtype: str, device: str) -> None:
        import torch
        import transformers
        from transformers import Molmo2Config, Molmo2ForConditionalGeneration

        self._checkpoint, self._torch, self.version = checkpoint, torch, transformers.__version__
        config = Molmo2Config.from_pretrained(str(checkpoint.folder), local_files_only=True)
        before = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, dtype))
        try:
            with torch.device(device):
                model: Any = Molmo2ForConditionalGeneration(config)
                self._model = model.eval()
        finally:
            torch.set_default_dtype(before)


class _Say:
    """Makes the next token of an answer the most probable one."""

    def __init__(self, answer: Sequence[int], prompt: int) -> None:
        self._answer, self._prompt = answer, prompt

    def __call__(self, ids: Any, scores: Any) -> Any:
        scores[:, self._answer[ids.shape[1] - self._prompt]] = scores.max() + 5
        return scores


@dataclass
class Times:
    """Milliseconds of each query; ``theirs`` by dtype of transformers."""

    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    token: list[float] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    passes_plain: list[int] = field(default_factory=list)
    theirs: dict[str, list[float]] = field(default_factory=dict)
    same: list[bool] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Medians, passes as means, and ratios: more than 1 is faster than transformers."""
        points = float(np.median(self.first))
        result = {
            "ms_points_p50": round(points, 2),
            "ms_second_query_p50": round(float(np.median(self.second)), 2),
            "ms_first_token_p50": round(float(np.median(self.first_token)), 2),
            "ms_token_p50": round(float(np.median(self.token)), 3),
            "passes": round(float(np.mean(self.passes)), 2),
            "passes_plain": round(float(np.mean(self.passes_plain)), 2),
            "ratio_second_query": round(points / float(np.median(self.second)), 2),
            "ratio_vs_transformers": None,
        }
        for dtype, ms in self.theirs.items():
            name = "" if dtype == "float32" else f"_{dtype}"
            result[f"ms_transformers{name}_p50"] = round(float(np.median(ms)), 2)
            result[f"ratio_vs_transformers{name}"] = round(float(np.median(ms)) / points, 2)
        if self.same:
            result["same_answers_as_transformers"] = round(float(np.mean(self.same)), 4)
        return result


def compare(
    molmo: Molmo, frames: Sequence[Image], queries: Sequence[str], others: dict[str, Transformers], said: Any
) -> Times:
    """Ask ``queries`` in turn, one on each frame and another on the same frame; the first is a warm-up.

    ``said``: the tokens that all models are made to say, or None.
    """
    times = Times(theirs={dtype: [] for dtype in others})
    for i, rgb in enumerate(frames):
        query, other = queries[i % len(queries)], queries[(i + 1) % len(queries)]
        first_ms, answer = _point(molmo, rgb, query)
        second_ms, _ = _point(molmo, rgb, other)
        plain = molmo.answer(rgb, parse_query(query).prompt, drafts=False)
        generated = {dtype: _generate(their, rgb, query, said) for dtype, their in others.items()}
        if i == 0:
            continue
        stages = answer.stages_ms
        times.first.append(first_ms)
        times.second.append(second_ms)
        times.first_token.append(sum(stages[s] for s in ("preprocess", "vision", "prefill")))
        if plain.passes > 1:
            times.token.append(plain.stages_ms["decode"] / (plain.passes - 1))
        times.passes.append(answer.passes)
        times.passes_plain.append(plain.passes)
        for dtype, (ms, tokens) in generated.items():
            times.theirs[dtype].append(ms)
            if dtype == "float32":
                times.same.append(tuple(tokens) == plain.token_ids)
    return times


def _point(molmo: Molmo, rgb: Image, query: str) -> tuple[float, Answer]:
    time.sleep(REST_S)
    start = time.perf_counter()
    asked = parse_query(query)
    answer = molmo.point(rgb, asked.prompt, label=asked.label)
    return 1000 * (time.perf_counter() - start), answer


def _generate(their: Transformers, rgb: Image, query: str, said: Any) -> tuple[float, list[int]]:
    time.sleep(REST_S)
    start = time.perf_counter()
    tokens = their.generate(rgb, parse_query(query).prompt, said)
    return 1000 * (time.perf_counter() - start), tokens


def limit(checkpoint: Checkpoint, precision: str, ms_token: float) -> dict[str, float]:
    """The time to read the weights once per token at the memory's bandwidth, and how near we come to it.

    bytes_per_token: the text model's matrices, at the bits of the precision. A model that fits into the
    processor's cache can exceed 1.
    """
    shapes = checkpoint.weights.shapes
    blocks = sum(int(np.prod(s)) for n, s in shapes.items() if n.startswith(TEXT) and "wte" not in n)
    head = checkpoint.config.text.vocab_size * checkpoint.config.text.hidden_size
    size = (blocks + head) * BITS.get(precision, 32) / 8
    speed = read_bandwidth()
    fraction = 1000 * size / (speed * 1e9) / ms_token
    return {
        "bytes_per_token": round(size),
        "bandwidth_gbs": round(speed, 2),
        "fraction": round(fraction, 3),
    }


def read_bandwidth(threads: int = 2, megabytes: int = 128) -> float:
    """GB/s at which some threads read memory, the best of five runs."""
    parts = [np.ones(megabytes * 125_000) for _ in range(threads)]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - start)
    return threads * megabytes / 1000 / best
