"""Kinds beyond the seven that the built-in model knows: for testing grasps, not for pointing.

THIN lie flat on the table. NOVEL are kept out of any tuning. WIDE fit no hand.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.sim import mesh, objects
from molmo_ros.sim.mesh import Mesh

THIN = ("pen", "marker", "knife", "spoon", "phone", "remote")
NOVEL = ("tumbler", "jar", "torch", "pear", "tape", "sponge")
WIDE = ("crate", "melon")

# Typical mass of such a thing, filled as usual on a table, in kg.
MASS_KG: dict[str, float] = {
    "mug": 0.30,
    "bowl": 0.35,
    "can": 0.37,
    "box": 0.25,
    "bottle": 0.50,
    "ball": 0.10,
    "banana": 0.13,
    "pen": 0.012,
    "marker": 0.025,
    "knife": 0.07,
    "spoon": 0.05,
    "phone": 0.18,
    "remote": 0.12,
    "tumbler": 0.20,
    "jar": 0.40,
    "torch": 0.15,
    "pear": 0.18,
    "tape": 0.12,
    "sponge": 0.03,
    "crate": 0.60,
    "melon": 0.90,
}


def make(kind: str, rng: np.random.Generator) -> Mesh:
    """A new individual of any kind, its dimensions drawn from rng."""
    return _MAKERS[kind](rng) if kind in _MAKERS else objects.make(kind, rng)


def _pen(rng: np.random.Generator) -> Mesh:
    return _rod(rng.uniform(0.0045, 0.0060), rng.uniform(0.130, 0.150))


def _marker(rng: np.random.Generator) -> Mesh:
    return _rod(rng.uniform(0.0075, 0.0100), rng.uniform(0.115, 0.140))


def _rod(radius: float, length: float) -> Mesh:
    x = np.linspace(-length / 2, length / 2, 9)
    path = np.c_[x, np.zeros_like(x), np.full_like(x, radius)]
    parts = np.zeros(8)
    parts[-2:] = 1  # the cap
    return mesh.tube(path, np.full(9, radius), parts, segments=20)


def _knife(rng: np.random.Generator) -> Mesh:
    length, width, height = rng.uniform(0.085, 0.100), rng.uniform(0.016, 0.020), rng.uniform(0.009, 0.012)
    handle = mesh.box((length, width, height))
    blade = mesh.box((0.11, 0.018, 0.002)).moved(_shift(length / 2 + 0.054, 0.0, height / 2 - 0.001))
    return mesh.join(handle, _as_part(blade, 1)).moved(_shift(-0.05, 0.0, 0.0))


def _spoon(rng: np.random.Generator) -> Mesh:
    """A handle that rises from the table at both ends, and a thick oval at one of them."""
    length, radius = rng.uniform(0.120, 0.140), rng.uniform(0.0045, 0.0055)
    x = np.linspace(-length / 2, length / 2, 17)
    rise = 0.012 * np.clip((x / length + 0.5) * 2, 0, 1) * np.clip((0.5 - x / length) * 2, 0, 1) * 2
    handle = mesh.tube(np.c_[x, np.zeros_like(x), radius + rise], np.full(17, radius), np.zeros(16), 12)
    t = np.linspace(0, np.pi, 9)
    bowl = mesh.lathe([(0.017 * np.sin(a), 0.006 - 0.006 * np.cos(a)) for a in t], [1] * 8)
    return mesh.join(handle, bowl.moved(_shift(length / 2 + 0.012, 0.0, 0.0)))


def _phone(rng: np.random.Generator) -> Mesh:
    return mesh.box((rng.uniform(0.135, 0.160), rng.uniform(0.062, 0.072), rng.uniform(0.008, 0.011)))


def _remote(rng: np.random.Generator) -> Mesh:
    return mesh.box((rng.uniform(0.14, 0.18), rng.uniform(0.038, 0.050), rng.uniform(0.014, 0.022)), 0.2)


def _tumbler(rng: np.random.Generator) -> Mesh:
    foot, top, h, wall = rng.uniform(0.024, 0.028), rng.uniform(0.034, 0.040), rng.uniform(0.09, 0.12), 0.003
    return mesh.lathe(
        [(0, 0), (foot, 0), (top, h), (top - wall, h), (foot - wall, 0.008), (0, 0.008)], [0, 0, 1, 0, 0]
    )


def _jar(rng: np.random.Generator) -> Mesh:
    r, h = rng.uniform(0.032, 0.037), rng.uniform(0.08, 0.11)
    lid = 0.85 * r
    profile = [(0, 0), (r, 0), (r, 0.72 * h), (lid, 0.80 * h), (lid, h), (0, h)]
    return mesh.lathe(profile, [0, 0, 0, 1, 1])


def _torch(rng: np.random.Generator) -> Mesh:
    """A torch lying down: head and tail ring of equal radius, the grip between them thinner."""
    r, length = rng.uniform(0.016, 0.020), rng.uniform(0.12, 0.15)
    grip = 0.72 * r
    profile = [
        (0, 0),
        (r, 0),
        (r, 0.12 * length),
        (grip, 0.2 * length),
        (grip, 0.68 * length),
        (r, 0.78 * length),
        (r, length),
        (0, length),
    ]
    lying = np.array([[0.0, 0, 1, -length / 2], [0, 1, 0, 0], [-1, 0, 0, r], [0, 0, 0, 1]])
    return mesh.lathe(profile, [1, 1, 0, 0, 0, 1, 1]).moved(lying)


def _pear(rng: np.random.Generator) -> Mesh:
    r, h = rng.uniform(0.030, 0.035), rng.uniform(0.085, 0.100)
    t = np.linspace(0.0, 1.0, 13)[1:-1]
    outline = r * (np.sin(np.pi * t**0.75) ** 0.6) * (1 - 0.45 * np.clip((t - 0.4) / 0.6, 0, 1))
    profile = [(0, 0), (0.45 * r, 0), *zip(outline, h * t, strict=True), (0, h)]
    return mesh.lathe([(float(a), float(b)) for a, b in profile], [0] * (len(profile) - 2) + [1])


def _tape(rng: np.random.Generator) -> Mesh:
    r, hole, h = rng.uniform(0.045, 0.052), rng.uniform(0.034, 0.038), rng.uniform(0.024, 0.040)
    return mesh.lathe([(hole, 0), (r, 0), (r, h), (hole, h), (hole, 0)], [0, 0, 0, 1])


def _sponge(rng: np.random.Generator) -> Mesh:
    return mesh.box((rng.uniform(0.085, 0.105), rng.uniform(0.050, 0.062), rng.uniform(0.024, 0.034)))


def _crate(rng: np.random.Generator) -> Mesh:
    return mesh.box((rng.uniform(0.11, 0.14), rng.uniform(0.095, 0.12), rng.uniform(0.05, 0.10)), 0.2)


def _melon(rng: np.random.Generator) -> Mesh:
    r = rng.uniform(0.052, 0.062)
    a = np.linspace(-np.pi / 2, np.pi / 2, 21)
    return mesh.lathe([(r * np.cos(t), r + r * np.sin(t)) for t in a], [i % 2 for i in range(20)])


def _as_part(m: Mesh, part: int) -> Mesh:
    return Mesh(m.vertices, m.normals, m.faces, np.full_like(m.parts, part), m.solids)


def _shift(x: float, y: float, z: float) -> Array:
    T = np.eye(4)
    T[:3, 3] = x, y, z
    return T


_MAKERS: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "pen": _pen,
    "marker": _marker,
    "knife": _knife,
    "spoon": _spoon,
    "phone": _phone,
    "remote": _remote,
    "tumbler": _tumbler,
    "jar": _jar,
    "torch": _torch,
    "pear": _pear,
    "tape": _tape,
    "sponge": _sponge,
    "crate": _crate,
    "melon": _melon,
}
