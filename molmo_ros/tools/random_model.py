"""A Molmo2 with random weights in the released layout, of a given size: for measuring speed.

Its answers make no sense, but it takes the time of a trained one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from molmo_ros.checkpoint.checkpoint import resolve
from molmo_ros.network.read_config import parse_config
from molmo_ros.network.weights import expected_shapes

if TYPE_CHECKING:
    from molmo_ros.checkpoint.checkpoint import Checkpoint

VOCABULARY = 32_000
VOCABULARY_4B = 151_936
LOUD = (62, 211, 390, 503, 768, 951)  # of 1024 channels
EXTRA = """
    <im_start> <im_end> <im_patch> <im_col> <low_res_im_start> <|image|> <im_low> <frame_start> <frame_end>
    <|video|>
""".split()  # noqa: SIM905 (a list of words reads best as one)


def cached_random_model() -> Path:
    """The checkpoint of about 230 million parameters, made on first use in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "molmo_ros"
    folder = cache / "random-molmo2-230m"
    if not (folder / "model.safetensors").is_file():
        write_random_model(folder)
    return folder


def write_random_model(folder: Path, layers: int = 12, crops: int = 8, *, loud: bool = False) -> None:
    """Text 200 M, vision 28 M parameters; crops of 378 px and at most 8 of them, as of Molmo2; fp16.

    ``layers`` of the text model. ``loud``: a few channels after each norm are 30 to 100 times as large as the
    others, like the outlier channels of large language models.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    fields = _config()
    fields["text_config"]["num_hidden_layers"] = layers
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    image = _preprocessor() | {"max_crops": crops}
    (folder / "preprocessor_config.json").write_text(json.dumps(image, indent=2) + "\n")
    _tokenizer(folder / "tokenizer.json")
    rng = np.random.default_rng(0)
    shapes = expected_shapes(parse_config(fields, str(folder / "config.json")))
    unfinished = folder / "unfinished.safetensors"  # a half-written file must not pass for the weights
    tensors = {name: _random(rng, name, shape) for name, shape in shapes.items()}
    for name in tensors if loud else ():
        if name.endswith(("attn_norm.weight", "ff_norm.weight")):
            tensors[name][list(LOUD)] = np.geomspace(30, 100, len(LOUD))
    save_file(tensors, unfinished)
    unfinished.rename(folder / "model.safetensors")


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Norms of 1, and matrices that preserve the magnitude of what goes through them."""
    if name.endswith(("norm.weight", "ln_f.weight")):
        return np.ones(shape, np.float16)
    scale = 0.02 if len(shape) == 1 or "embedding" in name else 0.7 / np.sqrt(shape[-1])
    return (rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)).astype(np.float16)


def open_full_size(folder: Path, layers: int = 36, vocabulary: int = VOCABULARY_4B) -> Checkpoint:
    """Molmo2-4B's layout with weights that are drawn as they are read: only small files go to ``folder``.

    ``layers`` of the text model and ``vocabulary``, where less is enough. Tensors are cut from one block of
    random numbers, so none takes longer than a copy.
    """
    from molmo_ros.checkpoint.checkpoint import Checkpoint
    from molmo_ros.checkpoint.preprocess import ImageConfig
    from molmo_ros.checkpoint.prompt import encoder_class

    folder.mkdir(parents=True, exist_ok=True)
    fields = _config_4b(layers, vocabulary)
    for name, content in (("config.json", fields), ("preprocessor_config.json", _preprocessor())):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    _tokenizer(folder / "tokenizer.json", vocabulary)
    config = parse_config(fields, str(folder / "config.json"))
    weights: Any = DrawnWeights(expected_shapes(config))
    return Checkpoint(
        folder, config, ImageConfig.parse(_preprocessor(), ""), encoder_class("molmo2").load(folder), weights
    )


class DrawnWeights:
    """Random tensors with the interface of ``checkpoint.Weights``, bf16 unless another type is requested."""

    files: tuple[Path, ...] = ()
    _SIZE = (1 << 24) + 4093  # so that rows of a matrix are not all the same

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        import ml_dtypes

        self.shapes = shapes
        self._kind = np.dtype(ml_dtypes.bfloat16)
        self._normal = np.random.default_rng(0).standard_normal(self._SIZE, dtype=np.float32)
        self._blocks: dict[float, np.ndarray] = {}

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    def read(self, name: str, dtype: Any = np.float32) -> np.ndarray:
        """Like that of ``Weights``."""
        shape = self.shapes[name]
        if name.endswith(("norm.weight", "ln_f.weight")):
            return np.ones(shape, self._kind if dtype is None else dtype)
        scale = 0.02 if len(shape) == 1 or "embedding" in name else 0.7 / float(np.sqrt(shape[-1]))
        if scale not in self._blocks:
            self._blocks[scale] = (self._normal * np.float32(scale)).astype(self._kind)
        block = self._blocks[scale].view(np.uint16)
        times = -(-int(np.prod(shape)) // len(block))
        drawn = np.tile(block, times)[: np.prod(shape)] if times > 1 else block[: np.prod(shape)]
        drawn = drawn.reshape(shape).view(self._kind)
        return drawn if dtype is None else drawn.astype(dtype)

    def rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """As that of ``Weights``: (N, columns)."""
        at = (rows[:, None] * 977 + np.arange(self.shapes[name][1])) % self._SIZE
        return self._normal[at] * np.float32(0.02)


def _tokenizer(path: Path, vocabulary: int = VOCABULARY) -> None:
    """The built-in model's words among unused tokens, so that answers have as many tokens as usual."""
    from tokenizers import AddedToken, Tokenizer

    words = json.loads((resolve("tiny") / "tokenizer.json").read_text(encoding="utf-8"))
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = words["model"]["vocab"]
    for i in range(vocabulary - len(control) - len(vocab)):
        vocab[f"<|unused_{i}|>"] = len(vocab)
    tokenizer = Tokenizer.from_str(json.dumps({**words, "added_tokens": []}))
    names = [*control, *EXTRA]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.save(str(path))


def _config() -> dict[str, Any]:
    vision = {"hidden_size": 384, "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 64}
    return {
        "model_type": "molmo2", "architectures": ["Molmo2ForConditionalGeneration"],
        "vit_config": {
            **vision, "model_type": "molmo2", "intermediate_size": 1536, "num_hidden_layers": 14,
            "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
            "image_default_input_size": [378, 378], "image_patch_size": 14, "image_num_pos": 729,
        },
        "adapter_config": {
            **vision, "model_type": "molmo2", "intermediate_size": 2048, "hidden_act": "silu",
            "text_hidden_size": 1024, "vit_layers": [-3, -6],
        },
        "text_config": {
            "model_type": "molmo2_text", "hidden_size": 1024, "intermediate_size": 2816,
            "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64,
            "vocab_size": VOCABULARY, "additional_vocab_size": 128, "hidden_act": "silu",
            "layer_norm_eps": 1e-6, "max_position_embeddings": 4096, "rope_theta": 1000000.0,
            "rope_scaling": None, "qk_norm_type": "qwen3", "norm_after": False, "qkv_bias": False,
            "tie_word_embeddings": False,
        },
        "image_start_token_id": VOCABULARY, "image_end_token_id": VOCABULARY + 1,
        "image_patch_id": VOCABULARY + 2, "image_col_id": VOCABULARY + 3,
        "low_res_image_start_token_id": VOCABULARY + 4, "frame_start_token_id": VOCABULARY + 7,
        "frame_end_token_id": VOCABULARY + 8, "tie_word_embeddings": False,
    }  # fmt: skip


def _config_4b(layers: int, vocabulary: int) -> dict[str, Any]:
    fields = _config()
    fields["vit_config"] |= {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "num_key_value_heads": 16, "head_dim": 72,
    }  # fmt: skip
    fields["adapter_config"] |= {
        "hidden_size": 1152, "intermediate_size": 9728, "num_attention_heads": 16, "num_key_value_heads": 16,
        "head_dim": 72, "text_hidden_size": 2560, "vit_layers": [-3, -9],
    }  # fmt: skip
    fields["text_config"] |= {
        "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": layers,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": vocabulary,
        "rope_theta": 5e6, "max_position_embeddings": 36864,
    }  # fmt: skip
    shift = vocabulary - VOCABULARY
    return {n: v + shift if n.endswith("_id") and isinstance(v, int) else v for n, v in fields.items()}


def _preprocessor() -> dict[str, Any]:
    return {
        "image_processor_type": "Molmo2ImageProcessor", "size": {"height": 378, "width": 378},
        "patch_size": 14, "pooling_size": [2, 2], "max_crops": 8, "overlap_margins": [4, 4],
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_convert_rgb": True,
    }  # fmt: skip
