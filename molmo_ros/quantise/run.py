"""A whole model, layer by layer: nothing larger than a layer is held, and finished work survives a
restart."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import Float32, Progress
from molmo_ros.errors import ParameterError
from molmo_ros.network.precision import block_size
from molmo_ros.quantise.activations import Activations, load_samples, save_samples
from molmo_ros.quantise.blocks import OUT, Block
from molmo_ros.quantise.cost import disk_bytes, memory_bytes, seconds
from molmo_ros.quantise.experts import round_experts
from molmo_ros.quantise.head import round_head
from molmo_ros.quantise.keep import (
    SAMPLES,
    Cost,
    choose,
    decision_costs,
    layer_costs,
    least_bits,
    matrix_bits,
)
from molmo_ros.quantise.layer import METHODS, Layer, Method, matrices, round_layer
from molmo_ros.quantise.rounding import Grid
from molmo_ros.quantise.samples import Question, record
from molmo_ros.quantise.sensitivity import can_measure, load_metrics, load_weights, measure, weights_file
from molmo_ros.quantise.store import finish, head_file, layer_file, read_layer, write_layer
from molmo_ros.runtimes.engine_store import checkpoint_hash
from molmo_ros.runtimes.graphs import IN_MEMORY_PARAMETERS

log = logging.getLogger(__name__)

Say = Callable[[str], None]
WORK = ".work"
PRECISIONS = ("int4", "int8")


@dataclass(frozen=True)
class Plan:
    """What is to be made. ``keep``: average bits per weight, 0 for no matrix in 8 bits; ``data``: where the
    images are from, in words; ``answer_tokens``: of an answer at most."""

    precision: str = "int4"
    method: str = "gptq"
    keep: float = 0.0
    samples: int = 128
    data: str = "simulated scenes"
    answer_tokens: int = 64

    def check(self) -> None:
        """Raises: ParameterError for a value that makes no sense."""
        for value, known in ((self.precision, PRECISIONS), (self.method, METHODS)):
            if value not in known:
                raise ParameterError(f'"{value}" cannot be quantised to; choose one of {", ".join(known)}.')
        if self.keep and (self.precision != "int4" or not 4 < self.keep < 8.5):
            raise ParameterError(f"keep is {self.keep:g} bits a weight on average; with int4, give 4.2 to 8.")


def quantise(
    checkpoint: Checkpoint,
    folder: Path,
    plan: Plan,
    questions: Iterable[Question],
    progress: Progress = lambda stage, share: None,
    say: Say = log.info,
) -> Path:
    """Round the text model into ``folder``, which then stands for the checkpoint; return the folder.

    ``say`` is told how long it will take. An interrupted run is resumed if the plan is the same.
    Raises: ParameterError, CheckpointError.
    """
    plan.check()
    least = least_bits(checkpoint.config.text)
    if 0 < plan.keep < least:
        raise ParameterError(
            f"keep is {plan.keep:g} bits a weight, and int4 alone takes {least:.2f} here; give more."
        )
    if checkpoint.rounded is not None:
        raise ParameterError(
            f"{checkpoint.folder} is quantised already; take {checkpoint.rounded.checkpoint}."
        )
    work = _begin(checkpoint, folder, plan)
    samples = load_samples(work)
    if samples is None:
        samples = _record(checkpoint, plan, questions, work, progress)
    method = Method.parse(plan.method)
    text = checkpoint.config.text
    guided = method.gptq and can_measure(checkpoint)
    _tell(checkpoint, samples, method, guided, work, say)
    if guided:
        _measure(checkpoint, samples, work, progress)
    costs = _costs(checkpoint, samples, guided, work, progress) if plan.keep else {}
    kept = choose(costs, plan.keep)

    def grid(name: str, width: int) -> Grid:
        wide = plan.precision == "int8" or name in kept
        return Grid(8, width) if wide else Grid(4, block_size(width))

    exact = rounded = samples
    for index in range(text.num_layers):
        progress(f"layer {index + 1} of {text.num_layers}", index / text.num_layers)
        if layer_file(folder, index).is_file():
            exact, rounded = (_at(work, index + 1, kind, samples) for kind in ("exact", "rounded"))
            continue
        names = matrices(checkpoint, index)
        weights = load_weights(work, index, names, samples) if guided else None
        metrics = load_metrics(work, index) if guided else None
        layer = round_layer(checkpoint, index, exact, rounded, method, grid, weights, metrics)
        if text.experts is not None:
            round_experts(checkpoint, index, layer, rounded, method)
        exact, rounded = _advance(checkpoint, index, layer, exact, rounded, work)
        write_layer(layer_file(folder, index), layer)
        _remove(work, index)
    if method.gptq and not head_file(folder).is_file():
        progress("head", 1.0)
        write_layer(head_file(folder), round_head(checkpoint, exact, rounded))
    finish(checkpoint, folder, plan.precision, _facts(checkpoint, plan, samples, folder, costs))
    shutil.rmtree(work)
    progress("ready", 1.0)
    return folder


def _begin(checkpoint: Checkpoint, folder: Path, plan: Plan) -> Path:
    """The folder for the states between layers; that of another plan is not resumed."""
    work = folder / WORK
    if folder.exists() and any(folder.iterdir()) and not work.is_dir():
        raise ParameterError(f"{folder} is not empty; give a new folder.")
    state = {**asdict(plan), "checkpoint": checkpoint_hash(checkpoint)}
    path = work / "plan.json"
    if path.is_file() and json.loads(path.read_text()) != state:
        raise ParameterError(
            f"{folder} holds an unfinished quantisation with other options; remove it, or give a new folder."
        )
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(state))
    return work


def _record(
    checkpoint: Checkpoint, plan: Plan, questions: Iterable[Question], work: Path, progress: Progress
) -> Activations:
    """Let the model answer: a small one in fp32, a large one in int4, which takes an eighth of the memory."""
    from molmo_ros.runtimes.select import load_runtime

    large = checkpoint.weights.parameters > IN_MEMORY_PARAMETERS
    runtime = load_runtime(checkpoint, "onnx", "int4" if large else "fp32")
    try:
        heard = record(checkpoint, runtime, questions, plan.answer_tokens)
        save_samples(heard, work, lambda n: progress("answers", n / plan.samples))
    finally:
        runtime.close()
    samples = load_samples(work)
    assert samples is not None
    return samples


def _tell(
    checkpoint: Checkpoint, samples: Activations, method: Method, guided: bool, work: Path, say: Say
) -> None:
    """Time, memory and disk. Raises: ParameterError if the disk is too full."""
    text, tokens = checkpoint.config.text, samples.tokens
    disk, there = disk_bytes(text, tokens, guided), sum(path.stat().st_size for path in work.glob("*.npy"))
    free = shutil.disk_usage(work).free + there
    if disk > free:
        raise ParameterError(
            f"{work} needs {disk / 1e9:.1f} GB for {tokens} tokens, {free / 1e9:.1f} GB are free; "
            "make room, or give fewer --samples and a new --out."
        )
    say(
        f"{len(samples)} samples, {tokens} tokens, {text.num_layers} layers: about "
        f"{seconds(text, tokens, method, guided) / 60:.0f} min on this machine as it is now, "
        f"{memory_bytes(text) / 1e9:.1f} GB of memory, {disk / 1e9:.1f} GB of disk"
    )


def _measure(checkpoint: Checkpoint, samples: Activations, work: Path, progress: Progress) -> None:
    """The exact network's states in front of all layers, and from them the weight of each token."""
    layers = checkpoint.config.text.num_layers
    if weights_file(work, 0).is_file():
        return
    states = samples
    for index in range(layers):
        progress("exact network", index / layers)
        path = work / f"exact-{index + 1}.npy"
        states = samples.at(path) if path.is_file() else _through(checkpoint, index, {}, states, path)
    names = [matrices(checkpoint, index) for index in range(layers)]
    measure(checkpoint, samples, names, work, progress)


def _costs(
    checkpoint: Checkpoint, samples: Activations, guided: bool, work: Path, progress: Progress
) -> dict[str, Cost]:
    """The error of each matrix on its own, on a few of the samples."""
    path = work / "costs.json"
    if path.is_file():
        held = json.loads(path.read_text())
        return {name: Cost(tuple(entry["shape"]), entry["error"]) for name, entry in held.items()}
    few, method = samples.first(SAMPLES), Method(gptq=True)
    costs: dict[str, Cost] = {}
    layers = checkpoint.config.text.num_layers
    for index in range(layers):
        progress("costs", index / layers)
        if guided:
            states = few if index == 0 else few.at(work / f"exact-{index}.npy")
            weights = load_weights(work, index, matrices(checkpoint, index), samples)
            costs |= decision_costs(checkpoint, index, states, method, weights)
            continue
        costs |= layer_costs(checkpoint, index, few, method)
        few = _through(checkpoint, index, {}, few, work / f"few-{index + 1}.npy")
        (work / f"few-{index}.npy").unlink(missing_ok=True)
    if not guided:
        few.path.unlink()
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps({name: asdict(cost) for name, cost in costs.items()}))
    os.replace(unfinished, path)
    return costs


def _advance(
    checkpoint: Checkpoint, index: int, layer: Layer, exact: Activations, rounded: Activations, work: Path
) -> tuple[Activations, Activations]:
    """What enters the next layer, in the exact network and in the rounded one."""
    after = index + 1
    path = work / f"exact-{after}.npy"
    exact = exact.at(path) if path.is_file() else _through(checkpoint, index, {}, exact, path)
    return exact, _through(checkpoint, index, layer.tensors(), rounded, work / f"rounded-{after}.npy")


def _through(
    checkpoint: Checkpoint, index: int, changed: Mapping[str, Float32], states: Activations, path: Path
) -> Activations:
    block = Block(checkpoint, index, changed, (OUT,))
    parts = (block.run(x, limits)[0] for x, limits in zip(states, states.limits, strict=True))
    return states.write(path, parts, checkpoint.config.text.hidden_size)


def _at(work: Path, layer: int, kind: str, samples: Activations) -> Activations:
    return samples.at(work / f"{kind}-{layer}.npy")


def _remove(work: Path, layer: int) -> None:
    for kind in ("exact", "rounded"):
        (work / f"{kind}-{layer}.npy").unlink(missing_ok=True)


def _facts(
    checkpoint: Checkpoint, plan: Plan, samples: Activations, folder: Path, costs: dict[str, Cost]
) -> dict[str, object]:
    """What the manifest says beside the matrices."""
    text = checkpoint.config.text
    bits, weights = 0.0, 0.0
    for index in range(text.num_layers):
        for entry in read_layer(layer_file(folder, index)).matrices.values():
            count = float(np.prod(entry["shape"]))
            bits, weights = bits + matrix_bits(tuple(entry["shape"]), entry["kind"]), weights + count
    return {
        "method": plan.method, "data": plan.data, "samples": len(samples), "tokens": samples.tokens,
        "bits": round(bits / weights, 3), "keep": plan.keep,
        "sensitivity": {name: cost.error for name, cost in costs.items()},
    }  # fmt: skip
