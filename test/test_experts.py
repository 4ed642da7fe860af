"""MolmoE: its text model against transformers' OLMoE, and its two ways of storing experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from passes import run_logits
from tiny_molmo1 import MIXTURE, random_weights, write_checkpoint

from molmo_ros.answer.decoding import kv_limits
from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.network.experts import GATHERED_TOKENS
from molmo_ros.network.precision import CPU_PRECISIONS, GPU_PRECISIONS
from molmo_ros.network.read_config import parse_config
from molmo_ros.network.weights import Stored, layouts, stored_shapes
from molmo_ros.runtimes.base import Runtime
from molmo_ros.runtimes.describe import weight_bytes
from molmo_ros.runtimes.export import export
from molmo_ros.runtimes.select import load_runtime
from molmo_ros.tools.build_engine import profiles
from molmo_ros.tools.compile_trt import compile_onnx

TOKENS = 12


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(write_checkpoint(tmp_path_factory.mktemp("experts") / "e", MIXTURE)))


@pytest.fixture(scope="module")
def runtime(checkpoint: Checkpoint) -> Runtime:
    return load_runtime(checkpoint, "onnx", threads=1)


@pytest.fixture(scope="module")
def embeds(runtime: Runtime) -> np.ndarray:
    return runtime.embed(np.random.default_rng(0).integers(0, 256, TOKENS).tolist())


def forward(runtime: Runtime, embeds: np.ndarray, step: int) -> np.ndarray:
    """Logits of all tokens, ``step`` at a time."""
    cache, logits = runtime.new_cache(), []
    for start in range(0, len(embeds), step):
        part = embeds[start : start + step]
        logits.append(run_logits(runtime, part, kv_limits(start, 0, len(part)), cache, np.arange(len(part))))
    return np.concatenate(logits)


def reference(checkpoint: Checkpoint) -> Any:
    """transformers' OLMoE with our weights: the same block, without renormalised routing."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    c, read = checkpoint.config.text, checkpoint.weights.read
    assert c.experts is not None
    model = transformers.OlmoeForCausalLM(
        transformers.OlmoeConfig(
            vocab_size=c.vocab_size, hidden_size=c.hidden_size, intermediate_size=c.intermediate_size,
            num_hidden_layers=c.num_layers, num_attention_heads=c.num_heads, rms_norm_eps=c.norm_eps,
            num_key_value_heads=c.num_kv_heads, num_experts=c.experts.count, norm_topk_prob=False,
            num_experts_per_tok=c.experts.active, max_position_embeddings=c.max_positions,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta}, pad_token_id=None,
            attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    state = {
        "lm_head.weight": read("lm_head.weight"),
        "model.norm.weight": read("model.transformer.ln_f.weight"),
    }
    state["model.embed_tokens.weight"] = read("model.transformer.wte.embedding")
    for i in range(c.num_layers):
        ours, theirs = f"model.transformer.blocks.{i}.", f"model.layers.{i}."
        attention, mlp = f"{theirs}self_attn.", f"{ours}mlp."
        parts = np.split(read(f"{ours}self_attn.att_proj.weight"), 3)
        state |= {f"{attention}{p}_proj.weight": w for p, w in zip("qkv", parts, strict=True)}
        state |= {f"{attention}{p}_norm.weight": read(f"{ours}self_attn.{p}_norm.weight") for p in "qk"}
        state[f"{attention}o_proj.weight"] = read(f"{ours}self_attn.attn_out.weight")
        state[f"{theirs}input_layernorm.weight"] = read(f"{ours}attn_norm.weight")
        state[f"{theirs}post_attention_layernorm.weight"] = read(f"{ours}ff_norm.weight")
        state[f"{theirs}mlp.gate.weight"] = read(f"{mlp}gate.weight")
        gate_up = [read(f"{mlp}experts.{part}.weight") for part in ("gate_proj", "up_proj")]
        state[f"{theirs}mlp.experts.gate_up_proj"] = np.concatenate(gate_up, axis=1)
        state[f"{theirs}mlp.experts.down_proj"] = read(f"{mlp}experts.down_proj.weight")
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(w)) for name, w in state.items()})
    return model


def test_logits_of_olmoe(checkpoint: Checkpoint, runtime: Runtime, embeds: np.ndarray) -> None:
    """All tokens at once go through all experts, one at a time each gathers its own: both as OLMoE."""
    torch = pytest.importorskip("torch")
    with torch.inference_mode():
        expected = reference(checkpoint)(inputs_embeds=torch.from_numpy(embeds)[None]).logits[0].numpy()
    assert GATHERED_TOKENS < TOKENS
    np.testing.assert_allclose(forward(runtime, embeds, TOKENS), expected, atol=1e-5)
    np.testing.assert_allclose(forward(runtime, embeds, 1), expected, atol=1e-5)


def test_gathered_equals_everywhere(runtime: Runtime, embeds: np.ndarray) -> None:
    one, all_at_once = forward(runtime, embeds, 1), forward(runtime, embeds, TOKENS)
    np.testing.assert_allclose(one, all_at_once, atol=1e-5)
    np.testing.assert_allclose(forward(runtime, embeds, GATHERED_TOKENS), all_at_once, atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "int4", "int8_dynamic"])
def test_rounded_experts(precision: str, checkpoint: Checkpoint, embeds: np.ndarray, tmp_path: Path) -> None:
    """8 bits each, on both ways; near to fp32; and the files are as large as they are said to be."""
    exact = forward(load_runtime(checkpoint, "onnx", threads=1), embeds, TOKENS)
    runtime = load_runtime(checkpoint, "onnx", precision, threads=1)
    for step in (1, TOKENS):
        rounded = forward(runtime, embeds, step)
        cosine = (rounded * exact).sum() / np.linalg.norm(rounded) / np.linalg.norm(exact)
        assert cosine > (0.99 if precision == "int4" else 0.999) and not np.array_equal(rounded, exact)
    held = CPU_PRECISIONS[precision]
    export(checkpoint, tmp_path / "graphs", held)
    graphs = [onnx.load(str(tmp_path / "graphs" / f"{part}.onnx")).graph for part in ("vision", "decoder")]
    weights = [w for graph in graphs for w in graph.initializer]
    kinds = {w.data_type for w in weights if w.name.endswith("_proj.weight.int8") and ".experts." in w.name}
    assert kinds == {onnx.TensorProto.INT8}
    size = sum(len(w.raw_data) for w in weights)
    if precision != "int8_dynamic":  # vision is rounded too there, which is not told
        assert size == pytest.approx(weight_bytes(checkpoint.config, held), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "int4"])
def test_tensorrt_compiles_it(precision: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13 to compile in tests")
    export(checkpoint, tmp_path / "graphs", GPU_PRECISIONS[precision])
    source, ranges = tmp_path / "graphs" / "decoder.onnx", profiles(checkpoint, 1024)["decoder"][:1]
    compiled = compile_onnx("tensorrt_rtx", source, tmp_path / "plan", ranges, 86)
    assert compiled.attention_kernels == checkpoint.config.text.num_layers


@pytest.mark.parametrize("layout", [1, 2], ids=["head-in-transformer", "stacked"])
def test_other_layouts_read_the_same(layout: int, checkpoint: Checkpoint, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = write_checkpoint(tmp_path / "other", MIXTURE, layout=layout)
    stored = layouts(checkpoint.config)[layout]
    parts = {name: cut(checkpoint.weights.read(name), where) for name, where in stored.items()}
    save_file({k: v for part in parts.values() for k, v in part.items()}, folder / "model.safetensors")
    other = load_checkpoint(str(folder)).weights
    for name in stored:
        np.testing.assert_array_equal(other.read(name), checkpoint.weights.read(name))


def cut(tensor: np.ndarray, where: Stored) -> dict[str, np.ndarray]:
    """A tensor of the network as a layout stores it."""
    if not where.experts or len(where.names) > 1:
        pieces = tensor if where.experts else tensor[None]
        return dict(zip(where.names, map(np.ascontiguousarray, pieces), strict=True))
    turned = tensor.transpose(0, 2, 1) if where.transposed else tensor
    return {where.names[0]: np.ascontiguousarray(turned).reshape(where.shape)}


def test_an_answer(checkpoint: Checkpoint) -> None:
    model = Molmo.load(str(checkpoint.folder), "onnx", threads=1)
    answer = model.answer(np.zeros((40, 70, 3), np.uint8), "Point to the mug.", max_new_tokens=3)
    assert 1 <= len(answer.token_ids) <= 3


def test_released_names() -> None:
    """The names of the released file, one expert each."""
    names = stored_shapes(layouts(parse_config(MIXTURE))[0])
    assert names["model.transformer.blocks.1.mlp.experts.7.down_proj.weight"] == (64, 32)
    assert {"model.transformer.blocks.0.attn.attn_norm.weight", "lm_head.weight",
            "model.transformer.blocks.0.mlp.ff_norm.weight"} < names.keys()  # fmt: skip
    assert names.keys() == random_weights(MIXTURE).keys()
