"""Printed labels: bands, pictures made of blobs, letters, bar codes, small print."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from molmo_ros.datatypes import Image

_LETTERS = list("ABCDEFGHIJKLMNOPRSTUVWXYZabcdeghiklmnoprstuvy0123456789&!")
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX)
_SCRIPT = (cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_SCRIPT_SIMPLEX)
Color = tuple[int, int, int]


def printed(rng: np.random.Generator, size: int) -> Image:
    """A label (size,size,3) sRGB."""
    colors = [_color(rng) for _ in range(int(rng.integers(3, 6)))]
    image = np.full((size, size, 3), colors[0], np.uint8)
    for _ in range(int(rng.integers(0, 4))):
        _band(image, rng, colors)
    for _ in range(int(rng.integers(0, 5))):
        _picture(image, rng, colors)
    for _ in range(int(rng.integers(1, 5))):
        _word(image, rng, colors)
    if rng.random() < 0.5:
        _small_print(image, rng, colors)
    if rng.random() < 0.25:
        _bar_code(image, rng)
    return image


def _color(rng: np.random.Generator) -> Color:
    if rng.random() < 0.35:
        grey = int(rng.choice([20, 40, 120, 225, 240, 250]))
        return grey, grey, grey
    hue, full, value = rng.random(), rng.uniform(0.43, 1), rng.uniform(0.35, 1)
    r, g, b = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, full, value))
    return r, g, b


def _pick(rng: np.random.Generator, colors: list[Color]) -> Color:
    return colors[int(rng.integers(len(colors)))]


def _band(image: Image, rng: np.random.Generator, colors: list[Color]) -> None:
    size = len(image)
    at, thick = int(rng.integers(size)), int(rng.integers(4, size // 2))
    if rng.random() < 0.7:
        image[at : at + thick] = _pick(rng, colors)
    else:
        image[:, at : at + thick] = _pick(rng, colors)


def _picture(image: Image, rng: np.random.Generator, colors: list[Color]) -> None:
    size = len(image)
    centre = rng.integers(0, size, 2)
    radius = rng.uniform(0.05, 0.3) * size
    shape = int(rng.integers(4))
    at = (int(centre[0]), int(centre[1]))
    if shape == 0:
        axes = (int(radius), int(radius * rng.uniform(0.3, 1)))
        cv2.ellipse(image, at, axes, float(rng.uniform(0, 180)), 0, 360, _pick(rng, colors), -1, cv2.LINE_AA)
    elif shape == 1:
        far = (int(at[0] + radius * rng.uniform(0.5, 2)), int(at[1] + radius * rng.uniform(0.3, 1.5)))
        cv2.rectangle(image, at, far, _pick(rng, colors), -1)
    elif shape == 2:
        angle = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        reach = radius * rng.uniform(0.4, 1, len(angle))
        corners = centre + np.stack([np.cos(angle), np.sin(angle)], 1) * reach[:, None]
        cv2.fillPoly(image, [corners.astype(np.int32)], _pick(rng, colors), cv2.LINE_AA)
    else:  # a heap of small things, like the food shown on a box
        for _ in range(int(rng.integers(8, 30))):
            spot = centre + rng.normal(0, radius / 2, 2)
            r = int(radius * rng.uniform(0.05, 0.3)) + 1
            cv2.circle(image, (int(spot[0]), int(spot[1])), r, _pick(rng, colors), -1, cv2.LINE_AA)


def _word(image: Image, rng: np.random.Generator, colors: list[Color]) -> None:
    size = len(image)
    text = "".join(rng.choice(_LETTERS, int(rng.integers(2, 9))))
    font = (_FONTS + _SCRIPT)[int(rng.integers(5))]
    scale, thick = float(rng.uniform(0.5, 3.0)), int(rng.integers(1, 9))
    at = (int(rng.uniform(-0.1, 0.5) * size), int(rng.uniform(0.15, 1.0) * size))
    if rng.random() < 0.4:
        cv2.putText(image, text, at, font, scale, _pick(rng, colors), thick + 4, cv2.LINE_AA)
    cv2.putText(image, text, at, font, scale, _pick(rng, colors), thick, cv2.LINE_AA)


def _small_print(image: Image, rng: np.random.Generator, colors: list[Color]) -> None:
    size = len(image)
    x, y = rng.integers(0, size * 3 // 4, 2)
    color, width = _pick(rng, colors), int(rng.integers(30, 110))
    for row in range(int(rng.integers(3, 12))):
        text = "".join(rng.choice(_LETTERS, width // 6))
        place = (int(x), int(y) + 8 * row)
        cv2.putText(image, text, place, _FONTS[0], 0.28, color, 1, cv2.LINE_AA)


def _bar_code(image: Image, rng: np.random.Generator) -> None:
    size = len(image)
    x, y = rng.integers(0, size - 60, 2)
    bars = rng.random(50) < 0.5
    image[y : y + 30, x : x + 50] = np.where(bars, 15, 245)[None, :, None]
