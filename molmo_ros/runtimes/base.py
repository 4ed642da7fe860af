"""The interface between the answer loop and whatever executes the network. Numpy on both sides, so that
runtimes can be compared logit by logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from molmo_ros.datatypes import Float32, Image, Index
from molmo_ros.runtimes.choices import Choices


class Cache(Protocol):
    """Keys and values of the tokens that a runtime has seen."""

    @property
    def length(self) -> int:
        """How many tokens are in it."""
        ...

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        ...

    def trim(self, length: int) -> None:
        """Drop all tokens after the first ``length``; costs nothing."""
        ...


@dataclass(frozen=True)
class Outputs:
    """The result of a pass for N rows: what comes next; ``logits`` (N,vocabulary), None if the device kept
    them; ``pointing`` (T,3E+places), for MolmoPoint only (``network.patch_pointer``).
    """

    choices: Choices
    pointing: Float32 | None = None
    logits: Float32 | None = None


class Runtime(Protocol):
    """One loaded network. Not thread-safe, except for `interrupt`."""

    name: str
    precision: str

    def encode_image(self, crops: Image | Float32, pooling: Index, padding: Index | None = None) -> Float32:
        """crops (C,S,S,3), pooling (M,W) patch indices -> embeddings of the image tokens (M,D).

        v1 has float32 crops, and padding (C,N): which patches show it. See ``preprocess.ImageInputs``.
        """
        ...

    def embed(self, token_ids: list[int]) -> Float32:
        """Embeddings (T,D) of tokens; those of the image are added to them by the caller."""
        ...

    def new_cache(self) -> Cache: ...

    def run(
        self, embeds: Float32, kv_limit: Index, cache: Cache, rows: Index, *, logits: bool = False
    ) -> Outputs:
        """Append T tokens to the cache and say what comes after some of them.

        embeds (T,D); kv_limit (T,): how many leading positions of the whole sequence each token may see;
        rows (N,): indices into the T tokens; ``logits``: whether all of them are wanted as well.
        """
        ...

    def interrupt(self) -> None:
        """Abort the pass that runs in another thread, if any: it raises, and its cache is as before.

        Safe at any time. Does nothing where the runtime cannot abort a pass, which then runs to its end.
        """
        ...

    def close(self) -> None:
        """Free the memory; the runtime is not used again."""
        ...


class PointRuntime(Runtime, Protocol):
    """A runtime of MolmoPoint, whose network has more outputs (``network.patch_pointer``)."""

    def encode_patches(self, crops: Image | Float32, pooling: Index) -> tuple[Float32, Float32, Float32]:
        """As ``encode_image``, and embeddings (M,W,D) and keys (M,W,E) of each token's patches."""
        ...
