"""The sequences between two layers, on disk: a large model's do not fit into memory together with its
weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from molmo_ros.datatypes import Float32, Index, Mask
from molmo_ros.quantise.samples import Sample


class Activations:
    """Hidden states (T,D) of all samples, concatenated in one file; with them, as in ``Sample``, how far each
    token sees and whether its logits are read."""

    def __init__(self, path: Path, limits: list[Index], read: list[Mask]) -> None:
        self.path, self.limits, self.read = path, limits, read
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
        """As many states with other content; the file appears when it is complete."""
        unfinished = path.with_suffix(".unfinished")
        shape = (self.tokens, width)
        states = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float32, shape=shape)
        for part, start in zip(parts, self._starts[:-1], strict=True):
            states[start : start + len(part)] = part
        states.flush()
        del states
        unfinished.rename(path)
        return self.at(path)

    def at(self, path: Path) -> Activations:
        """The same samples, with the states in another file."""
        return Activations(path, self.limits, self.read)

    def first(self, count: int) -> Activations:
        """The first few samples."""
        return Activations(self.path, self.limits[:count], self.read[:count])


def save_samples(samples: Iterable[Sample], folder: Path, told: Callable[[int], None]) -> None:
    """Write all samples; everything besides the embeddings last, as the sign that all is there."""
    held: list[Sample] = []
    for sample in samples:
        held.append(sample)
        told(len(held))
    limits, read = [one.limits for one in held], [one.read for one in held]
    source = Activations(folder / "embeds.npy", limits, read)
    source.write(source.path, (one.embeds for one in held), held[0].embeds.shape[1])
    unfinished = folder / "tokens.unfinished.npz"
    np.savez(
        unfinished, limits=np.concatenate(limits), read=np.concatenate(read), lengths=[len(n) for n in limits]
    )
    unfinished.rename(folder / "tokens.npz")


def load_samples(folder: Path) -> Activations | None:
    """What ``save_samples`` wrote, or None if it did not finish."""
    path = folder / "tokens.npz"
    if not path.is_file():
        return None
    with np.load(path) as held:
        ends = np.cumsum(held["lengths"])[:-1]
        limits, read = (list(np.split(held[name], ends)) for name in ("limits", "read"))
    return Activations(folder / "embeds.npy", limits, read)
