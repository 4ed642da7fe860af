"""Skins drawn at random: colours that separate things and colours that do not."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.sim.skin import Paint, Skin
from molmo_ros.sim.textures import PRINT
from molmo_ros.sim.wild.shapes import Shape

PATTERNS = ("clouds", "speckle", "marble", "stripes", "checker", "grain", "weave", "tiles", "carpet")
WOODS = ("grain", "planks")
CLEAR_KINDS = ("cup", "flask", "tumbler", "handled_cup", "dish", "bottle", "jar", "lidded")
LABELLED = (
    "carton",
    "parcel",
    "tin",
    "flask",
    "lidded",
    "bag",
    "can",
    "bottle",
    "jar",
    "box",
    "soft_box",
    "crate",
)
_TEXTURES = 40  # individuals of a pattern; 5 times as many labels


def any_color(rng: np.random.Generator) -> Array:
    """A linear albedo (3,): greys, whites, blacks, browns and full colours."""
    kind = rng.random()
    if kind < 0.14:
        return np.full(3, rng.uniform(0.55, 0.85)) * rng.uniform(0.93, 1.0, 3)  # white
    if kind < 0.28:
        return np.full(3, rng.uniform(0.008, 0.04)) * rng.uniform(0.85, 1.15, 3)  # black
    if kind < 0.40:
        return np.full(3, rng.uniform(0.08, 0.5)) * rng.uniform(0.92, 1.08, 3)
    if kind < 0.52:
        return rng.uniform(0.08, 0.6) * np.array([1.0, rng.uniform(0.55, 0.85), rng.uniform(0.3, 0.7)])
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.3, 1.0), rng.uniform(0.25, 0.95))
    return np.asarray(rgb) ** 2.2


def muted(color: Array, share: float) -> Array:
    """A colour (3,) made greyer by a share."""
    return np.asarray(color * (1 - share) + color.mean() * share)


def ramp(rng: np.random.Generator, color: Array) -> Array:
    """Three linear albedos (3,3) around a colour, for a texture to run through."""
    if rng.random() < 0.25:
        return np.stack([color, 0.5 * (color + (other := any_color(rng))), other])
    spread = rng.uniform(0.1, 0.7)
    return np.stack([color * (1 - spread), color, np.clip(color * (1 + 0.6 * spread), 0, 0.9)])


def plain(color: Array, gloss: float = 0.1) -> Paint:
    """One colour."""
    return Paint(np.tile(color, (3, 1)), gloss=gloss)


def patterned(rng: np.random.Generator, color: Array, names: tuple[str, ...], size: float) -> Paint:
    """A pattern of the library that repeats after about `size` m."""
    period = np.full(3, size * rng.uniform(0.6, 1.6))
    name = str(rng.choice(names))
    return Paint(
        ramp(rng, color), name, int(rng.integers(_TEXTURES)), period, rng.uniform(-1, 1, 3), gloss=_gloss(rng)
    )


def thing_skin(rng: np.random.Generator, shape: Shape, color: Array, clear: float) -> Skin:
    """A skin for a thing whose main colour is given; clear: chance that a thing that could be glass is."""
    if shape.kind in CLEAR_KINDS and rng.random() < clear:
        tint = 0.5 * rng.uniform(0.6, 1.0) + 0.5 * color
        return Skin((plain(0.25 * tint, rng.uniform(0.5, 1.0)),), transparent=True)
    low, high = shape.mesh.vertices.min(axis=0), shape.mesh.vertices.max(axis=0)
    if shape.kind in LABELLED and rng.random() < 0.75:
        first = label(rng, low, high, shape.round)
    elif rng.random() < 0.3:
        first = patterned(rng, color, PATTERNS, float((high - low).max()) * rng.uniform(0.3, 1.5))
    else:
        first = plain(color, _gloss(rng))
    second = first if rng.random() < 0.35 and first.texture != PRINT else plain(any_color(rng), _gloss(rng))
    third = second if rng.random() < 0.5 else plain(any_color(rng), _gloss(rng))
    return Skin((first, second, third))


def label(rng: np.random.Generator, low: Array, high: Array, around: bool) -> Paint:
    """Print that fills a body between two corners (3,) m."""
    size = np.maximum(high - low, 1e-3)
    period = size * np.array([1.0, 1.0, 1.0]) * rng.uniform(0.8, 1.3)
    if around:
        period = np.array([rng.choice([0.1, 0.15, 0.3]), size[1], size[2]])
    tint = np.tile(rng.uniform(0.6, 0.9) * rng.uniform(0.9, 1.0, 3), (3, 1))
    index = int(rng.integers(5 * _TEXTURES))
    return Paint(tint, PRINT, index, period, low, around, gloss=_gloss(rng))


def recolored(paint: Paint, color: Array) -> Paint:
    """The same paint in another colour."""
    return replace(paint, ramp=paint.ramp / max(float(paint.ramp[1].mean()), 1e-3) * color)


def _gloss(rng: np.random.Generator) -> float:
    return float(rng.choice([0.0, 0.1, 0.25, 0.4, 0.6, 0.9], p=[0.25, 0.2, 0.2, 0.15, 0.12, 0.08]))
