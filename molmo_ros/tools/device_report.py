"""How Molmo runs on a GPU: answers compared with the CPU's, times of a full-size model and of transformers.

Needs no network, no ROS, no weights: those of the built-in model are included, those of the large one are
drawn at random. Results are written after every step, so that a failed step loses nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.checkpoint.preprocess import image_token_ids, preprocess
from molmo_ros.checkpoint.query import parse_query
from molmo_ros.datatypes import Image
from molmo_ros.runtimes.cuda_ort import load_cuda
from molmo_ros.runtimes.device import DeviceRuntime
from molmo_ros.runtimes.memory import HostMemory, Memory
from molmo_ros.runtimes.select import load_runtime
from molmo_ros.sim import SimCamera
from molmo_ros.tools.benchmark import ONE_POINT, Prompted, compare

log = logging.getLogger(__name__)

QUERIES = ("the red mug", "the bowl", "the green bottle")
COPY_BYTES = 1 << 30


class Found(dict[str, Any]):
    """A record that is saved whenever a number is added to it."""

    def __init__(self, save: Callable[[], None]) -> None:
        super().__init__()
        self._save = save

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._save()


@dataclass
class Report:
    """The result so far, in a file."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)

    def step(self, name: str, do: Callable[[Found], None]) -> None:
        """Run one step, which fills a record; the record, and the failure if there is one, goes to the
        file."""
        log.info("%s ...", name)
        start = time.perf_counter()
        found = Found(self.save)
        self.content[name] = found
        try:
            do(found)
        except Exception as error:  # whatever it is, the other steps are still useful
            log.warning("%s failed: %s", name, error)
            found["error"] = str(error)
            found["trace"] = traceback.format_exc().splitlines()[-12:]
        found["seconds"] = round(time.perf_counter() - start, 1)

    def save(self) -> None:
        self.path.write_text(json.dumps(self.content, indent=1, default=str) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Settings:
    """``host``: in host memory with ONNX Runtime's CPU provider instead of a GPU, to try the report."""

    precisions: tuple[str, ...] = ("fp32", "fp16", "bf16")
    large: tuple[str, ...] = ("bf16",)
    scenes: int = 30
    repeat: int = 20
    host: bool = False
    capture: bool = True
    model: Callable[[Path], Checkpoint] | None = None  # of the large one
    folder: Path | None = None  # keeps the large model's graphs for the next time
    kernels: bool = True
    transformers: bool = True

    def load(self, checkpoint: Checkpoint, precision: str) -> DeviceRuntime:
        memory: Memory | None = HostMemory() if self.host else None
        return load_cuda(checkpoint, precision, memory=memory, capture=self.capture)


def device_report(path: Path, settings: Settings | None = None) -> dict[str, Any]:
    """Write the report to ``path`` while it is made, and return it."""
    from molmo_ros.tools.random_model import open_full_size

    settings = settings or Settings()
    report = Report(path)
    report.step("machine", partial(machine, settings.host))
    for precision in settings.precisions:
        report.step(f"tiny {precision}", partial(same_as_cpu, settings, precision))
    with (
        TemporaryDirectory(prefix="molmo_ros_report_") as temporary,
        graphs_in(settings.folder or Path(temporary)) as folder,
    ):
        if settings.large or settings.transformers:
            checkpoint = (settings.model or open_full_size)(folder / "random-molmo2-4b")
        for precision in settings.large:
            report.step(f"large {precision}", partial(large_model, settings, checkpoint, precision))
        if settings.transformers:
            report.step("transformers", partial(transformers_beside, settings, checkpoint))
    return report.content


@contextmanager
def graphs_in(folder: Path) -> Iterator[Path]:
    """The large model's graphs, 9 GB, go to ``folder`` instead of to the user's cache."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    try:
        yield folder
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


def machine(host: bool, found: Found) -> None:
    """What this was run on."""
    import onnxruntime

    found["python"] = platform.python_version()
    found["onnxruntime"] = onnxruntime.__version__
    found["providers"] = onnxruntime.get_available_providers()
    if not host:
        from molmo_ros.runtimes.cuda import call, cudart, device

        gpu = device()
        found["gpu"], found["sm"] = gpu.name, gpu.sm
        found["driver_cuda"] = call(cudart().cudaDriverGetVersion)
        found["copy_gbs"] = copy_bandwidth()


def copy_bandwidth() -> float:
    """GB/s of a copy on the GPU, counting what is read and what is written; the best of five."""
    from molmo_ros.runtimes.memory import DeviceMemory, Tensor

    memory = DeviceMemory()
    try:
        a, b = memory.take(COPY_BYTES), memory.take(COPY_BYTES)
        best = float("inf")
        for _ in range(6):
            memory.download(Tensor(a, (1,), "uint8"))
            start = time.perf_counter()
            for _ in range(8):
                memory.copy_rows(b, COPY_BYTES >> 10, a, COPY_BYTES >> 10, COPY_BYTES >> 10, 1 << 10)
            memory.download(Tensor(a, (1,), "uint8"))
            best = min(best, time.perf_counter() - start)
    finally:
        memory.close()
    return round(16 * COPY_BYTES / best / 1e9, 1)


def same_as_cpu(settings: Settings, precision: str, found: Found) -> None:
    """The built-in model's answers compared with ONNX Runtime's on the CPU in fp32, plain and with drafts."""
    checkpoint = load_checkpoint("tiny")
    reference = Molmo(checkpoint, load_runtime(checkpoint, "onnx", "fp32"))
    start = time.perf_counter()
    device = Molmo(checkpoint, settings.load(checkpoint, precision))
    found["load_s"] = round(time.perf_counter() - start, 2)
    same, drafted, logprobs, ms = [], [], [], []
    for i in range(settings.scenes):
        camera = SimCamera(int(np.random.default_rng([20261128, i]).integers(1 << 29)))
        rgb = camera.frame().rgb
        for name in sorted({"the " + o.name for o in camera.truth.objects}):
            prompt = parse_query(name).prompt
            expected = reference.answer(rgb, prompt, drafts=False)
            start = time.perf_counter()
            answer = device.answer(rgb, prompt)
            ms.append(1000 * (time.perf_counter() - start))
            plain = device.answer(rgb, prompt, drafts=False)
            same.append(plain.token_ids == expected.token_ids)
            drafted.append(answer.token_ids == plain.token_ids)
            if same[-1]:
                logprobs.append(float(np.abs(np.subtract(plain.logprobs, expected.logprobs)).max()))
    found["questions"], found["ms_p50"] = len(same), round(float(np.median(ms)), 2)
    found["same"], found["same_with_drafts"] = float(np.mean(same)), float(np.mean(drafted))
    found["logprob_error_max"] = max(logprobs, default=None)
    device.close()
    reference.close()


def large_model(settings: Settings, checkpoint: Checkpoint, precision: str, found: Found) -> None:
    """Times of one full-size model: its parts, and whole queries."""
    start = time.perf_counter()
    runtime = settings.load(checkpoint, precision)
    found["load_s"] = round(time.perf_counter() - start, 1)
    try:
        parts(runtime, checkpoint, settings, found)
        prompted = Prompted(runtime, checkpoint, ONE_POINT)
        molmo = Molmo(checkpoint, prompted)
        frames = pictures(settings.repeat + 1)
        for key, value in compare(molmo, frames, QUERIES, {}, prompted.answer).summary().items():
            found[key] = value
    finally:
        runtime.close()


def pictures(count: int) -> list[Image]:
    """640x480 images of noise, so all different."""
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(count)]


def parts(runtime: DeviceRuntime, checkpoint: Checkpoint, settings: Settings, found: Found) -> None:
    """Medians (ms) of vision, prefill, and passes of some lengths, captured and not; kernels of each."""
    inputs = preprocess(pictures(1)[0], checkpoint.image)
    ids = checkpoint.encoder.prefix(image_token_ids(inputs, checkpoint.encoder, checkpoint.image))
    rng = np.random.default_rng(0)
    width = checkpoint.config.text.hidden_size
    prompt = rng.standard_normal((len(ids) + 20, width), dtype=np.float32)
    cache = runtime.new_cache()

    def vision() -> None:
        runtime.encode_image(inputs.crops, inputs.pooling, inputs.padding)

    def prefill() -> None:
        cache.trim(0)
        limits = np.maximum(np.arange(1, len(prompt) + 1), len(ids))
        runtime.run(prompt, limits, cache, np.array([len(prompt) - 1]))

    def short(count: int) -> Callable[[], None]:
        def run() -> None:
            cache.trim(len(prompt))
            limits = np.arange(len(prompt) + 1, len(prompt) + 1 + count)
            runtime.run(prompt[:count], limits, cache, np.array([count - 1]))

        return run

    works = {"vision": vision, "prefill": prefill, **{f"pass_{n}": short(n) for n in (1, 8, 16, 32)}}
    found["prompt_tokens"], found["crops"] = len(prompt), len(inputs.crops)
    for name, work in works.items():
        found[f"ms_{name}"] = median_ms(work, settings.repeat)
    found["ms_pass_1_after_prefill"] = _after_prefill(prefill, short(1), settings.repeat)
    for name, work in works.items():
        if settings.kernels:
            found[f"kernels_{name}"] = kernels(work)


def _after_prefill(prefill: Callable[[], None], short: Callable[[], None], repeat: int) -> float:
    """A captured pass is right only if nothing that it reads has been moved by another one in between."""
    times = []
    for _ in range(min(repeat, 5)):
        prefill()
        start = time.perf_counter()
        short()
        times.append(1000 * (time.perf_counter() - start))
    return round(float(np.median(times)), 3)


def median_ms(work: Callable[[], Any], repeat: int) -> float:
    """Over some runs, after three to warm up."""
    times = []
    for i in range(repeat + 3):
        start = time.perf_counter()
        work()
        if i >= 3:
            times.append(1000 * (time.perf_counter() - start))
    return round(float(np.median(times)), 3)


def kernels(work: Callable[[], None]) -> dict[str, Any] | str:
    """What ran on the GPU, by torch's profiler where it is installed: count, time, and the longest."""
    try:
        import torch
        from torch.profiler import ProfilerActivity, profile
    except ImportError as error:
        return f"torch is not installed ({error})"
    if not torch.cuda.is_available():
        return "torch has no GPU"
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        work()
        torch.cuda.synchronize()
    rows = [(e.key[:90], e.count, round(e.self_device_time_total)) for e in found.key_averages()]
    rows = [row for row in rows if row[2] > 0]
    rows.sort(key=lambda row: -row[2])
    return {"count": sum(r[1] for r in rows), "us": sum(r[2] for r in rows), "longest": rows[:24]}


def transformers_beside(settings: Settings, checkpoint: Checkpoint, found: Found) -> None:
    """The same answer by transformers' generate in bf16: by default, and with its static cache."""
    from molmo_ros.tools.benchmark import RandomTransformers

    theirs = RandomTransformers(checkpoint, "bfloat16", "cpu" if settings.host else "cuda")
    said = [*checkpoint.encoder.encode(ONE_POINT), min(checkpoint.encoder.eos_ids)]
    found["version"], found["tokens"] = theirs.version, len(said)
    rgb = pictures(1)[0]
    ask = partial(theirs.generate, rgb, "Point to the mug.")
    found["ms"], found["ms_first_token"] = (median_ms(partial(ask, t), 4) for t in (said, said[:1]))
    static = partial(ask, said, cache_implementation="static")  # compiles what it runs on a GPU
    found["ms_static"] = median_ms(static, 4)


def text(content: dict[str, Any]) -> str:
    """The numbers that matter, one per line."""
    lines = []
    for name, part in content.items():
        if isinstance(part, dict):
            short = {k: v for k, v in part.items() if not k.startswith("kernels") and k != "trace"}
            lines.append(f"{name}: {json.dumps(short, default=str)}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """``python -m molmo_ros.tools.device_report report.json``"""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--tiny", nargs="*", default=list(Settings.precisions))
    parser.add_argument("--large", nargs="*", default=list(Settings.large))
    parser.add_argument("--scenes", type=int, default=Settings.scenes)
    parser.add_argument("--repeat", type=int, default=Settings.repeat)
    parser.add_argument("--folder", type=Path, help="keeps the large model's graphs, 9 GB, for the next time")
    parser.add_argument("--host", action="store_true", help="without a GPU, to try it")
    parser.add_argument("--no-capture", action="store_true", help="without CUDA graphs")
    parser.add_argument("--no-transformers", action="store_true")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)7d %(message)s")
    settings = Settings(
        tuple(args.tiny), tuple(args.large), args.scenes, args.repeat, args.host, not args.no_capture,
        transformers=not args.no_transformers, folder=args.folder,
    )  # fmt: skip
    print(text(device_report(args.path, settings)), flush=True)


if __name__ == "__main__":
    main()
