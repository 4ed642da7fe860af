"""The kinds of things that stand on the simulated table.

Each is a closed or open surface of real size in its own frame: z up, origin on the table below its middle.
Kinds differ in silhouette first, and carry the marks that real ones have (a can's lid, a parcel's tape,
a bottle's cap), so that a small model can tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from molmo_ros.sim import mesh
from molmo_ros.sim.mesh import Mesh

# linear-light albedo
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.60, 0.03, 0.03),
    "orange": (0.85, 0.22, 0.01),
    "yellow": (0.85, 0.62, 0.03),
    "green": (0.04, 0.33, 0.07),
    "blue": (0.03, 0.10, 0.55),
    "purple": (0.22, 0.04, 0.36),
    "white": (0.80, 0.80, 0.78),
    "black": (0.02, 0.02, 0.022),
}
KINDS = ("mug", "bowl", "can", "box", "bottle", "ball", "banana")
PLURALS = {k: {"box": "boxes"}.get(k, k + "s") for k in KINDS}

_SILVER = (0.55, 0.56, 0.58)
_CREAM = (0.72, 0.68, 0.58)
_DARK = (0.03, 0.028, 0.026)


def colors_of(kind: str) -> tuple[str, ...]:
    """The colours in which a kind occurs: bananas are yellow or green."""
    return ("yellow", "green") if kind == "banana" else tuple(COLORS)


def palette(kind: str, color: str) -> np.ndarray:
    """Albedo of a kind's parts, (2, 3) linear: body, mark."""
    light_body = color in ("white", "yellow")
    mark = {
        "mug": _DARK if color == "white" else _CREAM,  # the glaze inside
        "can": _SILVER,
        "box": _DARK if light_body else _CREAM,  # parcel tape
        "bottle": _DARK if light_body else _CREAM,  # cap
        "ball": _DARK if light_body else _CREAM,  # stripe
        "banana": _DARK,  # tips
        "bowl": COLORS[color],
    }.get(kind, _DARK if light_body else _CREAM)
    return np.array([COLORS[color], mark])


def _mug(rng: np.random.Generator) -> Mesh:
    r, h, wall = rng.uniform(0.038, 0.044), rng.uniform(0.085, 0.100), 0.0035
    inner = r - wall
    cup = mesh.lathe(
        [(0, 0), (r - 0.003, 0), (r, 0.003), (r, h), (inner, h), (inner, 0.006), (0, 0.006)],
        [0, 0, 0, 0, 1, 1],
    )
    reach, half = rng.uniform(0.026, 0.031), 0.30 * h
    a = np.linspace(-np.pi / 2, np.pi / 2, 15)
    path = np.c_[r - 0.002 + reach * np.cos(a), np.zeros_like(a), 0.52 * h + half * np.sin(a)]
    return mesh.join(cup, mesh.tube(path, np.full(len(a), 0.0055), np.zeros(len(a) - 1)))


def _bowl(rng: np.random.Generator) -> Mesh:
    r, h, wall = rng.uniform(0.062, 0.075), rng.uniform(0.050, 0.062), 0.004
    a = np.linspace(0.0, np.pi / 2, 9)
    foot = 0.45 * r
    outer = [(foot + (r - foot) * np.sin(t), h * (1 - np.cos(t)) * 0.97 + 0.03 * h) for t in a]
    inner = [(max(x - wall, 0.0), z + wall * (1 - i / 8)) for i, (x, z) in enumerate(outer)][::-1]
    profile = [(0, 0), (foot, 0), *outer, *inner, (0.0, inner[-1][1])]
    return mesh.lathe(profile, [0] * (len(profile) - 1))


def _can(rng: np.random.Generator) -> Mesh:
    r, h = rng.uniform(0.032, 0.035), rng.uniform(0.100, 0.125)
    lid = [(r, h - 0.012), (r - 0.005, h), (r - 0.008, h), (r - 0.008, h - 0.004), (0, h - 0.004)]
    return mesh.lathe([(0, 0), (r - 0.005, 0), (r, 0.010), *lid], [1, 1, 0, 1, 1, 1, 1])


def _box(rng: np.random.Generator) -> Mesh:
    return mesh.box(
        (rng.uniform(0.065, 0.095), rng.uniform(0.055, 0.075), rng.uniform(0.05, 0.10)), stripe=0.22
    )


def _bottle(rng: np.random.Generator) -> Mesh:
    r, h, neck = rng.uniform(0.030, 0.035), rng.uniform(0.175, 0.205), 0.013
    a = np.linspace(0, np.pi / 2, 6)
    shoulder = [(neck + (r - neck) * np.cos(t), 0.58 * h + 0.2 * h * np.sin(t)) for t in a]
    top = [(neck, 0.86 * h), (neck + 0.003, 0.86 * h), (neck + 0.003, h), (0, h)]
    profile = [(0, 0), (r - 0.003, 0), (r, 0.003), *shoulder, *top]
    return mesh.lathe(profile, [0] * (len(profile) - 4) + [1, 1, 1])


def _ball(rng: np.random.Generator) -> Mesh:
    r = rng.uniform(0.034, 0.040)
    a = np.linspace(-np.pi / 2, np.pi / 2, 21)
    ball = mesh.lathe([(r * np.cos(t), r * np.sin(t)) for t in a], [int(8 <= i < 12) for i in range(20)])
    tilt, turn = rng.uniform(0.3, 1.3), rng.uniform(0, 2 * np.pi)
    c, s = np.cos(tilt), np.sin(tilt)
    T = np.eye(4)
    T[:3, :3] = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    ) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    T[2, 3] = r
    return ball.moved(T)


def _banana(rng: np.random.Generator) -> Mesh:
    bend, radius, length = rng.uniform(1.3, 1.7), rng.uniform(0.016, 0.019), rng.uniform(0.155, 0.185)
    arc = length / bend
    a = np.linspace(-bend / 2, bend / 2, 25)
    path = np.c_[arc * np.sin(a), arc * (np.cos(a) - np.cos(bend / 4)), np.full_like(a, radius)]
    taper = np.clip(1.0 - np.abs(np.linspace(-1, 1, 25)) ** 4 * 0.75, 0.25, 1.0)
    parts = np.zeros(24)
    parts[:2] = parts[-3:] = 1
    return mesh.tube(path, radius * taper, parts, segments=20)


_MAKERS: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "mug": _mug,
    "bowl": _bowl,
    "can": _can,
    "box": _box,
    "bottle": _bottle,
    "ball": _ball,
    "banana": _banana,
}


def make(kind: str, rng: np.random.Generator) -> Mesh:
    """A new individual of a kind, its dimensions drawn from rng."""
    return _MAKERS[kind](rng)
