"""Write a trained mask network as ONNX, its weights in 16 bits."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from molmo_ros.perception.learned_mask import CROP
from molmo_ros.tools.segmenter.model import MaskNet

INPUTS = ("rgb", "depth", "rays", "point", "plane")
LEAST_ELEMENTS = 256  # of a tensor that is worth 16 bits


def export(run: Path, out: Path) -> Path:
    """Write the network of a run to a file."""
    import onnx

    net = MaskNet()
    net.load_state_dict(load_file(run / "mask.safetensors"))
    net.eval()
    buffer = io.BytesIO()
    torch.onnx.export(
        net,
        example(),
        buffer,  # type: ignore[arg-type,unused-ignore]
        input_names=list(INPUTS),
        output_names=["logits", "iou"],
        opset_version=17,
        dynamo=False,
    )
    model = halved(onnx.load_from_string(buffer.getvalue()))
    onnx.checker.check_model(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(model.SerializeToString())
    return out


def example() -> tuple[torch.Tensor, ...]:
    """Inputs of one crop: a table 1 m away."""
    step = 0.48 / CROP
    return (
        torch.full((1, CROP, CROP, 3), 128.0),
        torch.ones(1, CROP, CROP),
        torch.tensor([[-0.24, step, -0.24, step]]),
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.tensor([[0.0, 0.0, -1.0, 1.0]]),
    )


def halved(model: Any) -> Any:
    """Hold large weights in float16 and cast them when the model is loaded: half the file, the same speed."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < LEAST_ELEMENTS:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + "_16"))
        casts.append(helper.make_node("Cast", [name + "_16"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    print(export(args.run, args.out))


if __name__ == "__main__":
    main()
