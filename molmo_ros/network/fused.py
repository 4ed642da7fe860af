"""The graph's operators as ONNX Runtime's ready-made fused ones: a tenth of the kernels, for its CUDA
provider.

On a GPU, a pass over one token is a thousand small kernels, and starting them takes longer than reading the
weights. These operators are ONNX Runtime's own (domain com.microsoft); no other runtime knows them. All exist
there in fp32, fp16 and bf16, and compute norms and softmax in fp32 internally. None of them needs a copy from
the host while it runs, as Concat and Split of unequal parts do, so a pass can be captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto, helper

from molmo_ros.datatypes import AnyArray
from molmo_ros.network.graph import Dim, Graph, Value
from molmo_ros.network.precision import block_size, pack_int4, round_blocks, unpack_int4

DOMAIN = "com.microsoft"


@dataclass
class FusedGraph(Graph):
    """See the module. ``_cut``: parts of a fused projection, by name: its name and their rows of it."""

    _cut: dict[str, tuple[str, slice]] = field(default_factory=dict)

    def linear_parts(
        self, x: Value, name: str, weight: AnyArray, sizes: Sequence[int], bias: AnyArray | None = None
    ) -> list[Value]:
        """A product for each part, which costs no more than one product and its split."""
        parts, start = [], 0
        for i, size in enumerate(sizes):
            rows = slice(start, start + size)
            part = None if bias is None else bias[rows]
            self._cut[f"{name}.{i}.weight"] = f"{name}.weight", rows
            parts.append(self.linear(x, f"{name}.{i}", weight[rows], part))
            start += size
        return parts

    def _held_kind(self, name: str) -> str | None:
        return super()._held_kind(self._cut.get(name, (name, slice(None)))[0])

    def _rounded_product(self, x: Value, name: str, weight: AnyArray, kind: str) -> Value:
        """With the kernel that reads integers with a scale for each block of inputs.

        Its B is (out,blocks,bytes of a block), its scales are (out,blocks), and 2^(bits-1) stands for 0.
        """
        outputs, inputs = weight.shape
        bits, block = (4 if kind == "int4" else 8), block_size(inputs)
        values, scales = self._blocks(name, weight, bits, block)
        if bits == 4:
            content = np.frombuffer(pack_int4(np.ascontiguousarray(values.T) ^ -8), np.uint8)
        else:
            content = np.ascontiguousarray(values.T).view(np.uint8) ^ np.uint8(128)
        integers = f"{name}.{kind}"
        shape = outputs, inputs // block, block * bits // 8
        self._weights[integers] = self.sink.tensor(integers, content.reshape(shape))
        scale = self.weight(f"{name}.scale", np.ascontiguousarray(scales.T))
        sizes = {"K": inputs, "N": outputs, "bits": bits, "block_size": block}
        return self.op("MatMulNBits", x, integers, scale, domain=DOMAIN, **sizes)

    def _blocks(self, name: str, weight: AnyArray, bits: int, block: int) -> tuple[AnyArray, AnyArray]:
        """Integers (in,out) and scales (in/block,out): made beforehand, or rounded to nearest."""
        whole, rows = self._cut.get(name, (name, slice(None)))
        if self.rounded is None or self.rounded.kind(whole) is None:
            return round_blocks(weight, bits, block)
        held = self.rounded.matrix(whole)
        values = held.values if bits == 8 else unpack_int4(held.values, held.shape)
        scales = np.broadcast_to(held.scales, (weight.shape[1] // block, values.shape[1]))
        return values[:, rows], scales[:, rows]

    def layer_norm(self, x: Value, name: str, weight: AnyArray, bias: AnyArray, eps: float) -> Value:
        if self.precision.is_fp16:  # x is fp32
            return super().layer_norm(x, name, weight, bias, eps)
        scale, shift = self.weight(f"{name}.weight", weight), self.weight(f"{name}.bias", bias)
        return self.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=eps)

    def rms_norm(self, x: Value, name: str, weight: AnyArray, eps: float) -> Value:
        scale = self.weight(f"{name}.weight", weight)
        return self.op("SimplifiedLayerNormalization", x, scale, axis=-1, epsilon=eps, stash_type=1)

    def silu(self, x: Value) -> Value:
        return self.op("QuickGelu", x, alpha=1.0, domain=DOMAIN)

    def quick_gelu(self, x: Value) -> Value:
        return self.op("QuickGelu", x, alpha=1.702, domain=DOMAIN)

    def gelu_tanh(self, x: Value) -> Value:
        return self.op("FastGelu", x, domain=DOMAIN)

    def full_attention(self, q: Value, k: Value, v: Value, heads: int) -> Value:
        """q (B,T,heads*K), k and v (B,P,heads*K) -> (B,T,heads*K); every token sees all keys."""
        return self.op("MultiHeadAttention", q, k, v, num_heads=heads, domain=DOMAIN)

    def rotate(self, x: Value, positions: Value, cosines: Value, sines: Value) -> Value:
        """Rotary embedding, half-split form; x (1,T,heads*K), positions (1,T), tables (M,K/2)."""
        return self.op("RotaryEmbedding", x, positions, cosines, sines, domain=DOMAIN)

    def grouped_attention(self, q: Value, keys: Value, values: Value, scale: float, bias: Value) -> Value:
        """q (G,R,K) attend to keys and values (P,G,K), read as they lie in the cache; bias (R,P) ->
        (G,R,K)."""
        scores = self.op("FusedMatMul", q, keys, transB=1, transBatchB=1, alpha=scale, domain=DOMAIN)
        chances = self.op("Softmax", self.add(scores, bias), axis=-1)
        return self.op("FusedMatMul", chances, values, transBatchB=1, domain=DOMAIN)

    def write_rows(
        self, old: Value, at: Value, rows: Value, name: str, dtype: int, shape: Sequence[Dim]
    ) -> Value:
        """The output ``name``: ``old`` (P,...) with ``rows`` (T,...) at the positions ``at`` (T,1).

        Bound to the memory of ``old``, it is written in place.
        """
        self._nodes.append(helper.make_node("ScatterND", [old, at, rows], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def invisible(self) -> float:
        """What is added to the score of a key that is not seen."""
        return -6e4 if self.precision.activations == int(TensorProto.FLOAT16) else -1e9
