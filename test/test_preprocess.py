"""Preprocessing against transformers' own processor, to the bit, and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from molmo_ros.checkpoint.preprocess import (
    ImageConfig,
    as_rgb,
    image_token_ids,
    preprocess,
    resize,
    select_tiling,
)
from molmo_ros.errors import CheckpointError, FrameError

OFFICIAL = ImageConfig()
SMALL = ImageConfig(crop_size=160, patch_size=10)  # 16 patches, windows of 8: other numbers, same code
ODD = ImageConfig(crop_size=44, patch_size=4, margins=(2, 3), max_crops=5)
SIZES = [(480, 640), (720, 1280), (1080, 1920), (33, 700), (1, 1), (700, 33), (378, 378), (644, 644),
         (112, 112), (113, 500), (1000, 1001), (240, 320), (2, 3), (768, 1024)]  # fmt: skip


class Vocabulary:
    im_patch, im_low, im_col, im_start, im_end, low_res_im_start = 1, 1, 2, 3, 4, 5


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(height * 10007 + width)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.fixture(scope="module")
def reference() -> Any:
    """transformers' image processor, with torch's own interpolate as its backend instead of torchvision's.

    Torch interpolates by another kernel when it has one thread, so it gets two.
    """
    torch = pytest.importorskip("torch")
    processing = pytest.importorskip("transformers.models.molmo2.image_processing_molmo2")

    class Backend:
        _build_overlapping_crops = processing.Molmo2ImageProcessor._build_overlapping_crops
        run = processing.Molmo2ImageProcessor._image_batch_to_patches_and_grids

        def resize(self, image: Any, size: Any, resample: Any, antialias: bool) -> Any:
            shape = (size.height, size.width)
            return torch.nn.functional.interpolate(image, size=shape, mode="bilinear", antialias=antialias)

        def rescale_and_normalize(self, image: Any, *_: Any) -> Any:
            return image / 127.5 - 1

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield Backend()
    torch.set_num_threads(threads)


def expected(reference: Any, image: np.ndarray, c: ImageConfig) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """(crops as uint8, pooling, grid) of the reference, in our layout."""
    import torch

    grid, patches, pooling = reference.run(
        torch.from_numpy(image).permute(2, 0, 1)[None].contiguous(), max_crops=c.max_crops,
        overlap_margins=list(c.margins), crop_size=c.crop_size, resample=2, do_rescale=True,
        rescale_factor=1 / 255, do_normalize=True, image_mean=list(c.mean), image_std=list(c.std),
        image_patch_size=c.patch_size, image_pooling_w=c.pooling[1], image_pooling_h=c.pooling[0],
    )  # fmt: skip
    levels = np.rint((patches[0].numpy() + 1) * 127.5)  # (C, patches, patch * patch * 3)
    g, p = c.grid, c.patch_size
    crops = levels.reshape(-1, g, g, p, p, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, g * p, g * p, 3)
    return crops.astype(np.uint8), pooling[0].numpy(), grid[0].tolist()


@pytest.mark.parametrize(
    ("size", "config"),
    [(s, OFFICIAL) for s in SIZES] + [(s, c) for s in SIZES if max(s) <= 700 for c in (SMALL, ODD)],
    ids=lambda v: f"{v[1]}x{v[0]}" if isinstance(v, tuple) else f"crop{v.crop_size}",
)
def test_equals_reference(reference: Any, size: tuple[int, int], config: ImageConfig) -> None:
    image = noise(*size)
    crops, pooling, grid = expected(reference, image, config)
    ours = preprocess(image, config)
    np.testing.assert_array_equal(ours.crops, crops)
    np.testing.assert_array_equal(ours.pooling, pooling)
    assert [*ours.low_res, *ours.high_res] == grid


@pytest.mark.parametrize("max_crops", [1, 4, 24])
def test_equals_reference_with_other_max_crops(reference: Any, max_crops: int) -> None:
    config = ImageConfig(max_crops=max_crops)
    crops, pooling, _ = expected(reference, noise(720, 1280), config)
    ours = preprocess(noise(720, 1280), config)
    np.testing.assert_array_equal(ours.crops, crops)
    np.testing.assert_array_equal(ours.pooling, pooling)


def test_grey_and_alpha_equal_their_rgb() -> None:
    rgba = noise(97, 131, 4)
    grey = noise(97, 131, 1)
    for image, rgb in (
        (rgba, rgba[:, :, :3]),
        (grey, grey.repeat(3, axis=2)),
        (grey[:, :, 0], grey.repeat(3, 2)),
    ):
        np.testing.assert_array_equal(preprocess(image, SMALL).crops, preprocess(rgb, SMALL).crops)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_equals_the_whole_processor(mode: str) -> None:
    """The same with nothing replaced, where torchvision is installed."""
    pytest.importorskip("torchvision")
    processing = pytest.importorskip("transformers.models.molmo2.image_processing_molmo2")
    from PIL import Image

    picture = Image.fromarray(noise(297, 131)).convert(mode)
    out = processing.Molmo2ImageProcessor()(picture, return_tensors="np")
    ours = preprocess(np.asarray(picture), OFFICIAL)
    patches = ours.crops.reshape(-1, 27, 14, 27, 14, 3).swapaxes(2, 3).reshape(-1, 729, 588)
    np.testing.assert_allclose(patches / 127.5 - 1, out["pixel_values"], atol=2e-7)
    np.testing.assert_array_equal(ours.pooling, out["image_token_pooling"])


def test_smooth_image_resizes_like_reference(reference: Any) -> None:
    import torch

    y, x = np.mgrid[:480, :640]
    image = np.stack([x * 255 // 639, y * 255 // 479, (x + y) * 255 // 1118], axis=2).astype(np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    want = torch.nn.functional.interpolate(tensor, size=(644, 644), mode="bilinear").round()
    np.testing.assert_array_equal(resize(image, 644, 644), want[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("size", "max_crops", "tiling"),
    [((480, 640), 8, (2, 2)), ((720, 1280), 8, (2, 4)), ((720, 1280), 24, (3, 5)), ((1, 1), 8, (1, 1)),
     ((33, 700), 8, (1, 1)), ((480, 640), 1, (1, 1))],
)  # fmt: skip
def test_tiling(size: tuple[int, int], max_crops: int, tiling: tuple[int, int]) -> None:
    if size == (33, 700):  # an image lower than the margins has a negative free height
        assert select_tiling(*size, ImageConfig(max_crops=max_crops))[0] >= 1
    else:
        assert select_tiling(*size, ImageConfig(max_crops=max_crops)) == tiling


@pytest.mark.parametrize(
    ("size", "max_crops", "crops", "tokens", "patches"),
    [((480, 640), 8, 5, 752, 725), ((720, 1280), 8, 9, 1189, 1162), ((480, 640), 24, 5, 752, 725),
     ((720, 1280), 24, 16, 1949, 1912), ((480, 640), 1, 2, 410, None)],
)  # fmt: skip
def test_token_counts(
    size: tuple[int, int], max_crops: int, crops: int, tokens: int, patches: int | None
) -> None:
    config = ImageConfig(max_crops=max_crops)
    inputs = preprocess(noise(*size), config)
    ids = image_token_ids(inputs, Vocabulary(), config)
    assert (len(inputs.crops), len(ids)) == (crops, tokens)
    assert ids.count(1) == len(inputs.pooling) and len(inputs.pooling) in (patches, ids.count(1))


def test_layout_of_tokens() -> None:
    inputs = preprocess(noise(60, 40), ODD)
    ids = image_token_ids(inputs, Vocabulary(), ODD)
    low = [5, *[1] * 36, 4]
    assert ids[: len(low)] == low
    rows, columns = inputs.high_res
    assert ids[len(low) :] == [3, *([*[1] * columns, 2] * rows), 4]


def test_low_resolution_only() -> None:
    config = ImageConfig(crop_size=160, patch_size=10, max_crops=0)
    inputs = preprocess(noise(480, 640), config)
    assert inputs.crops.shape == (1, 160, 160, 3) and inputs.pooling.shape == (64, 4)
    assert inputs.pooling[0].tolist() == [0, 1, 16, 17] and inputs.high_res == (0, 0)
    assert image_token_ids(inputs, Vocabulary(), config) == [5, *[1] * 64, 4]
    np.testing.assert_array_equal(inputs.crops[0], preprocess(noise(480, 640), SMALL).crops[0])


def test_resize_by_hand() -> None:
    image = np.array([[[0, 0, 0], [100, 10, 1]]], dtype=np.uint8)  # one row of two pixels
    assert resize(image, 1, 4)[0, :, 0].tolist() == [0, 25, 75, 100]
    same = resize(image, 1, 2)
    np.testing.assert_array_equal(same, image)
    assert same is not image


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 2), np.uint8),
     np.zeros((4,), np.uint8)],
)  # fmt: skip
def test_not_an_image(image: np.ndarray) -> None:
    with pytest.raises(FrameError, match="uint8"):
        as_rgb(image)


def test_config_of_released_file() -> None:
    fields = {
        "size": {"height": 378, "width": 378}, "patch_size": 14, "pooling_size": [2, 2], "max_crops": 8,
        "overlap_margins": [4, 4], "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    assert ImageConfig.parse(fields) == OFFICIAL
    with pytest.raises(CheckpointError, match="patch_size"):
        ImageConfig.parse({k: v for k, v in fields.items() if k != "patch_size"})
    with pytest.raises(CheckpointError, match="no window"):
        ImageConfig.parse({**fields, "overlap_margins": [20, 20]})
