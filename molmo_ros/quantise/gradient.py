"""Gradients through a graph: nodes that carry the gradient at a result back to what it was computed from.

Reverse-mode differentiation of the operators that a layer is made of, as more nodes of the same graph, so
that ONNX Runtime computes them and no training framework is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from molmo_ros.network.graph import Value
from molmo_ros.quantise.blocks import TappedGraph

# Graph, node, gradients at its outputs (None where there is none), index of an input -> gradient there.
Rule = Callable[["GradientGraph", onnx.NodeProto, list[Value | None], int], Value]


@dataclass
class GradientGraph(TappedGraph):
    """A graph that can be differentiated."""

    def backward(self, start: Value, end: Value, given: Value) -> dict[Value, Value]:
        """Gradients at all values between ``start`` and ``end``, by name, from the one ``given`` at the end.

        Raises: NotImplementedError for an operator without a rule.
        """
        nodes = list(self._nodes)
        moving = {start}  # what depends on the start
        for node in nodes:
            if moving.intersection(node.input) and node.op_type != "Shape":
                moving.update(node.output)
        found = {end: given}
        for node in reversed(nodes):
            at_outputs = [found.get(name) for name in node.output]
            if not any(at_outputs):
                continue
            for k, name in enumerate(node.input):
                if name in moving:
                    part = _rule(node)(self, node, at_outputs, k)
                    found[name] = self.add(found[name], part) if name in found else part
        return found

    def size(self, x: Value, axis: int) -> Value:
        """Length of an axis as a list of one."""
        return self.op("Gather", self.op("Shape", x), self.ints(axis), axis=0)

    def sum_last(self, x: Value) -> Value:
        return self.op("ReduceSum", x, self.ints(-1), keepdims=1)


def _rule(node: onnx.NodeProto) -> Rule:
    if node.op_type not in RULES:
        raise NotImplementedError(f"{node.op_type} has no gradient; add a rule for it.")
    return RULES[node.op_type]


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return next(onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name)


def _only(gradients: list[Value | None]) -> Value:
    (value,) = gradients
    assert value is not None
    return value


def _same(graph: GradientGraph, node: onnx.NodeProto, g: list[Value | None], k: int) -> Value:
    """For sums: a term without the full shape is a constant here."""
    return _only(g)


def _negative(graph: GradientGraph, node: onnx.NodeProto, g: list[Value | None], k: int) -> Value:
    return graph.op("Neg", _only(g))


def _mul(graph: GradientGraph, node: onnx.NodeProto, g: list[Value | None], k: int) -> Value:
    return graph.mul(_only(g), node.input[1 - k])


def _div(graph: GradientGraph, node: onnx.NodeProto, g: list[Value | None], k: int) -> Value:
    """x / r, where r has one number for all of the last axis: dx = g / r, dr = -sum(g y) / r."""
    if k == 0:
        return graph.div(_only(g), node.input[1])
    return graph.op("Neg", graph.div(graph.sum_last(graph.mul(_only(g), node.output[0])), node.input[1]))


def _sqrt(graph: GradientGraph, node: onnx.NodeProto, g: list[Value | None], k: int) -> Value:
    return graph.div(_only(g), graph.mul(graph.real(2.0), node.output[0]))


def _square(graph: GradientGraph, node: onnx.NodeProto, g: list[Value | None], k: int) -> Value:
    """Pow with 2, the only one there is."""
    return graph.mul(graph.mul(_only(g), graph.real(2.0)), node.input[0])


def _mean(graph: GradientGraph, node: onnx.NodeProto, g: list[Value | None], k: int) -> Value:
    """Over the last axis; one number that stands for all of them."""
    return graph.div(_only(g), graph.cast(graph.size(node.input[0], -1), TensorProto.FLOAT))


def _matmul(graph: GradientGraph, node: onnx.NodeProto, g: list[Value | None], k: int) -> Value:
    """a b: da = g b', db = a' g; b is a constant (in,out), or both have four axes."""
    if k == 1:
        return graph.matmul(graph.transpose(node.input[0], 0, 1, 3, 2), _only(g))
    constant = node.input[1] in graph._weights
    return graph.matmul(_only(g), graph.transpose(node.input[1], *((1, 0) if constant else (0, 1, 3, 2))))


def _softmax(graph: GradientGraph, node: onnx.NodeProto, g: list[Value | None], k: int) -> Value:
    inner = graph.sum_last(graph.mul(_only(g), node.output[0]))
    return graph.mul(node.output[0], graph.sub(_only(g), inner))


def _sigmoid(graph: GradientGraph, node: onnx.NodeProto, g: list[Value | None], k: int) -> Value:
    slope = graph.mul(node.output[0], graph.sub(graph.real(1.0), node.output[0]))
    return graph.mul(_only(g), slope)


def _reshape(graph: GradientGraph, node: onnx.NodeProto, g: list[Value | None], k: int) -> Value:
    return graph.op("Reshape", _only(g), graph.op("Shape", node.input[0]))


def _transpose(graph: GradientGraph, node: onnx.NodeProto, g: list[Value | None], k: int) -> Value:
    return graph.transpose(_only(g), *np.argsort(_attribute(node, "perm")).tolist())


def _split(graph: GradientGraph, node: onnx.NodeProto, g: list[Value | None], k: int) -> Value:
    parts = [part or graph.mul(output, graph.real(0.0)) for output, part in zip(node.output, g, strict=True)]
    return graph.op("Concat", *parts, axis=_attribute(node, "axis"))


def _concat(graph: GradientGraph, node: onnx.NodeProto, g: list[Value | None], k: int) -> Value:
    axis = int(_attribute(node, "axis"))
    sizes = graph.concat(*(graph.size(part, axis) for part in node.input), axis=0)
    return graph.ops("Split", _only(g), sizes, outputs=len(node.input), axis=axis)[k]


RULES: dict[str, Rule] = {
    "Add": _same, "Mul": _mul, "Div": _div, "Neg": _negative, "Sqrt": _sqrt, "Pow": _square,
    "ReduceMean": _mean, "MatMul": _matmul, "Softmax": _softmax, "Sigmoid": _sigmoid,
    "Reshape": _reshape, "Transpose": _transpose, "Split": _split, "Concat": _concat,
}  # fmt: skip
