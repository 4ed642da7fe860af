"""A mask's outline moves to where colour changes, and stays where colour tells nothing."""

from __future__ import annotations

import numpy as np
import pytest

from molmo_ros.datatypes import Mask
from molmo_ros.perception.sharpen import sharpened

RED, GREY = (180, 40, 30), (120, 120, 125)


def scene(size: tuple[int, int], seed: int = 0) -> tuple[np.ndarray, Mask]:
    """A noisy red ellipse on grey, and its true mask."""
    height, width = size
    v, u = np.mgrid[:height, :width]
    mask = ((u - 0.5 * width) / (0.22 * width)) ** 2 + ((v - 0.5 * height) / (0.3 * height)) ** 2 < 1
    rgb = np.where(mask[..., None], RED, GREY) + np.random.default_rng(seed).normal(0, 12, (*size, 3))
    return np.clip(rgb, 0, 255).astype(np.uint8), mask


def iou(a: Mask, b: Mask) -> float:
    return float(np.count_nonzero(a & b) / np.count_nonzero(a | b))


@pytest.mark.parametrize("shift", [(3, 0), (-2, 3), (0, -4)])
def test_an_outline_off_by_some_pixels_is_put_right(shift: tuple[int, int]) -> None:
    rgb, true = scene((120, 160))
    wrong = np.roll(true, shift, axis=(0, 1))
    assert iou(wrong, true) < 0.92
    assert iou(sharpened(rgb, wrong), true) > 0.98


def test_a_large_image_is_sharpened_in_a_smaller_one() -> None:
    rgb, true = scene((480, 640))
    wrong = np.roll(true, 12, axis=1)
    assert iou(sharpened(rgb, wrong, scale=4.0), true) > max(0.96, iou(wrong, true) + 0.02)


def test_one_colour_everywhere_leaves_the_mask_as_it_was() -> None:
    _, true = scene((120, 160))
    rgb = np.full((120, 160, 3), 128, np.uint8)
    assert iou(sharpened(rgb, true), true) > 0.97


def test_a_thin_thing_is_not_lost() -> None:
    true = np.zeros((100, 140), np.bool_)
    true[48:53, 20:120] = True
    rgb = np.where(true[..., None], RED, GREY).astype(np.uint8)
    wrong = np.zeros_like(true)
    wrong[46:56, 18:122] = True
    assert iou(sharpened(rgb, wrong), true) > 0.8


def test_a_mask_at_the_border_of_the_image_and_an_empty_one() -> None:
    rgb, true = scene((90, 90))
    cut, mask = rgb[:, :45], true[:, :45]
    assert iou(sharpened(cut, mask), mask) > 0.97
    assert not sharpened(rgb, np.zeros_like(true)).any()
