"""Activation-aware scaling: inputs that are large get finer steps, at no cost when the network runs.

A matrix's columns are multiplied by s and what feeds them is divided by s, in the weights only: the preceding
norm, the values that attention mixes, or the "up" half of the gated MLP. Source: AWQ (Lin et al. 2024, arXiv
2306.00978); here the error of a scale is exact, by the inputs' second moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from molmo_ros.datatypes import AnyArray, Float32
from molmo_ros.network.config import TextConfig
from molmo_ros.network.weights import text_block
from molmo_ros.quantise.rounding import Grid, largest_scales, output_error, to_nearest

Read = Callable[[str], Float32]

POWERS = np.linspace(0, 1, 11)  # of an input's size, as candidates for its scale


@dataclass(frozen=True)
class Fold:
    """A matrix whose columns are scaled, and what is divided for it: ``rows`` of tensors, or all of one.

    ``share``: consecutive columns that get the same scale, in groups of ``width``.
    """

    matrix: str
    feeds: tuple[tuple[str, slice], ...]
    repeat: int = 1
    width: int = 1


def folds(c: TextConfig, layer: int) -> list[Fold]:
    """All scalings that a layer allows. With norm_after, or before experts, no norm can take one."""
    name = text_block(layer)
    attention, mlp = f"{name}self_attn.", f"{name}mlp."
    kv = c.num_kv_heads * c.head_dim
    start = (c.num_heads + c.num_kv_heads) * c.head_dim
    values = [(f"{attention}att_proj.weight", slice(start, start + kv))]
    if c.qkv_bias:
        values.append((f"{attention}att_proj.bias", slice(start, start + kv)))
    found = [Fold(f"{attention}attn_out.weight", tuple(values), c.num_heads // c.num_kv_heads, c.head_dim)]
    if not c.norm_after:
        found.append(Fold(f"{attention}att_proj.weight", ((f"{name}attn_norm.weight", slice(None)),)))
    if c.experts is not None:
        return found
    found.append(Fold(f"{mlp}ff_out.weight", ((f"{mlp}ff_proj.weight", slice(0, c.intermediate_size)),)))
    if not c.norm_after:
        found.append(Fold(f"{mlp}ff_proj.weight", ((f"{name}ff_norm.weight", slice(None)),)))
    return found


def scale_layer(
    c: TextConfig, layer: int, read: Read, moments: Mapping[str, Float32], grid: Callable[[str, int], Grid]
) -> dict[str, Float32]:
    """Tensors of the layer, by name, that compute the same but round better.

    ``moments`` (in,in) of the inputs of each matrix.
    """
    changed: dict[str, Float32] = {}

    def now(name: str) -> Float32:
        return changed[name] if name in changed else np.asarray(read(name), np.float32)

    for fold in folds(c, layer):
        weight, h = now(fold.matrix), moments[fold.matrix]
        s = best_scale(weight, h, grid(fold.matrix, weight.shape[1]), fold.repeat, fold.width)
        changed[fold.matrix] = weight * s
        for name, rows in fold.feeds:
            fed = now(name).copy()
            once = s.reshape(-1, fold.repeat, fold.width)[:, 0].ravel()
            fed[rows] /= once if fed.ndim == 1 else once[:, None]
            changed[name] = fed
    return changed


def best_scale(weight: Float32, h: Float32, grid: Grid, repeat: int = 1, width: int = 1) -> Float32:
    """The scale (in,), a power of the inputs' sizes, with which rounding changes the outputs least."""
    size: AnyArray = np.sqrt(np.diag(h)).reshape(-1, repeat, width)
    size = np.broadcast_to(np.sqrt((size**2).mean(axis=1, keepdims=True)), size.shape).ravel()
    size = np.maximum(size, 1e-4 * size.max() + 1e-12)
    best, least = np.ones(weight.shape[1], np.float32), np.inf
    for power in POWERS:
        s = size**power
        s = (s / np.sqrt(s.max() * s.min())).astype(np.float32)
        scaled = weight * s
        rounded = to_nearest(scaled, largest_scales(scaled, grid), grid)
        error = output_error(weight, rounded.weight / s, h)
        if error < least:
            best, least = s, error
    return best
