"""The graph's operators as ONNX Runtime has them ready made: a tenth of the kernels, for its CUDA provider.

On a GPU, a pass over one token is a thousand small kernels, and starting them takes longer than reading the
weights. These operators are ONNX Runtime's own (domain com.microsoft); no other runtime knows them. All exist
there in fp32, fp16 and bf16, and compute norms and softmax in fp32 within. None of them needs a copy from the
host while it runs, as Concat and Split of unequal parts do, so a pass can be captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import TensorProto, helper

from molmo_ros.datatypes import AnyArray
from molmo_ros.network.graph import Dim, Graph, Value

DOMAIN = "com.microsoft"


@dataclass
class FusedGraph(Graph):
    """See the module."""

    def linear_parts(
        self, x: Value, name: str, weight: AnyArray, sizes: Sequence[int], bias: AnyArray | None = None
    ) -> list[Value]:
        """A product for each part, which costs no more than one product and its split."""
        parts, start = [], 0
        for i, size in enumerate(sizes):
            rows = slice(start, start + size)
            part = None if bias is None else bias[rows]
            parts.append(self.linear(x, f"{name}.{i}", weight[rows], part))
            start += size
        return parts

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
        """q (G,R,K) look at keys and values (P,G,K), read as they lie in the cache; bias (R,P) -> (G,R,K)."""
        scores = self.op("FusedMatMul", q, keys, transB=1, transBatchB=1, alpha=scale, domain=DOMAIN)
        chances = self.op("Softmax", self.add(scores, bias), axis=-1)
        return self.op("FusedMatMul", chances, values, transBatchB=1, domain=DOMAIN)

    def write_rows(
        self, old: Value, at: Value, rows: Value, name: str, dtype: int, shape: Sequence[Dim]
    ) -> Value:
        """The output ``name``: ``old`` (P,...) with ``rows`` (T,...) at the places ``at`` (T,1).

        Bound to the memory of ``old``, it is written in place.
        """
        self._nodes.append(helper.make_node("ScatterND", [old, at, rows], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def invisible(self) -> float:
        """What is added to the score of a key that is not seen."""
        return -6e4 if self.precision.activations == int(TensorProto.FLOAT16) else -1e9
