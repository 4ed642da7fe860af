"""One layer of the text model at a time, run by ONNX Runtime, with the inputs of its matrices as outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import Float32, Index
from molmo_ros.network.config import TextConfig
from molmo_ros.network.decoder import Read, rotary_table, self_attention, text_block_forward, visibility
from molmo_ros.network.graph import Graph, Value, WeightSink
from molmo_ros.network.precision import CPU_PRECISIONS
from molmo_ros.network.weights import text_block

OUT = "out"  # among the taps: the layer's own output
MIDDLE = "middle"  # the sum after attention
NORMED = "normed"  # the input of the feed-forward part


@dataclass
class TappedGraph(Graph):
    """A graph that remembers what goes into each of its matrices, its norms' results, and its sums."""

    seen: dict[str, Value] = field(default_factory=dict)
    made: dict[str, Value] = field(default_factory=dict)  # output of each matrix

    def linear(
        self, x: Value, name: str, weight: Any, bias: Any | None = None, *, head: bool = False
    ) -> Value:
        self.seen[f"{name}.weight"] = x
        self.made[f"{name}.weight"] = result = super().linear(x, name, weight, bias, head=head)
        return result

    def rms_norm(self, x: Value, name: str, weight: Any, eps: float) -> Value:
        normed = super().rms_norm(x, name, weight, eps)
        if name.endswith("ff_norm"):
            self.seen[NORMED] = normed
        return normed

    def residual_add(self, x: Value, h: Value) -> Value:
        total = super().residual_add(x, h)
        self.seen.setdefault(MIDDLE, total)
        self.seen[OUT] = total
        return total


class Block:
    """Layer ``index`` in fp32; it outputs the ``taps``: inputs of matrices by the matrix' name, or those
    above.

    ``changed``: tensors instead of the checkpoint's, by the network's name.
    """

    graph: type[TappedGraph] = TappedGraph

    def __init__(
        self, checkpoint: Checkpoint, index: int, changed: Mapping[str, Float32], taps: tuple[str, ...]
    ) -> None:
        import onnxruntime as ort

        def read(name: str) -> Float32:
            tensor = changed[name] if name in changed else checkpoint.weights.read(name)
            return np.asarray(tensor, np.float32)

        c = checkpoint.config.text
        self._empty = np.zeros((1, 0, c.num_kv_heads, c.head_dim), np.float32)
        with tempfile.TemporaryDirectory(prefix="molmo_ros.") as folder:  # a protobuf is limited to 2 GB
            sink = WeightSink(Path(folder) / "block.data")
            graph = self.graph("block", sink, CPU_PRECISIONS["fp32"])
            _build(graph, read, c, index)
            self._outputs = self._add_outputs(graph, taps)
            sink.close()
            path = Path(folder) / "block.onnx"
            path.write_bytes(graph.model().SerializeToString())
            options = ort.SessionOptions()
            options.log_severity_level = 3
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._wanted = {entry.name for entry in self._session.get_inputs()}

    def run(self, x: Float32, limits: Index) -> list[Float32]:
        """x (T,D), limits (T,): how far each token sees -> the taps, each (T,width)."""
        return self._run(x, limits, {})

    def _add_outputs(self, graph: TappedGraph, taps: tuple[str, ...]) -> list[str]:
        """Add the graph's outputs; return their names."""
        for tap in taps:
            graph.output(graph.seen[tap], f"tap_{tap}", TensorProto.FLOAT, None)  # type: ignore[arg-type]
        return [f"tap_{tap}" for tap in taps]

    def _run(self, x: Float32, limits: Index, more: Mapping[str, Float32]) -> list[Float32]:
        given = {
            "x": x[None], "position_ids": np.arange(len(x), dtype=np.int64), "kv_limit": limits,
            "past_len": np.array(0, np.int64), "past_key": self._empty, "past_value": self._empty, **more,
        }  # fmt: skip
        found = self._session.run(self._outputs, {k: v for k, v in given.items() if k in self._wanted})
        return [np.asarray(value, np.float32).reshape(len(x), -1) for value in found]


def _build(graph: TappedGraph, read: Read, c: TextConfig, index: int) -> None:
    x = graph.input("x", TensorProto.FLOAT, [1, "T", c.hidden_size])
    positions = graph.input("position_ids", TensorProto.INT64, ["T"])
    limit = graph.input("kv_limit", TensorProto.INT64, ["T"])
    past_len = graph.input("past_len", TensorProto.INT64, [])
    past = [
        graph.input(f"past_{kind}", TensorProto.FLOAT, [1, "P", c.num_kv_heads, c.head_dim])
        for kind in ("key", "value")
    ]
    bias = visibility(graph, limit, past_len, past[0], positions)
    bias = graph.concat(*[bias] * (c.num_heads // c.num_kv_heads), axis=2)  # heads that share keys, as rows
    rotary = rotary_table(graph, c, index, positions)

    def attend(i: int, h: Value, rows: Value | None) -> Value:
        return self_attention(graph, read, c, f"{text_block(i)}self_attn.", h, rotary, bias, past, rows)[0]

    text_block_forward(graph, read, c, index, x, attend)
