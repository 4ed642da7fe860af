"""Products with rounded matrices whose kernel rounds activations too: where it matters, the residual of that
rounding goes through the kernel as well.

ONNX Runtime's ``MatMulNBits`` on a CPU rounds activations to 8 bits: the largest number of a block of a row
takes 127 steps. In the rows of an image and of a question that changes no answers; in the rows whose logits
are read it does. Such a row is split into what the kernel represents exactly, and the rest, which is at most
half a step, so that its own rounding is 254 times as fine: x = kept + left, x W = kept W + left W. Both are
rows of the one product, for which the weights are read once.
"""

from __future__ import annotations

from molmo_ros.network.operations import Operations, Value

_STEPS = 127.0
_LEAST = 1e-30  # in place of the largest number in a block of zeros
_END = (1 << 63) - 1


def product(graph: Operations, x: Value, weight: Value, block: int, read: Value) -> Value:
    """x (...,T,in) times ``weight`` (in,out), whose scales are those of ``block`` inputs.

    ``read`` (N,): the rows whose logits are read. They are the last of a pass; x may have no others.
    """
    length = graph.op("Shape", x, start=-2, end=-1)
    others = graph.sub(length, graph.op("Min", length, graph.op("Shape", read)))
    last = _rows(graph, x, others, graph.ints(_END))
    kept = _on_steps(graph, last, block)
    first = _rows(graph, x, graph.ints(0), others)
    stacked = graph.concat(first, kept, graph.sub(last, kept), axis=-2)
    y = graph.matmul(stacked, weight)
    total = graph.add(_rows(graph, y, others, length), _rows(graph, y, length, graph.ints(_END)))
    return graph.concat(_rows(graph, y, graph.ints(0), others), total, axis=-2)


def _rows(graph: Operations, x: Value, start: Value, stop: Value) -> Value:
    return graph.op("Slice", x, start, stop, graph.ints(-2))


def _on_steps(graph: Operations, x: Value, block: int) -> Value:
    """The nearest numbers that the kernel can represent, for each block of a row."""
    blocks = graph.reshape(x, -1, block)
    largest = graph.op("ReduceMax", graph.op("Abs", blocks), graph.ints(-1), keepdims=1)
    step = graph.div(graph.op("Max", largest, graph.real(_LEAST)), graph.real(_STEPS))
    kept = graph.mul(graph.op("Round", graph.div(blocks, step)), step)
    return graph.op("Reshape", kept, graph.op("Shape", x), allowzero=1)  # a pass may read nothing
