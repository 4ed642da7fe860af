"""The layers of which the network is made, as ONNX operators: a ``Graph`` reads like the forward pass that it
describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from molmo_ros.datatypes import AnyArray
from molmo_ros.network import left_over
from molmo_ros.network.operations import OPSET, ROUNDED_OPSET, Dim, Operations, Value, WeightSink
from molmo_ros.network.precision import (
    block_size,
    pack_int4,
    round_blocks,
    round_fp8,
    round_outputs,
    transposed,
)

__all__ = ["OPSET", "ROUNDED_OPSET", "Dim", "Graph", "Value", "WeightSink"]


@dataclass
class Graph(Operations):
    """An ONNX graph under construction, with the layers of the network."""

    def linear(
        self, x: Value, name: str, weight: AnyArray, bias: AnyArray | None = None, *, head: bool = False
    ) -> Value:
        """x (..., in) @ weight (out, in) transposed, + bias (out,).

        The only place where linear weights are added.
        """
        kind = self.precision.head if head else self.precision.weights
        if kind:
            kind = self._held_kind(f"{name}.weight") or kind
        if kind == "dynamic":
            y = self._dynamic(x, f"{name}.weight", weight)
        elif kind in ("int8", "int4", "fp8"):
            y = self._rounded_product(x, f"{name}.weight", weight, kind)
        else:
            y = self.matmul(x, self.weight(f"{name}.weight", transposed(weight, self.precision.dtype)))
        return y if bias is None else self.add(y, self.weight(f"{name}.bias", bias))

    def linear_parts(
        self, x: Value, name: str, weight: AnyArray, sizes: Sequence[int], bias: AnyArray | None = None
    ) -> list[Value]:
        """As ``linear``, for a fused projection: its outputs in parts of these sizes."""
        return self.split(self.linear(x, name, weight, bias), *sizes)

    def _held_kind(self, name: str) -> str | None:
        """ "int4" or "int8" if this matrix was quantised beforehand."""
        return None if self.rounded is None else self.rounded.kind(name)

    def _rounded_product(self, x: Value, name: str, weight: AnyArray, kind: str) -> Value:
        """x times weight (out,in) in few bits and its scales, multiplied out by the kernel that uses them."""
        one_each = kind == "fp8" or (kind == "int8" and not self.precision.int8_blocks)
        block = 0 if one_each else block_size(weight.shape[1])
        place = {"axis": 1} if one_each else {"axis": 0, "block_size": block}
        values, scale = round_fp8(weight) if kind == "fp8" else self._integers(name, weight, kind, block)
        integers = f"{name}.{kind}"
        if kind != "int4":
            self._weights[integers] = self.sink.tensor(integers, values)
        else:
            shape, data = weight.shape[::-1], values.tobytes()
            self._weights[integers] = self.sink.raw(integers, int(TensorProto.INT4), shape, data)
        scale_of = self.weight(f"{name}.scale", scale)
        held = self.op("DequantizeLinear", integers, scale_of, **place)
        if self.precision.exact_rows and self.read_rows is not None:
            return left_over.product(self, x, held, block, self.read_rows)
        return self.matmul(x, held)

    def _integers(self, name: str, weight: AnyArray, kind: str, block: int) -> tuple[AnyArray, AnyArray]:
        """Integers (in,out), int4 as packed bytes, and scales: made beforehand, or rounded to nearest.

        ``block``: inputs that share a scale, 0 for one scale per output.
        """
        if self.rounded is not None and self.rounded.kind(name) is not None:
            held = self.rounded.matrix(name)
            repeat = weight.shape[1] // block if block and held.scales.ndim == 1 else 0
            return held.values, np.tile(held.scales, (repeat, 1)) if repeat else held.scales
        if not block:
            return round_outputs(weight)
        values, scales = round_blocks(weight, 8 if kind == "int8" else 4, block)
        return (values if kind == "int8" else np.frombuffer(pack_int4(values), np.uint8)), scales

    def _dynamic(self, x: Value, name: str, weight: AnyArray) -> Value:
        """x rounded to 8 bits with one scale and offset, times integers; ONNX Runtime fuses this form."""
        values, scale = round_outputs(weight)
        rounded, x_scale, x_zero = self.ops("DynamicQuantizeLinear", x, outputs=3)
        total = self.op("MatMulInteger", rounded, self.int8_weight(f"{name}.int8", values), x_zero)
        return self.mul(
            self.cast(total, TensorProto.FLOAT), self.mul(x_scale, self.weight(f"{name}.scale", scale))
        )

    def layer_norm(self, x: Value, name: str, weight: AnyArray, bias: AnyArray, eps: float) -> Value:
        normal = self.op(
            "LayerNormalization", self.to_fp32(x), self.fp32_weight(f"{name}.weight", weight),
            self.fp32_weight(f"{name}.bias", bias), axis=-1, epsilon=eps,
        )  # fmt: skip
        return self.to_activations(normal)

    def rms_norm(self, x: Value, name: str, weight: AnyArray, eps: float) -> Value:
        """x / sqrt(mean(x^2) + eps) * weight; statistics in fp32, the weight applied after casting back."""
        x = self.to_fp32(x)
        mean = self.op("ReduceMean", self.op("Pow", x, self.real(2.0)), self.ints(-1), keepdims=1)
        normal = self.div(x, self.op("Sqrt", self.add(mean, self.real(eps))))
        return self.mul(self.to_activations(normal), self.weight(f"{name}.weight", weight))

    def silu(self, x: Value) -> Value:
        return self.mul(x, self.op("Sigmoid", x))

    def gelu_tanh(self, x: Value) -> Value:
        """0.5 x (1 + tanh(sqrt(2 / pi) x (1 + 0.044715 x^2))), a form that ONNX Runtime and OpenVINO fuse."""
        square = self.mul(x, self.mul(x, self.scalar(0.044715)))
        inner = self.mul(self.mul(x, self.scalar((2 / np.pi) ** 0.5)), self.add(square, self.scalar(1.0)))
        return self.mul(self.mul(x, self.scalar(0.5)), self.add(self.op("Tanh", inner), self.scalar(1.0)))

    def quick_gelu(self, x: Value) -> Value:
        return self.mul(x, self.op("Sigmoid", self.mul(x, self.scalar(1.702))))

    def attention(self, q: Value, k: Value, v: Value, head_dim: int, bias: Value | None) -> Value:
        """softmax(q k' / sqrt(head_dim) + bias) v, all 4-D: (B, heads, T, head_dim), keys (B, heads, P, ...).

        This form, with all heads spelled out, is what TensorRT fuses to one kernel.
        """
        scores = self.matmul(self.mul(q, self.scalar(head_dim**-0.5)), self.transpose(k, 0, 1, 3, 2))
        scores = self.to_fp32(scores)
        if bias is not None:
            scores = self.add(scores, bias)
        return self.matmul(self.to_activations(self.op("Softmax", scores, axis=-1)), v)
