"""How weights and activations are held, and the rounding of weights to 8 and 4 bits.

Norms, softmax, rotary angles and logits are fp32 in every precision.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from molmo_ros.datatypes import AnyArray, Float32

Int8 = npt.NDArray[np.int8]

BLOCK = 128  # weights along the input that share one scale
FP8_LARGEST, FP8_SM = 448.0, 89  # of E4M3; the first GPUs that have it
_SMALLER_BLOCKS = (128, 64, 32, 16)  # where the input's width is not a multiple of it
_CHUNK = 1 << 21
_NUMPY: dict[int, Any] = {
    int(TensorProto.FLOAT): np.float32,
    int(TensorProto.FLOAT16): np.float16,
    int(TensorProto.BFLOAT16): ml_dtypes.bfloat16,
}


@dataclass(frozen=True)
class Precision:
    """``weights`` is "" (as the activations), "int8", "int4" (rounded to nearest, symmetric), "fp8" (E4M3,
    TensorRT only; activations stay, since their scale would have to be calibrated), or "dynamic": int8
    weights, and activations rounded to 8 bits at run time. ``head`` is the same for the last matrix.

    ``int8_blocks``: a scale per block of the input, as for int4; else one per output. ``grouped``: query
    heads that share a key head go through one matrix product, which saves a CPU the copies of the keys;
    TensorRT fuses attention only with all heads spelled out. ``fused``: ONNX Runtime's own operators, for its
    CUDA provider (see ``network.fused``); ``whole_attention``: one of them for all of an attention that has
    no mask. ``exact_rows``: the rounding of activations by ONNX Runtime's kernel for rounded weights is
    compensated in tokens whose logits are read (see ``network.left_over``). ``chooses``: the graph outputs
    the next tokens, so that no logits need leave the device.
    """

    name: str = "fp32"
    activations: int = int(TensorProto.FLOAT)
    weights: str = ""
    head: str = ""
    int8_blocks: bool = False
    grouped: bool = False
    fused: bool = False
    whole_attention: bool = True
    exact_rows: bool = False
    chooses: bool = False

    @property
    def dtype(self) -> Any:
        """Of activations, in numpy."""
        return _NUMPY[self.activations]

    @property
    def is_fp16(self) -> bool:
        return self.activations == int(TensorProto.FLOAT16)

    @property
    def is_fp32(self) -> bool:
        return self.activations == int(TensorProto.FLOAT)

    @property
    def dequantises(self) -> bool:
        """Whether weights go through ``DequantizeLinear``."""
        return self.weights in ("int8", "int4", "fp8") and not self.fused

    @property
    def rounds_experts(self) -> bool:
        """Not for TensorRT, which takes integers only if no operator stands between them and their scale."""
        return self.grouped and bool(self.weights)

    def of_vision(self) -> Precision:
        """The vision tower is never rounded to few bits, except with the dynamic precision."""
        return self if self.weights == "dynamic" else replace(self, weights="", head="")


FP32 = Precision()
FP16 = Precision("fp16", int(TensorProto.FLOAT16))
BF16 = Precision("bf16", int(TensorProto.BFLOAT16))

# What each name means on a GPU, and what on a CPU.
GPU_PRECISIONS: dict[str, Precision] = {
    p.name: replace(p, chooses=True)
    for p in (
        FP32,
        FP16,
        BF16,
        replace(BF16, name="int8", weights="int8"),
        replace(BF16, name="int4", weights="int4"),
        replace(BF16, name="fp8", weights="fp8"),
    )
}
CUDA_PRECISIONS: dict[str, Precision] = {
    name: replace(p, grouped=True, fused=True) for name, p in GPU_PRECISIONS.items() if name != "fp8"
}
_CPU = replace(FP32, grouped=True)
_CPU_BLOCKS = replace(_CPU, head="int8", int8_blocks=True, exact_rows=True)
CPU_PRECISIONS: dict[str, Precision] = {
    "fp32": _CPU,
    "fp16": replace(FP16, grouped=True),
    "int8": replace(_CPU_BLOCKS, name="int8", weights="int8"),
    "int8_dynamic": replace(_CPU, name="int8_dynamic", weights="dynamic", head="dynamic"),
    "int4": replace(_CPU_BLOCKS, name="int4", weights="int4"),
}


def block_size(width: int) -> int:
    """Weights that share a scale: 128, or the largest smaller block that divides the input's width.

    Raises: ValueError if not even 16 does.
    """
    for block in _SMALLER_BLOCKS:
        if width % block == 0:
            return block
    raise ValueError(f"the width {width} is no multiple of {_SMALLER_BLOCKS[-1]}, so it has no blocks")


def round_blocks(weight: AnyArray, bits: int, block: int) -> tuple[Int8, Float32]:
    """weight (out,in) -> integers (in,out) and scales (in/block,out), rounded to nearest, symmetric.

    A block's largest weight is on the last step on its side: -2^(b-1) below zero, 2^(b-1) - 1 above.
    """
    outputs, inputs = weight.shape
    top = 2 ** (bits - 1)
    values = np.empty((inputs, outputs), np.int8)
    scales = np.empty((inputs // block, outputs), np.float32)

    def round_rows(rows: slice) -> None:
        blocks = weight[rows].astype(np.float32, copy=False).reshape(-1, inputs // block, block)
        scale = np.maximum(blocks.max(axis=2) / (top - 1), blocks.min(axis=2) / -top)
        scale[scale == 0] = 1
        rounded = np.rint(blocks / scale[..., None])
        np.clip(rounded, -top, top - 1, out=rounded)
        values[:, rows] = rounded.astype(np.int8).reshape(-1, inputs).T
        scales[:, rows] = scale.T

    _for_all_rows(weight, round_rows)
    return values, scales


def round_outputs(weight: AnyArray) -> tuple[Int8, Float32]:
    """weight (out,in) -> integers -127 ... 127 (in,out) and one scale for each output (out,)."""
    values = np.empty(weight.shape[::-1], np.int8)
    scales = np.empty(len(weight), np.float32)

    def round_rows(rows: slice) -> None:
        part = weight[rows].astype(np.float32, copy=False)
        scale = np.abs(part).max(axis=1) / 127
        scale[scale == 0] = 1
        values[:, rows] = np.rint(part / scale[:, None]).astype(np.int8).T
        scales[rows] = scale

    _for_all_rows(weight, round_rows)
    return values, scales


def round_fp8(weight: AnyArray) -> tuple[AnyArray, Float32]:
    """weight (out,in) -> E4M3 numbers (in,out) and one scale for each output (out,), whose largest is 448."""
    values = np.empty(weight.shape[::-1], ml_dtypes.float8_e4m3fn)
    scales = np.empty(len(weight), np.float32)

    def round_rows(rows: slice) -> None:
        part = weight[rows].astype(np.float32, copy=False)
        scale = np.abs(part).max(axis=1) / FP8_LARGEST
        scale[scale == 0] = 1
        values[:, rows] = (part / scale[:, None]).astype(values.dtype).T
        scales[rows] = scale

    _for_all_rows(weight, round_rows)
    return values, scales


def transposed(weight: AnyArray, dtype: Any) -> AnyArray:
    """weight (out,in) -> (in,out), cast to a type."""
    result = np.empty(weight.shape[::-1], dtype)
    if weight.dtype == result.dtype == ml_dtypes.bfloat16:  # numpy copies its own types many times faster
        return transposed(weight.view(np.uint16), np.uint16).view(ml_dtypes.bfloat16)

    def turn_rows(rows: slice) -> None:
        result[:, rows] = weight[rows].astype(dtype, copy=False).T

    _for_all_rows(weight, turn_rows)
    return result


def _for_all_rows(weight: AnyArray, do: Callable[[slice], None]) -> None:
    """A few megabytes at a time, so that a large matrix is never held twice in fp32, and on all cores."""
    step = max(_CHUNK // weight.shape[1], 1)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(do, [slice(start, start + step) for start in range(0, len(weight), step)]):
            pass


def pack_int4(values: Int8) -> bytes:
    """Two in a byte, the first in the low half, as ONNX lays them out."""
    flat = values.reshape(-1).view(np.uint8) & 0xF
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return bytes((flat[0::2] | (flat[1::2] << 4)).data)


def unpack_int4(packed: AnyArray, shape: tuple[int, ...]) -> Int8:
    """The integers of ``pack_int4``, in an array of this shape."""
    data = packed.reshape(-1).view(np.uint8)
    pairs = np.stack([data << 4, data & 0xF0], axis=1).view(np.int8) >> 4
    return pairs.reshape(-1)[: int(np.prod(shape))].reshape(shape)
