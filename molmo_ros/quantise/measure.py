"""Time, memory and error of a quantisation: ``OMP_NUM_THREADS=1 python -m molmo_ros.quantise.measure``.

The model is random: that of 227 M parameters with outlier channels planted, on noise images; or, with
``--full-size``, layers of Molmo2-4B, whose weights are drawn as they are read, on random embeddings. For each
stage it prints CPU time, wall time and peak memory; and for the model of 227 M the error of the logits on new
images, relative to that of rounding to nearest.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.datatypes import Float32
from molmo_ros.quantise.activations import save_samples
from molmo_ros.quantise.layer import METHODS
from molmo_ros.quantise.run import PRECISIONS, WORK, Plan, quantise
from molmo_ros.quantise.samples import Question, Sample, record
from molmo_ros.runtimes.base import Runtime
from molmo_ros.runtimes.ort import OrtRuntime
from molmo_ros.tools.random_model import open_full_size, write_random_model

ANSWER = 4  # tokens
TOKENS, READ = 428, 5  # of a drawn sequence, as for an image of one crop and an answer; those read
COMPARED = 12  # tokens at the end of a sequence
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Stages:
    """What each stage of a run took, printed as the next begins."""

    name: str = ""
    began: tuple[float, float] = (0.0, 0.0)
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, stage: str, share: float) -> None:
        name = stage.split()[0]
        if name == self.name and name != "layer":
            return
        cpu, wall = time.process_time(), time.perf_counter()
        if self.name:
            took = cpu - self.began[0], wall - self.began[1]
            self.seconds[self.name] = self.seconds.get(self.name, 0.0) + took[0]
            print(
                f"{self.name}: {took[0]:.0f} s, {took[1]:.0f} s by the clock, {_peak_gb():.2f} GB", flush=True
            )
        self.name, self.began = name, (cpu, wall)


def _peak_gb() -> float:
    """The most memory since the last call."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    _RESET.write_text("5")
    return int(line.split()[1]) * 1024 / 1e9


def drawn(checkpoint: Checkpoint, count: int) -> Iterator[Sample]:
    """Sequences of random embeddings, of the size that those of words have."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        embeds = 0.02 * rng.standard_normal((TOKENS, checkpoint.config.text.hidden_size), dtype=np.float32)
        yield Sample(embeds, np.arange(1, TOKENS + 1), np.arange(TOKENS) >= TOKENS - READ)


def noise(count: int, seed: int) -> Iterator[Question]:
    """Pictures that show nothing."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.integers(0, 256, (60, 60, 3), dtype=np.uint8), "Point to the red mug."


def logits(runtime: Runtime, samples: Sequence[Sample]) -> Float32:
    """Of the last tokens of each sequence."""
    parts = []
    for sample in samples:
        rows = np.arange(len(sample.limits) - COMPARED, len(sample.limits))
        found = runtime.run(sample.embeds, sample.limits, runtime.new_cache(), rows, logits=True)
        assert found.logits is not None
        parts.append(found.logits)
    runtime.close()
    return np.concatenate(parts)


def compare(checkpoint: Checkpoint, folder: Path, precision: str) -> None:
    """Print the error of the logits on new pictures, as a share of their size."""
    runtime = OrtRuntime(checkpoint, "fp32")
    new = list(record(checkpoint, runtime, noise(3, 99), ANSWER))
    exact = logits(runtime, new)
    held = load_checkpoint(str(folder))
    for weights_only in (True, False):
        nearest, ours = (
            float(np.linalg.norm(logits(OrtRuntime(c, precision, weights_only=weights_only), new) - exact))
            for c in (checkpoint, held)
        )
        size = float(np.linalg.norm(exact))
        print(
            f"{'weights alone' if weights_only else 'on a CPU'}: error of the logits {ours / size:.4f}, "
            f"to nearest {nearest / size:.4f}, ratio {ours / nearest:.3f}"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Quantise a random model into ``--out`` and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder, for model and result")
    parser.add_argument("--full-size", action="store_true", help="layers of Molmo2-4B")
    parser.add_argument("--layers", type=int, default=12, help="of the text model (default 12)")
    parser.add_argument("--vocabulary", type=int, default=8192, help="with --full-size (default 8192)")
    parser.add_argument("--samples", type=int, default=12, help="sequences (default 12)")
    parser.add_argument("--precision", choices=PRECISIONS, default="int4")
    parser.add_argument("--method", choices=METHODS, default="gptq")
    args = parser.parse_args(argv)
    model, folder = args.out / "model", args.out / "quantised"
    if args.full_size:
        checkpoint = open_full_size(model, args.layers, args.vocabulary)
        (folder / WORK).mkdir(parents=True)
        save_samples(drawn(checkpoint, args.samples), folder / WORK, lambda done: None)
    else:
        write_random_model(model, args.layers, crops=1, loud=True)
        checkpoint = load_checkpoint(str(model))
    plan = Plan(args.precision, args.method, 0.0, args.samples, "random", ANSWER)
    stages = Stages()
    _peak_gb()
    quantise(checkpoint, folder, plan, noise(args.samples, 0), stages, lambda told: print(told, flush=True))
    total = sum(seconds for stage, seconds in stages.seconds.items() if stage != "answers")
    print(f"all but the answers: {total / 60:.1f} min of the processor")
    if not args.full_size:
        compare(checkpoint, folder, args.precision)


if __name__ == "__main__":
    main()
