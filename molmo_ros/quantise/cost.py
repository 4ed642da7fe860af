"""Estimates of a quantisation's time, memory and disk, before it begins."""

from __future__ import annotations

import time

import numpy as np

from molmo_ros.network.config import TextConfig
from molmo_ros.quantise.layer import ROUNDS, SWEEPS, Method
from molmo_ros.quantise.rows import MOST_OUTPUTS
from molmo_ros.quantise.sensitivity import PROBES

_SIZE = 1024  # of the matrices whose product shows how fast this machine is


def shapes(c: TextConfig) -> list[tuple[int, int]]:
    """(out,in) of a layer's matrices; of one expert, where there are some."""
    q, kv, d, wide = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.hidden_size, c.intermediate_size
    return [(q + 2 * kv, d), (d, q), (2 * wide, d), (d, wide)]


def operations(c: TextConfig, tokens: int, method: Method, guided: bool) -> float:
    """Floating point operations on all layers, roughly: passes, second moments, rounding; ``guided``: and
    gradients, for which each probe takes a forward pass and a backward pass of twice the cost."""
    sizes = shapes(c)
    weights = [out * width for out, width in sizes]
    experts = 1 if c.experts is None else c.experts.count
    weights[2:] = [n * experts for n in weights[2:]]  # many tokens pass through all experts
    networks = 2 if method.gptq else 1
    before = sum(sum(weights[:i]) for i in range(4))  # each matrix is evaluated after those in front of it
    whole = 2 + method.awq + 3 * PROBES * guided
    passes = 2 * tokens * (networks * before + whole * sum(weights))
    moments = 2 * tokens * networks * sum(width**2 for _, width in sizes)
    each = 4 + (10 + ROUNDS * (4 + 2 * SWEEPS)) * method.gptq + 22 * method.awq
    rounding = each * sum(out * width**2 for out, width in sizes[:2])
    rounding += each * experts * sum(out * width**2 for out, width in sizes[2:])
    if guided:  # second moments of gradients, and their inverse in float64
        known = [out for out, _ in sizes if out <= MOST_OUTPUTS]
        moments += sum(2 * tokens * PROBES * out**2 + 8 * out**3 for out in known)
    head = (each - 22 * method.awq) * c.vocab_size * c.hidden_size**2 if method.gptq else 0
    return float(c.num_layers * (passes + moments + rounding) + head)


def seconds(c: TextConfig, tokens: int, method: Method, guided: bool) -> float:
    """Time on this machine as it is now."""
    return operations(c, tokens, method, guided) / _speed()


def disk_bytes(c: TextConfig, tokens: int, guided: bool) -> float:
    """Peak disk use for the states between layers; for gradients, those of the exact network at all
    layers."""
    states = c.num_layers + 2 + 2 * PROBES if guided else 5
    return 4.0 * tokens * (c.hidden_size * states + 4 * c.num_layers * guided)


def memory_bytes(c: TextConfig) -> float:
    """Peak host memory: the weights of a layer four times, and what it takes to invert the largest second
    moments."""
    sides = [side for out, width in shapes(c) for side in (width, out if out <= MOST_OUTPUTS else 0)]
    widest = max(sides)
    experts = 1 if c.experts is None else c.experts.count
    weights = sum(out * width for out, width in shapes(c)[:2])
    weights += experts * sum(out * width for out, width in shapes(c)[2:])
    return 4.0 * 4 * weights + 28.0 * widest**2 + 3e8


def _speed() -> float:
    """Operations a second of a matrix product; the rest is slower, and is counted as three quarters."""
    a = np.ones((_SIZE, _SIZE), np.float32)
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 0.5 * 2 * _SIZE**3 / best
