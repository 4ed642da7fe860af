"""Image preprocessing in numpy: tiling, resize, crops, pooling indices, token layout.

An image becomes a low-resolution crop of the whole and, where ``max_crops`` allows, high-resolution crops
that overlap by a margin. Patches in a margin that a neighbouring crop also holds are dropped, so that the
remaining ones cover the canvas once; windows of 2x2 patches then become one token each.

Molmo2 stretches the image to the canvas; Molmo v1 keeps its aspect ratio and marks the padding for the
network.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from molmo_ros.checkpoint.letterbox import letterbox
from molmo_ros.datatypes import Float32, Image, Index
from molmo_ros.errors import CheckpointError, FrameError, ParameterError

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageConfig:
    """preprocessor_config.json. Sizes in px, margins and pooling in patches.

    ``max_crops`` 0 is an extension of this package: the low-resolution crop alone.
    """

    crop_size: int = 378
    patch_size: int = 14
    pooling: tuple[int, int] = (2, 2)
    margins: tuple[int, int] = (4, 4)
    max_crops: int = 8
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    columns: bool = True  # <im_col> after each row of the high-resolution block
    low_res_columns: bool = False  # the same in the low-resolution block
    keep_aspect: bool = False  # v1: black bars instead of stretching, and float32 crops

    @classmethod
    def parse(cls, fields: Mapping[str, Any], path: str = "preprocessor_config.json") -> ImageConfig:
        """Read the content of a preprocessor_config.json.

        Raises: CheckpointError if a field is missing or nonsense.
        """
        try:
            if "base_image_input_size" in fields:
                return cls._parse_v1(fields)._checked()
            size = fields["size"]
            config = cls(
                crop_size=int(size["height"] if isinstance(size, Mapping) else size),
                patch_size=int(fields["patch_size"]),
                pooling=_pair(fields["pooling_size"]),
                margins=_pair(fields["overlap_margins"]),
                max_crops=int(fields["max_crops"]),
                mean=_triple(fields["image_mean"]),
                std=_triple(fields["image_std"]),
            )._checked()
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(
                f"{path}: field missing or unreadable ({error}); download it again."
            ) from error
        if config.max_crops < 0 or (config.max_crops > 0 and config.window <= 0):
            raise CheckpointError(
                f"{path}: max_crops {config.max_crops} with margins {config.margins} in {config.grid} patches"
                " leaves no window; download it again."
            )
        return config

    @classmethod
    def _parse_v1(cls, fields: Mapping[str, Any]) -> ImageConfig:
        size = fields["base_image_input_size"]
        crop_size, patch_size = (
            int(size[0] if isinstance(size, list) else size),
            int(fields["image_patch_size"]),
        )
        rows, columns = int(fields["image_token_length_h"]), int(fields["image_token_length_w"])
        config = cls(
            crop_size=crop_size,
            patch_size=patch_size,
            pooling=(crop_size // patch_size // rows, crop_size // patch_size // columns),
            margins=_pair(fields["overlap_margins"]),
            max_crops=int(fields["max_crops"]),
            mean=_triple(fields.get("image_mean") or _CLIP_MEAN),
            std=_triple(fields.get("image_std") or _CLIP_STD),
            low_res_columns=True,
            keep_aspect=True,
        )
        odd = [n for n in (config.grid, *config.margins) if n % config.pooling[0] or n % config.pooling[1]]
        if odd or config.window <= 0:
            raise ValueError("patches and margins do not fit the image tokens")
        return config

    def _checked(self) -> ImageConfig:
        """Itself. Raises: ValueError naming the first impossible number."""
        for name, values, low, high in (
            ("size", [self.crop_size], 1, 10_000),
            ("patch size", [self.patch_size], 1, self.crop_size),
            ("pooling", self.pooling, 1, 100),
            ("margins", self.margins, 0, 100),
            ("max_crops", [self.max_crops], 0, 1000),
            ("image_mean", self.mean, 0.0, 1.0),
            ("image_std", self.std, 1e-3, 10.0),
        ):
            for value in values:
                if not low <= value <= high:
                    raise ValueError(f"{name} {value:g} is not {low:g} to {high:g}")
        return self

    def with_max_crops(self, max_crops: int) -> ImageConfig:
        """The same with another number of high-resolution crops, at the price of detail or of time.

        Raises: ParameterError if it is not 1 to 36, or the model has never seen such crops.
        """
        if self.max_crops == 0 or not 1 <= max_crops <= 36:
            usable = f"1 to 36 (its own: {self.max_crops})" if self.max_crops else "0, it was made without"
            raise ParameterError(f"max_crops is {max_crops}; for this checkpoint it must be {usable}.")
        return replace(self, max_crops=max_crops)

    @property
    def grid(self) -> int:
        """Patches along one side of a crop."""
        return self.crop_size // self.patch_size

    @property
    def window(self) -> int:
        """Stride of the high-resolution crops in px."""
        return (self.grid - sum(self.margins)) * self.patch_size

    @property
    def margin(self) -> int:
        """Width in px of both margins of a crop, added up."""
        return sum(self.margins) * self.patch_size


@dataclass(frozen=True)
class ImageInputs:
    """What the vision graph and the prompt need of one image.

    crops (C,S,S,3) uint8, low-resolution first; pooling (M,4) patch indices crop * patches + patch, -1 for
    padding, one row per image token; low_res and high_res (rows, columns) of tokens, (0, 0) if absent.
    v1: crops are float32 0..255, and padding (C,N) says which patches show it: 0 no, 1 only, 2 also.
    """

    crops: Image | Float32
    pooling: Index
    low_res: tuple[int, int]
    high_res: tuple[int, int]
    padding: Index | None = None


class ImageVocabulary(Protocol):
    """The ids of the image tokens."""

    im_patch: int
    im_low: int  # im_patch in the low-resolution block
    im_col: int
    im_start: int
    im_end: int
    low_res_im_start: int


def preprocess(image: npt.NDArray[Any], config: ImageConfig) -> ImageInputs:
    """Tile, resize and index one image, (H,W,3) uint8 RGB; grey and RGBA are converted.

    Raises: FrameError if it is no image.
    """
    rgb = as_rgb(image)
    plan = _layout(rgb.shape[0], rgb.shape[1], config)
    if config.keep_aspect:
        crops, padding = _letterboxed(rgb, plan.rows, plan.columns, config)
        return ImageInputs(crops, plan.pooling, plan.low_res, plan.high_res, padding)
    low = resize(rgb, config.crop_size, config.crop_size)[None]
    high = [_stretched(rgb, plan.rows, plan.columns, config)] if plan.rows else []
    return ImageInputs(np.concatenate([low, *high]), plan.pooling, plan.low_res, plan.high_res)


@dataclass(frozen=True)
class _Layout:
    """What depends on the size of an image alone: its tiling, and the indices of `ImageInputs`."""

    rows: int
    columns: int
    pooling: Index
    low_res: tuple[int, int]
    high_res: tuple[int, int]


@functools.lru_cache(maxsize=32)
def _layout(height: int, width: int, config: ImageConfig) -> _Layout:
    """Kept: a camera's images are all of one size."""
    grid = config.grid
    pooling, low_res = _pool(np.arange(grid * grid, dtype=np.int64).reshape(grid, grid), config.pooling)
    rows, columns, high_res = 0, 0, (0, 0)
    if config.max_crops > 0:
        rows, columns = select_tiling(height, width, config)
        high, high_res = _pool(_patch_indices(rows, columns, config), config.pooling)
        # after the patches of the first crop
        pooling = np.concatenate([pooling, np.where(high >= 0, high + grid * grid, -1)])
    pooling.flags.writeable = False
    return _Layout(rows, columns, pooling, low_res, high_res)


def image_token_ids(inputs: ImageInputs, vocabulary: ImageVocabulary, config: ImageConfig) -> list[int]:
    """The tokens that stand for the image: low-resolution block, then the high-resolution block if any."""

    def block(start: int, patch: int, shape: tuple[int, int], columns: bool) -> list[int]:
        row = [patch] * shape[1] + [vocabulary.im_col] * columns
        return [start, *(row * shape[0]), vocabulary.im_end]

    ids = block(vocabulary.low_res_im_start, vocabulary.im_low, inputs.low_res, config.low_res_columns)
    if inputs.high_res != (0, 0):
        ids += block(vocabulary.im_start, vocabulary.im_patch, inputs.high_res, config.columns)
    return ids


def as_rgb(image: npt.NDArray[Any]) -> Image:
    """(H,W,3) uint8 of a grey (H,W) or (H,W,1), RGB or RGBA image; alpha is dropped.

    Raises: FrameError for another shape, type, or no pixels.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise FrameError(f"The image is {image.shape} {image.dtype}; give (height, width, 3) uint8 RGB.")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    if image.shape[2] not in (3, 4):
        raise FrameError(f"The image has {image.shape[2]} channels; give (height, width, 3) uint8 RGB.")
    return np.ascontiguousarray(image[:, :, :3])


def select_tiling(height: int, width: int, config: ImageConfig) -> tuple[int, int]:
    """(rows, columns) of high-resolution crops: the least enlargement, or the least reduction if all reduce.

    Source: the tiling of Molmo2's image processor, in float32 as there.
    """
    most = config.max_crops
    tilings = [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1)]
    tilings.sort(key=lambda pair: (pair[0] * pair[1], pair[0]))
    size = np.array([height - config.margin, width - config.margin], dtype=np.float32)
    with np.errstate(divide="ignore"):
        scales = (np.array(tilings, dtype=np.float32) * np.float32(config.window) / size).min(axis=1)
    if np.all(scales < 1):
        return tilings[int(scales.argmax())]
    return tilings[int(np.where(scales < 1, np.float32(1e10), scales).argmin())]


def resize(image: Image, height: int, width: int) -> Image:
    """Stretch (h,w,3) uint8 to (height,width,3): bilinear, without antialiasing.

    Equal to the bit to torch's interpolate(bilinear, align_corners=False) in float32 with more than one
    thread, rounded. OpenCV computes the same an order of magnitude faster, with different rounding; where its
    value lies so near to a half that this could matter, it is recomputed as torch does.
    """
    if image.shape[:2] == (height, width):
        return image.copy()
    import cv2

    values = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    rounded = np.rint(values)
    out = rounded.astype(np.uint8)
    x, y = _taps(image.shape[1], width), _taps(image.shape[0], height)
    if x.exact and y.exact:  # then there is nothing to round in either
        return out
    np.subtract(values, rounded, out=values)
    np.abs(values, out=values)
    near = np.flatnonzero(values > 0.5 - _tolerance(x, y))
    np.put(out, near, _bilinear_fused(image, x, y, near))
    return out


def _tolerance(x: _Taps, y: _Taps) -> float:
    """How far OpenCV's value can be from torch's: neighbours differ by at most 255, and positions by what the
    two roundings to float32 make of them; a little more for the sums.
    """
    return 1.25 * 255 * (x.position_error + y.position_error) + 1e-3


class _Taps:
    """For each output position along one axis: its two source positions and their float32 weights."""

    def __init__(self, source: int, target: int) -> None:
        scale = np.float32(source) / np.float32(target)
        centre = np.arange(target, dtype=np.float32) + np.float32(0.5)
        # A product and a difference, rounded once, as a fused multiply-add does.
        position = (np.float64(scale) * centre.astype(np.float64) - 0.5).astype(np.float32)
        exact = (np.arange(target) + 0.5) * (source / target) - 0.5  # as OpenCV has it, then in float32
        self.position_error = float(np.abs(exact.astype(np.float32) - position).max())
        position = np.maximum(position, np.float32(0))
        self.lower = np.minimum(position.astype(np.int64), source - 1)
        self.upper = np.minimum(self.lower + 1, source - 1)
        self.upper_weight = np.clip(position - self.lower.astype(np.float32), 0, 1).astype(np.float32)
        self.lower_weight = np.float32(1) - self.upper_weight
        steps = 256 * self.upper_weight  # two such weights and a byte fit into the 24 bits of a float32
        self.exact = self.position_error == 0 and bool(np.all(steps == np.rint(steps)))


@functools.lru_cache(maxsize=32)
def _taps(source: int, target: int) -> _Taps:
    """Kept: a camera's images are all of one size."""
    return _Taps(source, target)


def _bilinear_fused(image: Image, x: _Taps, y: _Taps, at: Index) -> Image:
    """The rounded values at some flat positions of the output, with the roundings of torch's two kernels."""
    width, height = len(x.lower), len(y.lower)
    row, rest = np.divmod(at, width * 3)
    column, channel = np.divmod(rest, 3)
    left, right = (taps[column] * 3 + channel for taps in (x.lower, x.upper))
    top, bottom = (taps[row] * (image.shape[1] * 3) for taps in (y.lower, y.upper))
    above_weight, below_weight = y.lower_weight[row], y.upper_weight[row]
    left_weight, right_weight = x.lower_weight[column], x.upper_weight[column]

    def pixels(index: Index) -> Float32:
        return np.take(image, index).astype(np.float32)

    if width + height <= 128:  # torch has a different kernel for small outputs: four taps at once
        values = above_weight * right_weight * pixels(top + right)
        values = _fused(above_weight * left_weight, pixels(top + left), values)
        values = _fused(below_weight * left_weight, pixels(bottom + left), values)
        values = _fused(below_weight * right_weight, pixels(bottom + right), values)
    else:  # along x, then along y
        above = _fused(left_weight, pixels(top + left), right_weight * pixels(top + right))
        below = _fused(left_weight, pixels(bottom + left), right_weight * pixels(bottom + right))
        values = _fused(above_weight, above, below_weight * below)
    return np.rint(values).astype(np.uint8)


def _fused(a: Float32, b: Float32, c: Float32) -> Float32:
    """a * b + c, rounded once (the product of two float32 is exact in float64)."""
    return np.asarray(a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64), dtype=np.float32)


def _stretched(rgb: Image, rows: int, columns: int, config: ImageConfig) -> Image:
    """The high-resolution crops (rows * columns, S, S, 3) of Molmo2."""
    height, width = (n * config.window + config.margin for n in (rows, columns))
    return _cut(resize(rgb, height, width), rows, columns, config)


def _letterboxed(rgb: Image, rows: int, columns: int, config: ImageConfig) -> tuple[Float32, Index]:
    """All crops of Molmo v1, (C,S,S,3) float32, and which of their patches show padding (C,N).

    v1 was trained with the padding of each crop assigned to the one before it, the low-resolution crop
    taking that of the first; the last crop then has "some" everywhere. Its weights expect that.
    """
    side = config.crop_size
    crops = letterbox(rgb, side, side)[0][None]
    padding = np.full((1, config.grid**2), 2, dtype=np.int64)
    if rows == 0:
        return crops, padding
    height, width = (n * config.window + config.margin for n in (rows, columns))
    canvas, shown = letterbox(rgb, height, width)
    crops = np.concatenate([crops, _cut(canvas, rows, columns, config)])
    return crops, np.concatenate([_padding(_cut(shown, rows, columns, config), config), padding])


def _padding(shown: npt.NDArray[np.bool_], config: ImageConfig) -> Index:
    """(C,S,S) -> (C,N): 0 for patches without padding, 1 with nothing else, 2 with some."""
    g, p = config.grid, config.patch_size
    count = shown.reshape(-1, g, p, g, p).sum(axis=(2, 4)).reshape(-1, g * g)
    return np.where(count == 0, 1, np.where(count == p * p, 0, 2)).astype(np.int64)


def _cut(canvas: npt.NDArray[Any], rows: int, columns: int, config: ImageConfig) -> npt.NDArray[Any]:
    """(rows * columns, S, S, ...): the canvas cut at a stride of one window."""
    side, stride = config.crop_size, config.window
    return np.stack(
        [
            canvas[r * stride : r * stride + side, c * stride : c * stride + side]
            for r in range(rows)
            for c in range(columns)
        ]
    )


def _patch_indices(rows: int, columns: int, config: ImageConfig) -> Index:
    """(canvas patches high, wide): which patch of which crop shows each patch of the canvas."""
    grid, (before, after) = config.grid, config.margins
    index = np.arange(rows * columns * grid * grid, dtype=np.int64).reshape(rows, columns, grid, grid)
    keep = np.ones(index.shape, dtype=bool)
    keep[1:, :, :before, :] = keep[:, 1:, :, :before] = False
    keep[:-1, :, grid - after :, :] = keep[:, :-1, :, grid - after :] = False
    index, keep = index.transpose(0, 2, 1, 3), keep.transpose(0, 2, 1, 3)  # (rows, grid, columns, grid)
    margin = before + after
    return index[keep].reshape(rows * (grid - margin) + margin, columns * (grid - margin) + margin)


def _pool(index: Index, window: tuple[int, int]) -> tuple[Index, tuple[int, int]]:
    """Group a grid of patches into windows: (rows * columns, window size), padded with -1, and the shape."""
    high, wide = window
    pad_y, pad_x = -index.shape[0] % high, -index.shape[1] % wide
    index = np.pad(
        index, ((pad_y // 2, (pad_y + 1) // 2), (pad_x // 2, (pad_x + 1) // 2)), constant_values=-1
    )
    rows, columns = index.shape[0] // high, index.shape[1] // wide
    windows = index.reshape(rows, high, columns, wide).transpose(0, 2, 1, 3)
    return windows.reshape(rows * columns, high * wide), (rows, columns)


def _pair(value: Any) -> tuple[int, int]:
    first, second = value
    return int(first), int(second)


def _triple(value: Any) -> tuple[float, float, float]:
    red, green, blue = value
    return float(red), float(green), float(blue)
