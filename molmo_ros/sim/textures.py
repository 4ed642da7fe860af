"""A library of textures that repeat without a seam, each an individual drawn from its name and number.

All but "print" are one channel, to be mapped to three colours; "print" is a printed label in its own colours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from molmo_ros.sim.print_textures import printed

SIZE = 256  # px
PRINT = "print"
_KEPT = 600


@lru_cache(maxsize=_KEPT)
def texture(name: str, index: int) -> np.ndarray:
    """Individual `index` of a kind of texture: (SIZE,SIZE) uint8, or (SIZE,SIZE,3) sRGB for "print"."""
    rng = np.random.default_rng([index, *name.encode()])
    if name == PRINT:
        return printed(rng, SIZE)
    return np.asarray(255 * np.clip(_MAKERS[name](rng), 0, 1), dtype=np.float64).astype(np.uint8)


def field(rng: np.random.Generator, power: float, stretch: float = 1.0, low: float = 1.0) -> np.ndarray:
    """A random field (SIZE,SIZE), about 0 to 1, whose spectrum falls with frequency**-power.

    stretch: how much longer its features are along u than along v; low: frequency below which it is flat.
    """
    spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE), dtype=np.float32))
    fv, fu = np.fft.fftfreq(SIZE)[:, None] * SIZE, np.fft.rfftfreq(SIZE)[None] * SIZE
    radius = np.sqrt((fu * stretch) ** 2 + fv**2)
    spectrum *= np.maximum(radius, low) ** -power
    spectrum[0, 0] = 0
    out = np.fft.irfft2(spectrum, (SIZE, SIZE))
    return np.asarray(0.5 + out / (4.5 * max(float(out.std()), 1e-9)))


def _grid() -> tuple[np.ndarray, np.ndarray]:
    v, u = np.mgrid[:SIZE, :SIZE] / SIZE
    return u, v


def _clouds(rng: np.random.Generator) -> np.ndarray:
    return field(rng, rng.uniform(0.8, 2.4), low=rng.uniform(1, 6))


def _speckle(rng: np.random.Generator) -> np.ndarray:
    fine = field(rng, 0.0, low=1.0)
    blurred = cv2.GaussianBlur(fine, (0, 0), rng.uniform(0.5, 1.6), borderType=cv2.BORDER_REFLECT)
    level = np.quantile(blurred, rng.uniform(0.5, 0.97))
    return np.where(blurred > level, 1.0, 0.35 * rng.random() + 0.15 * fine)


def _marble(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    k = rng.integers(1, 5, 2)
    warp = rng.uniform(3, 9) * field(rng, 1.8)
    return np.asarray(np.abs(np.sin(np.pi * (k[0] * u + k[1] * v) + warp)) ** rng.uniform(0.3, 1.2))


def _stripes(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    along, count = (u, v)[int(rng.integers(2))], int(rng.integers(2, 14))
    wave = np.sin(2 * np.pi * count * along + rng.uniform(0, 2) * field(rng, 2.0))
    return np.asarray(0.5 + 0.5 * np.clip(wave * rng.uniform(1, 8), -1, 1))


def _checker(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    a, b = rng.integers(1, 9, 2) * 2
    return np.asarray((np.floor(u * a) + np.floor(v * b)) % 2) * 0.85 + 0.15 * field(rng, 1.0)


def _tiles(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    a, b = (int(n) for n in rng.integers(1, 6, 2))
    tone = rng.uniform(0.35, 0.9, (b, a))[(v * b).astype(int), (u * a).astype(int)]
    grout = (np.abs((u * a) % 1 - 0.5) > 0.47) | (np.abs((v * b) % 1 - 0.5) > 0.47)
    return np.where(grout, rng.random(), tone + 0.3 * (field(rng, 1.2) - 0.5))


def _grain(rng: np.random.Generator) -> np.ndarray:
    """Wood: long streaks, and now and then the arches of a plain-sawn board."""
    _, v = _grid()
    streaks = field(rng, 0.9, stretch=rng.uniform(10, 40), low=3)
    arches = np.sin(2 * np.pi * (rng.integers(3, 9) * v + rng.uniform(0.5, 3.0) * field(rng, 2.2, stretch=3)))
    return np.asarray(0.5 + rng.uniform(0.4, 1.2) * (streaks - 0.5) + rng.uniform(0.0, 0.28) * arches)


def _planks(rng: np.random.Generator) -> np.ndarray:
    rows = int(rng.integers(2, 6))
    wood = _grain(rng)
    out = np.zeros((SIZE, SIZE))
    edges = np.linspace(0, SIZE, rows + 1).astype(int)
    for k in range(rows):
        part = slice(edges[k], edges[k + 1])
        board = np.roll(wood, int(rng.integers(SIZE)), axis=1)[part] + rng.uniform(-0.18, 0.18)
        out[part] = board
        out[edges[k] : edges[k] + int(rng.integers(1, 4))] = rng.uniform(0.0, 0.15)
        if rng.random() < 0.5:
            out[part, int(rng.integers(SIZE))] = 0.05
    return out


def _carpet(rng: np.random.Generator) -> np.ndarray:
    base = 0.5 + 0.9 * (field(rng, rng.uniform(0, 0.5), stretch=rng.choice([1.0, 6.0, 1 / 6.0])) - 0.5)
    _, v = _grid()
    return np.asarray(base + rng.uniform(0, 0.3) * np.sin(2 * np.pi * int(rng.integers(8, 40)) * v))


def _weave(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    n = int(rng.integers(12, 40))
    a, b = np.sin(2 * np.pi * n * u), np.sin(2 * np.pi * n * v)
    return np.asarray(0.5 + 0.3 * np.where((np.floor(u * n) + np.floor(v * n)) % 2, a, b)) + 0.2 * (
        field(rng, 1.0) - 0.5
    )


_MAKERS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "clouds": _clouds,
    "speckle": _speckle,
    "marble": _marble,
    "stripes": _stripes,
    "checker": _checker,
    "tiles": _tiles,
    "grain": _grain,
    "planks": _planks,
    "carpet": _carpet,
    "weave": _weave,
}
NAMES = (*_MAKERS, PRINT)
