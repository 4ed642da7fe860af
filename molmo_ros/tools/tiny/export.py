"""Write a trained run as a checkpoint folder in the layout of an official one, in half precision."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Molmo2ForConditionalGeneration

from molmo_ros.tools.tiny.model import new_model, official_config, preprocessor_config
from molmo_ros.tools.tiny.tokenizer import VOCAB_SIZE, train_tokenizer


def official_weights(model: Molmo2ForConditionalGeneration) -> dict[str, Tensor]:
    """Tensors under the released names: transformers undoes its own renaming when it saves.

    It cannot know where the two embedding tables were joined, and halves the whole: split it correctly.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = load_file(Path(folder) / "model.safetensors")
    base, extra = "model.transformer.wte.embedding", "model.transformer.wte.new_embedding"
    table = torch.cat([tensors[base], tensors[extra]])
    tensors[base], tensors[extra] = table[:VOCAB_SIZE], table[VOCAB_SIZE:]
    return {k: v.half().contiguous() for k, v in tensors.items()}


def write(model: Molmo2ForConditionalGeneration, tokenizer: Tokenizer, out: Path) -> None:
    """The folder: config.json, preprocessor_config.json, tokenizer.json, model.safetensors."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(official_config(), indent=2) + "\n")
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessor_config(), indent=2) + "\n")
    tokenizer.save(str(out / "tokenizer.json"))
    save_file(official_weights(model), out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors writes files only the owner can read


def trained(run: Path) -> Molmo2ForConditionalGeneration:
    """The model of a run, without its auxiliary heads."""
    model = new_model(0)
    weights = load_file(run / "weights.safetensors")
    model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="folder of train.py; without it, random weights")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with torch.no_grad():
        model = trained(args.run) if args.run else new_model(0)
        write(model, train_tokenizer(), args.out)


if __name__ == "__main__":
    main()
