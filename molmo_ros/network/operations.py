"""The operators of which the network is made, written straight into an ONNX graph.

``Operations`` collects nodes and weights; each method adds one operator and returns the name of its result.
Weights go to a ``WeightSink``: into the graph itself, or, for models beyond the 2 GB of a protobuf, straight
to a file beside it, one tensor at a time.

Only primitives of opset 18 are used, so that TensorRT 10.3 parses the result; rounded weights need the
``DequantizeLinear`` of opset 21.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper

from molmo_ros.datatypes import AnyArray
from molmo_ros.network.precision import FP32, Precision

OPSET = 18
ROUNDED_OPSET = 21

Value = str  # the name of a tensor in the graph
Dim = int | str | None


class RoundedMatrices(Protocol):
    """Matrices that were quantised beforehand, by the network's names; see ``checkpoint.rounded``."""

    def kind(self, name: str) -> str | None:
        """ "int4" or "int8", or None for a matrix that is not among them."""
        ...

    def matrix(self, name: str) -> Any:
        """Its integers, ``values``, and their ``scales``."""
        ...


class WeightSink:
    """Where the data of weights goes: embedded in the graph (no ``path``), or appended to a file.

    Small constants are always embedded, so that shape inference sees them.
    """

    EXTERNAL_BYTES = 1024
    ALIGNMENT = 64

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file: IO[bytes] | None = path.open("wb") if path else None

    def tensor(self, name: str, array: AnyArray) -> TensorProto:
        kind = int(helper.np_dtype_to_tensor_dtype(array.dtype))
        return self.raw(name, kind, array.shape, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def raw(self, name: str, kind: int, shape: Sequence[int], data: bytes | memoryview) -> TensorProto:
        """A tensor of any type from its bytes."""
        tensor = TensorProto(name=name, data_type=kind)
        tensor.dims.extend(shape)
        if self._file is None or self._path is None or len(data) < self.EXTERNAL_BYTES:
            tensor.raw_data = bytes(data)
            return tensor
        self._file.write(b"\0" * (-self._file.tell() % self.ALIGNMENT))
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self._path.name, "offset": self._file.tell(), "length": len(data)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._file.write(data)
        return tensor

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@dataclass
class Operations:
    """An ONNX graph under construction. ``rounded``: matrices that must not be rounded again; ``read_rows``
    (N,): the rows of a pass whose logits are read, the last ones."""

    name: str
    sink: WeightSink = field(default_factory=WeightSink)
    precision: Precision = FP32
    rounded: RoundedMatrices | None = None
    read_rows: Value | None = None
    _nodes: list[onnx.NodeProto] = field(default_factory=list)
    _weights: dict[str, TensorProto] = field(default_factory=dict)
    _inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    _outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    _count: int = 0  # operators so far, those in branches included

    # --- frame ---

    def input(self, name: str, dtype: int, shape: Sequence[Dim]) -> Value:
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, value: Value, name: str, dtype: int, shape: Sequence[Dim]) -> None:
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, list(self._weights.values())
        )
        rounded = self.precision.dequantises
        opset = [helper.make_opsetid("", ROUNDED_OPSET if rounded else OPSET)]
        opset += [helper.make_opsetid(domain, 1) for domain in sorted({n.domain for n in self._nodes} - {""})]
        version = 10 if rounded else 9
        return helper.make_model(graph, opset_imports=opset, ir_version=version, producer_name="molmo_ros")

    def op(self, kind: str, *inputs: Value, outputs: int = 1, **attributes: Any) -> Value:
        """Any operator with one result."""
        return self.ops(kind, *inputs, outputs=outputs, **attributes)[0]

    def ops(self, kind: str, *inputs: Value, outputs: int, **attributes: Any) -> list[Value]:
        self._count += 1
        names = [f"{kind}_{self._count}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def choose(self, condition: Value, then: Callable[[], Value], otherwise: Callable[[], Value]) -> Value:
        """The result of one of two ways to compute it; they share weights and everything before."""
        branches = {"then_branch": self._branch(then), "else_branch": self._branch(otherwise)}
        return self.op("If", condition, **branches)

    def _branch(self, compute: Callable[[], Value]) -> onnx.GraphProto:
        outer, self._nodes = self._nodes, []
        try:
            result = compute()
            output = helper.make_tensor_value_info(result, self.precision.activations, None)
            return helper.make_graph(self._nodes, f"branch_{self._count}", [], [output])
        finally:
            self._nodes = outer

    # --- constants and weights ---

    def weight(self, name: str, array: AnyArray) -> Value:
        """A tensor of the checkpoint under its own name, in the precision of activations."""
        if name not in self._weights:
            self._weights[name] = self.sink.tensor(name, array.astype(self.precision.dtype, copy=False))
        return name

    def fp32_weight(self, name: str, array: AnyArray) -> Value:
        if name not in self._weights:
            self._weights[name] = self.sink.tensor(name, array.astype(np.float32, copy=False))
        return name

    def int8_weight(self, name: str, values: AnyArray) -> Value:
        """Integers whose scale is applied elsewhere."""
        self._weights[name] = self.sink.tensor(name, values)
        return name

    def ints(self, *values: int) -> Value:
        """A 1-D int64 constant, shared by all uses of the same values."""
        return self._constant(f"ints_{'_'.join(map(str, values))}", np.array(values, dtype=np.int64))

    def index(self, name: str, values: Sequence[int]) -> Value:
        """A 1-D int64 constant, too long to be named after its values."""
        return self._constant(name, np.array(values, dtype=np.int64))

    def integer(self, value: int) -> Value:
        return self._constant(f"int_{value}", np.array(value, dtype=np.int64))

    def real(self, value: float) -> Value:
        return self._constant(f"float_{value!r}", np.array(value, dtype=np.float32))

    def _constant(self, name: str, array: AnyArray) -> Value:
        if name not in self._weights:
            self._weights[name] = WeightSink().tensor(name, array)
        return name

    # --- arithmetic and shape ---

    def add(self, a: Value, b: Value) -> Value:
        return self.op("Add", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.op("Sub", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.op("Mul", a, b)

    def div(self, a: Value, b: Value) -> Value:
        return self.op("Div", a, b)

    def matmul(self, a: Value, b: Value) -> Value:
        return self.op("MatMul", a, b)

    def reshape(self, x: Value, *shape: int) -> Value:
        """0 keeps a dimension, -1 takes what is left."""
        return self.op("Reshape", x, self.ints(*shape))

    def transpose(self, x: Value, *order: int) -> Value:
        return self.op("Transpose", x, perm=list(order))

    def concat(self, *values: Value, axis: int) -> Value:
        return self.op("Concat", *values, axis=axis)

    def split(self, x: Value, *sizes: int) -> list[Value]:
        """Along the last axis."""
        return self.ops("Split", x, self.ints(*sizes), outputs=len(sizes), axis=-1)

    def gather(self, x: Value, index: Value, axis: int = 0) -> Value:
        return self.op("Gather", x, index, axis=axis)

    def rows(self, x: Value, start: int, stop: int) -> Value:
        """x[:, start:stop]"""
        return self.op("Slice", x, self.ints(start), self.ints(stop), self.ints(1))

    def length(self, x: Value, axis: int) -> Value:
        """Size of one axis, a scalar."""
        return self.op("Squeeze", self.op("Shape", x, start=axis, end=axis + 1), self.ints(0))

    def arange(self, stop: Value) -> Value:
        return self.op("Range", self.integer(0), stop, self.integer(1))

    def cast(self, x: Value, dtype: int) -> Value:
        return self.op("Cast", x, to=dtype)

    def to_fp32(self, x: Value) -> Value:
        return x if self.precision.is_fp32 else self.cast(x, TensorProto.FLOAT)

    def to_activations(self, x: Value) -> Value:
        """Back from fp32 to the precision of activations."""
        return x if self.precision.is_fp32 else self.cast(x, self.precision.activations)

    # --- where fp16 would overflow ---

    def to_residual(self, x: Value) -> Value:
        """fp32 -> the type of the sum over the layers: fp32 for fp16, since it grows beyond 65504."""
        return x if self.precision.is_fp16 else self.to_activations(x)

    def residual_add(self, x: Value, h: Value) -> Value:
        """The sum over the layers and one more term in the precision of activations."""
        return self.add(x, self.to_fp32(h) if self.precision.is_fp16 else h)

    @contextmanager
    def fp32_region(self) -> Iterator[None]:
        """Everything within is fp32 where the rest is fp16; other precisions stay."""
        saved = self.precision
        if saved.is_fp16:
            self.precision = FP32
        try:
            yield
        finally:
            self.precision = saved

    def scalar(self, value: float) -> Value:
        """A constant in the precision of activations."""
        kind = int(self.precision.activations)
        return self._constant(f"scalar{kind}_{value!r}", np.array(value, dtype=self.precision.dtype))
