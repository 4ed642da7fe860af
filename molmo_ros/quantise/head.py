"""The last matrix, which gives the logits, rounded to 8 bits for the tokens whose logits are read.

Only runtimes on a CPU round it at all; they have a scale for each block of its inputs.
"""

from __future__ import annotations

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import Float32
from molmo_ros.network.precision import block_size
from molmo_ros.network.weights import HEAD, TEXT
from molmo_ros.quantise.activations import Activations
from molmo_ros.quantise.layer import Layer, Method, Moments, round_matrix, wanted
from molmo_ros.quantise.rounding import Grid, Rounded, damped, largest_scales, output_error, to_nearest

NEAR = 1.0  # a distance between the top two logits at which a token has half the weight
_OUTPUTS = 8192  # rounded at a time: a vocabulary's matrix is held once


def round_head(checkpoint: Checkpoint, exact: Activations, rounded: Activations) -> Layer:
    """Round the head by GPTQ. ``exact`` and ``rounded``: states after the last layer of either network."""
    head = np.asarray(checkpoint.weights.read(HEAD), np.float32)
    found = head_moments(checkpoint, head, exact, rounded)
    h, grid = damped(found.h), Grid(8, block_size(head.shape[1]))
    values = np.empty(head.shape, np.int8)
    scales = np.empty((len(head), head.shape[1] // grid.block), np.float32)
    errors = []
    for start in range(0, len(head), _OUTPUTS):
        rows = slice(start, start + _OUTPUTS)
        target = wanted(head[rows], h, found)
        part = round_matrix(target, h, grid, Method(gptq=True))
        values[rows], scales[rows] = part.values, part.scales
        nearest = to_nearest(head[rows], largest_scales(head[rows], grid), grid)
        errors.append([output_error(target, r.weight, h) for r in (part, nearest)])
    error, of_nearest = np.mean(errors, axis=0)
    return Layer({HEAD: Rounded(values, scales, grid)}, errors={HEAD: (float(error), float(of_nearest))})


def head_moments(checkpoint: Checkpoint, head: Float32, exact: Activations, rounded: Activations) -> Moments:
    """Of the normed states whose logits are read: a token has the weight 1 / (1 + (distance / NEAR)^2), with
    the distance between its top two logits in the exact network."""
    eps = checkpoint.config.text.norm_eps
    norm = np.asarray(checkpoint.weights.read(f"{TEXT}ln_f.weight"), np.float32)
    width = head.shape[1]
    h, cross = np.zeros((width, width), np.float32), np.zeros((width, width), np.float32)
    for x, q, read in zip(exact, rounded, exact.read, strict=True):
        a, b = (_normed(states[read], norm, eps) for states in (x, q))
        second, first = np.partition(a @ head.T, (-2, -1), axis=1)[:, -2:].T
        weighted = b / (1 + ((first - second) / NEAR) ** 2)[:, None]
        h += b.T @ weighted
        cross += a.T @ weighted
    return Moments(h, cross)


def _normed(x: Float32, norm: Float32, eps: float) -> Float32:
    return np.asarray(x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps) * norm, np.float32)
