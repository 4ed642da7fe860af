"""Peak memory of turning a large sharded checkpoint into graphs, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_official import molmo2, molmo2_names, write_sparse
from tiny_molmo2 import write_checkpoint

MEASURE = """
import resource, sys
from pathlib import Path
import onnx, ml_dtypes, safetensors  # libraries are not what is measured
from molmo_ros.checkpoint.checkpoint import load_checkpoint
from molmo_ros.runtimes.export import export
from molmo_ros.network.precision import CPU_PRECISIONS

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
checkpoint = load_checkpoint(sys.argv[1])
opened = peak()
export(checkpoint, Path(sys.argv[2]), CPU_PRECISIONS["fp16"])
print(before, opened, peak(), checkpoint.weights.parameters)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A fifth of a billion parameters in fp32, in eleven shards."""
    folder = write_checkpoint(tmp_path_factory.mktemp("large") / "large", size=378, patch=14, margins=(4, 4))
    (folder / "model.safetensors").unlink()
    text = {"vocab_size": 400, "num_attention_heads": 8, "num_key_value_heads": 4}
    fields = molmo2(1024, 3072, 12, **text)
    fields["vit_config"] |= {"num_hidden_layers": 10}
    fields["adapter_config"] |= {"vit_layers": [1, 0]}
    fields["text_config"] |= {"head_dim": 128}
    (folder / "config.json").write_text(json.dumps(fields))
    shapes = {n: s for n, s in molmo2_names(fields).items() if "resblocks" not in n or "blocks.0." in n}
    shapes |= {n: s for n, s in molmo2_names(fields).items() if "resblocks.1." in n}
    write_sparse(folder, shapes, "F32", shards=11)
    return folder, fields


def test_peak_memory(large: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Above the libraries at most one shard and 150 MB, whatever the whole; fp32 becomes fp16."""
    folder, _ = large
    command = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / "graphs")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, opened, peak, parameters = map(int, done.stdout.split())
    shard = max(f.stat().st_size for f in folder.glob("*.safetensors"))
    allowed = shard + 150e6
    assert parameters * 4 > 3 * allowed, "the checkpoint must be much larger than what is allowed"
    assert opened - before < 100e6
    assert peak - before < allowed
