"""Good checkpoints of every layout, and bad ones: each error names the file and the fix."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_molmo2 import OLMO, QWEN, config_fields, random_weights, tokenizer, write_checkpoint

from molmo_ros.checkpoint.checkpoint import check_weights, load_checkpoint, open_weights, resolve
from molmo_ros.checkpoint.preprocess import preprocess
from molmo_ros.errors import CheckpointError, ParameterError
from molmo_ros.network.read_config import parse_config
from molmo_ros.network.weights import expected_shapes


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("ckpt") / "good")


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(good, tmp_path / "ckpt"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_single_and_sharded_read_the_same(good: Path, tmp_path: Path) -> None:
    one, two = load_checkpoint(str(good)), load_checkpoint(str(write_checkpoint(tmp_path / "s", shards=3)))
    assert len(two.weights.files) == 3 and one.weights.shapes == two.weights.shapes
    for name in one.weights.shapes:
        np.testing.assert_array_equal(one.weights.read(name), two.weights.read(name))
    assert one.config == two.config
    name = "model.transformer.wte.embedding"
    rows = np.array([3, 0, 3])
    np.testing.assert_array_equal(one.weights.rows(name, rows), one.weights.read(name)[rows])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_files(folder: Path, dtype: str) -> None:
    import ml_dtypes
    from safetensors.numpy import save_file

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    weights = {k: v.astype(kind) for k, v in random_weights(config_fields(QWEN)).items()}
    save_file(weights, folder / "model.safetensors")
    name = "model.transformer.wte.embedding"
    read = load_checkpoint(str(folder)).weights.read(name)
    np.testing.assert_array_equal(read, weights[name].astype(np.float32))
    assert read.dtype == np.float32


@pytest.mark.parametrize("text", [QWEN, OLMO], ids=["qwen", "olmo"])
def test_both_vocabularies_of_config(text: dict[str, Any], tmp_path: Path) -> None:
    """What newer transformers writes for the same model reads the same."""
    configuration = pytest.importorskip("transformers.models.molmo2.configuration_molmo2")
    fields = config_fields(text)
    configuration.Molmo2Config(**fields).save_pretrained(tmp_path)
    newer = json.loads((tmp_path / "config.json").read_text())
    assert "vision_config" in newer and "vit_config" not in newer
    assert parse_config(newer) == parse_config(fields)


OFFICIAL_4B = {
    "model_type": "molmo2",
    "vit_config": {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "head_dim": 72, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "image_patch_size": 14,
        "image_default_input_size": [378, 378], "image_num_pos": 729,
    },
    "adapter_config": {
        "hidden_size": 1152, "intermediate_size": 9728, "num_attention_heads": 16, "head_dim": 72,
        "text_hidden_size": 2560, "vit_layers": [-3, -9],
    },
    "text_config": {
        "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "additional_vocab_size": 128,
        "layer_norm_eps": 1e-6, "norm_after": False, "qk_norm_type": "qwen3", "qkv_bias": False,
        "use_qk_norm": True, "rope_theta": 5e6, "rope_scaling": None, "rope_scaling_layers": None,
        "max_position_embeddings": 36864,
    },
}  # fmt: skip
TEXT_8B = {"hidden_size": 4096, "intermediate_size": 12288, "rope_theta": 1e6}
TEXT_O7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_key_value_heads": 32,
    "vocab_size": 100278, "norm_after": True, "qk_norm_type": "olmo", "rope_theta": 5e5,
    "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.20794, "beta_fast": 32.0,
                     "beta_slow": 1.0, "original_max_position_embeddings": 8192},
    "rope_scaling_layers": [3, 7, 11, 15, 19, 23, 27, 31],
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "connector", "parameters"),
    [({}, 9728, 4_850_869_200), (TEXT_8B, 12288, 8.66e9), (TEXT_O7B, 11008, 7.76e9)],
    ids=["4B", "8B", "O-7B"],
)
def test_official_sizes(text: dict[str, Any], connector: int, parameters: float) -> None:
    """The published number of parameters, that of 4B from its weight index, follows from our table."""
    fields = {
        **OFFICIAL_4B,
        "adapter_config": {**OFFICIAL_4B["adapter_config"], "intermediate_size": connector,
                           "text_hidden_size": text.get("hidden_size", 2560)},
        "text_config": {**OFFICIAL_4B["text_config"], **text},
    }  # fmt: skip
    config = parse_config(fields)
    assert config.vision.num_layers == 25 and config.vision.taps == (24, 18)
    total = sum(int(np.prod(shape)) for shape in expected_shapes(config).values())
    assert total == parameters if isinstance(parameters, int) else abs(total / parameters - 1) < 2e-3


def test_official_key_names() -> None:
    """Names seen in the weight index of Molmo2-4B."""
    shapes = expected_shapes(parse_config(OFFICIAL_4B))
    for name, shape in {
        "lm_head.weight": (151936, 2560),
        "model.transformer.wte.new_embedding": (128, 2560),
        "model.transformer.blocks.35.self_attn.att_proj.weight": (6144, 2560),
        "model.transformer.blocks.0.self_attn.q_norm.weight": (128,),
        "model.transformer.blocks.0.mlp.ff_proj.weight": (19456, 2560),
        "model.vision_backbone.image_vit.patch_embedding.weight": (1152, 588),
        "model.vision_backbone.image_vit.transformer.resblocks.24.attention.wo.bias": (1152,),
        "model.vision_backbone.image_pooling_2d.wq.weight": (1152, 2304),
        "model.vision_backbone.image_projector.w2.weight": (2560, 9728),
    }.items():
        assert shapes[name] == shape


def test_full_size_layout_without_data(tmp_path: Path) -> None:
    """The 4B layout as a sparse file: everything is checked, nothing is read."""
    config = parse_config(OFFICIAL_4B)
    shapes = expected_shapes(config)
    shapes |= {  # a block above the taps may be stored
        n.replace("resblocks.0.", "resblocks.25."): s for n, s in shapes.items() if "resblocks.0." in n
    }
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + offset)
    weights = open_weights(tmp_path)
    check_weights(weights, config, tmp_path)
    assert weights.rows("model.transformer.wte.embedding", np.array([151935])).shape == (1, 2560)


def spoil_truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def spoil_shape(folder: Path) -> None:
    rewrite(folder, lambda w: w.update({"lm_head.weight": w["lm_head.weight"][:, :-1].copy()}))


def spoil_missing_key(folder: Path) -> None:
    rewrite(folder, lambda w: w.pop("model.transformer.ln_f.weight"))


def spoil_left_over(folder: Path) -> None:
    rewrite(
        folder, lambda w: w.update({"model.transformer.blocks.9.attn_norm.weight": np.ones(3, np.float32)})
    )


def spoil_integers(folder: Path) -> None:
    rewrite(folder, lambda w: w.update({"model.transformer.ln_f.weight": np.ones(64, np.int8)}))


def rewrite(folder: Path, change: Any) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def spoil_shard(folder: Path) -> None:
    shutil.rmtree(folder)
    write_checkpoint(folder, shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()


def spoil_shard_content(folder: Path) -> None:
    shutil.rmtree(folder)
    write_checkpoint(folder, shards=2)
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors")


def spoil_shard_name(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret"}}))


def spoil_tokenizer(folder: Path) -> None:
    tokenizer(410).save(str(folder / "tokenizer.json"))


def spoil_vocabulary(folder: Path) -> None:
    tokenizer(500).save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"config\.json is missing; download"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json is not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), r"config\.json holds no record"),
        (
            lambda f: edit(f / "config.json", model_type="llava"),
            r'model_type is "llava"; known are molmo, molmo2',
        ),
        (lambda f: edit(f / "config.json", model_type="molmo"), r"field .hidden_size. is missing"),
        (lambda f: edit(f / "config.json", text_config={}), r"config\.json: field 'num_hidden_layers'"),
        (lambda f: edit(f / "config.json", text_config=7), r"config\.json: a field has a wrong type"),
        (lambda f: (f / "preprocessor_config.json").unlink(), r"preprocessor_config\.json is missing"),
        (
            lambda f: edit(f / "preprocessor_config.json", patch_size=2),
            r"patches of 2 px, but the model wants",
        ),
        (lambda f: edit(f / "preprocessor_config.json", size=None), r"field missing or unreadable"),
        (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
        (lambda f: (f / "model.safetensors").unlink(), r"has neither model\.safetensors nor"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),  # a pickle may be code
            r"has neither model\.safetensors nor",
        ),
        (spoil_truncated, r"model\.safetensors \(\d+ bytes\) is truncated or damaged"),
        (spoil_shape, r"lm_head\.weight has shape \(400, 63\), expected \(400, 64\)"),
        (spoil_missing_key, r"1 tensors are missing \(model\.transformer\.ln_f\.weight\)"),
        (spoil_left_over, r"1 tensors are left over \(model\.transformer\.blocks\.9"),
        (spoil_integers, r"ln_f\.weight is stored as I8"),
        (spoil_shard, r"model-00002-of-00002\.safetensors is missing; download this shard"),
        (spoil_shard_content, r"lacks .*, which .*index\.json promises"),
        (spoil_shard_name, r"'\.\./secret', which is not a file name"),
        (spoil_tokenizer, r"image_patch_id at 412, config\.json at 402"),
        (spoil_vocabulary, r"ids up to 504, but the model knows 416"),
    ],
)
def test_bad_checkpoint(folder: Path, spoil: Any, message: str) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("name", ["no-such-folder", "/no/such/folder", "./none", "a/b/c"])
def test_no_such_folder(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint folder|hub cache"):
        resolve(name)


def test_hub_cache(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"fetch it first: .* allenai/Molmo2-4B"):
        resolve("allenai/Molmo2-4B")
    repo = tmp_path / "models--allenai--Molmo2-4B"
    for commit in ("aaa", "bbb"):
        shutil.copytree(good, repo / "snapshots" / commit)
    assert resolve("allenai/Molmo2-4B").parent == repo / "snapshots"
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("aaa\n")
    assert resolve("allenai/Molmo2-4B") == repo / "snapshots" / "aaa"


def test_built_in_checkpoint_loads() -> None:
    checkpoint = load_checkpoint("tiny")
    assert checkpoint.image.max_crops == 0 and checkpoint.config.vision.image_size == 160
    assert sum(f.stat().st_size for f in checkpoint.folder.iterdir()) < 10e6


def test_another_number_of_crops(good: Path) -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    own = load_checkpoint(str(good))
    fewer = load_checkpoint(str(good), max_crops=1)
    assert own.image.max_crops > 1
    assert len(preprocess(image, fewer.image).crops) == 2 < len(preprocess(image, own.image).crops)
    with pytest.raises(ParameterError, match="max_crops is 37; for this checkpoint it must be 1 to 36"):
        load_checkpoint(str(good), max_crops=37)
    with pytest.raises(ParameterError, match="max_crops is 4; for this checkpoint it must be 0"):
        load_checkpoint("tiny", max_crops=4)
