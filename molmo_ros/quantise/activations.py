"""The sequences between two layers, on disk: a large model's do not fit into memory beside its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from molmo_ros.quantise.samples import Sample

Float32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]


class Activations:
    """Hidden states (T,D) of all samples, one behind the other in one file."""

    def __init__(self, path: Path, limits: list[Index]) -> None:
        self.path, self.limits = path, limits
        self._starts = np.cumsum([0, *(len(one) for one in limits)])

    @property
    def tokens(self) -> int:
        return int(self._starts[-1])

    def __len__(self) -> int:
        return len(self.limits)

    def __iter__(self) -> Iterator[Float32]:
        states = np.load(self.path, mmap_mode="r")
        for start, stop in zip(self._starts[:-1], self._starts[1:], strict=True):
            yield np.array(states[start:stop])

    def write(self, path: Path, parts: Iterator[Float32], width: int) -> Activations:
        """As many states of other content; the file appears when it is complete."""
        unfinished = path.with_suffix(".unfinished")
        shape = (self.tokens, width)
        states = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float32, shape=shape)  # type: ignore[no-untyped-call]
        for part, start in zip(parts, self._starts[:-1], strict=True):
            states[start : start + len(part)] = part
        states.flush()
        del states
        unfinished.rename(path)
        return Activations(path, self.limits)


def save_samples(samples: Iterator[Sample], count: int, folder: Path, told: Callable[[int], None]) -> None:
    """Write embeddings and limits of all samples; the limits last, as the sign that all is there."""
    embeds, limits = [], []
    for i, sample in enumerate(samples):
        embeds.append(sample.embeds.astype(np.float32))
        limits.append(sample.limits)
        told(i + 1)
    source = Activations(folder / "embeds.npy", limits)
    source.write(source.path, iter(embeds), embeds[0].shape[1])
    unfinished = folder / "limits.unfinished.npz"
    np.savez(unfinished, limits=np.concatenate(limits), lengths=[len(one) for one in limits])
    unfinished.rename(folder / "limits.npz")


def load_samples(folder: Path) -> Activations | None:
    """What ``save_samples`` wrote, or None if it did not finish."""
    path = folder / "limits.npz"
    if not path.is_file():
        return None
    with np.load(path) as held:
        parts = np.split(held["limits"], np.cumsum(held["lengths"])[:-1])
    return Activations(folder / "embeds.npy", list(parts))
