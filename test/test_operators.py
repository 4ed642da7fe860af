"""Every node of every generation's graphs is one that the parser of TensorRT 10.3 takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import tiny_molmo1
import tiny_molmo2
import tiny_molmo_point
import yaml

from molmo_ros.checkpoint.checkpoint import load_checkpoint
from molmo_ros.network.graph import WeightSink
from molmo_ros.network.precision import GPU_PRECISIONS
from molmo_ros.runtimes.export import DECODER, VISION, build_graph

TABLE: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "golden/tensorrt_operators.yaml").read_text())
TYPES = {op: TABLE["types"][kind] for kind, ops in TABLE["operators"].items() for op in ops}

WRITERS: dict[str, Callable[[Path], Path]] = {
    "molmo2 qwen": lambda path: tiny_molmo2.write_checkpoint(path, tiny_molmo2.QWEN),
    "molmo2 olmo": lambda path: tiny_molmo2.write_checkpoint(path, tiny_molmo2.OLMO),
    "v1 qwen": lambda path: tiny_molmo1.write_checkpoint(path, tiny_molmo1.QWEN2),
    "v1 olmo": lambda path: tiny_molmo1.write_checkpoint(path, tiny_molmo1.OLMO),
    "molmoe": lambda path: tiny_molmo1.write_checkpoint(path, tiny_molmo1.MIXTURE),
    "molmo point": tiny_molmo_point.write_checkpoint,
}


@pytest.mark.parametrize("generation", WRITERS)
def test_all_nodes_are_known_to_the_parser(generation: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(WRITERS[generation](tmp_path / "ckpt")))
    for precision in GPU_PRECISIONS.values():
        for part in (VISION, DECODER):
            model = onnx.load_from_string(build_graph(checkpoint, part, WeightSink(), precision))
            assert problems(model) == [], (precision.name, part)


def problems(model: onnx.ModelProto) -> list[str]:
    """What the parser would not take."""
    lowest, highest = TABLE["opset"]
    found = [f"opset {o.domain} {o.version}" for o in model.opset_import if o.domain]
    found += [f"opset {o.version}" for o in model.opset_import if not lowest <= o.version <= highest]
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    kinds, constants = {}, set()
    for graph in graphs(model.graph):
        constants |= {w.name for w in graph.initializer}
        kinds |= {w.name: w.data_type for w in graph.initializer}
        values = [*graph.input, *graph.value_info, *graph.output]
        kinds |= {v.name: v.type.tensor_type.elem_type for v in values}
    for node in (node for graph in graphs(model.graph) for node in graph.node):
        if node.op_type not in TYPES:
            found.append(f"operator {node.op_type}")
            continue
        for i, name in enumerate(node.input):
            kind = onnx.TensorProto.DataType.Name(kinds[name]) if name else ""
            if name and kind not in TYPES[node.op_type]:
                found.append(f"{node.op_type} of {kind}")
            if i in TABLE["constants"].get(node.op_type, ()) and name not in constants:
                found.append(f"input {i} of {node.op_type} is no constant")
    return found


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those of its branches."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def test_what_it_would_not_take_is_found() -> None:
    """A graph with an unknown operator, a wrong type and an axis that is computed."""
    make, kinds = onnx.helper, onnx.TensorProto
    x = make.make_tensor_value_info("x", kinds.FLOAT, [2, 2])
    n = make.make_tensor_value_info("n", kinds.INT64, [1])
    nodes = [
        make.make_node("DynamicQuantizeLinear", ["x"], ["a", "b", "c"]),
        make.make_node("Cast", ["n"], ["n64"], to=kinds.DOUBLE),
        make.make_node("Softmax", ["n64"], ["d"]),
        make.make_node("ReduceSum", ["x", "n"], ["e"]),
    ]
    out = [make.make_tensor_value_info("e", kinds.FLOAT, None)]
    graph = make.make_graph(nodes, "bad", [x, n], out)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)])
    assert problems(model) == [
        "operator DynamicQuantizeLinear", "Softmax of DOUBLE", "input 1 of ReduceSum is no constant"
    ]  # fmt: skip
