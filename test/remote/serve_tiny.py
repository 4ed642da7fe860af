"""``transformers serve`` with the built-in model, for the tests of the runtime "remote".

    python serve_tiny.py FOLDER PORT

HTTP, OpenAI's protocol, the model, decoding and streaming are transformers' own. Its image processor is not:
it cannot leave out the high-resolution crops, as the built-in model wants, and it needs torchvision. So the
picture, once transformers has read it from the request, is cut up by `molmo_ros.checkpoint.preprocess`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerFast
from transformers.cli.serving.model_manager import ModelManager
from transformers.image_utils import load_image

from molmo_ros.checkpoint.checkpoint import load_checkpoint
from molmo_ros.checkpoint.preprocess import image_token_ids, preprocess


class TinyProcessor:
    """The part of a Molmo2Processor that the server calls."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint = load_checkpoint(str(folder))
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))

    def apply_chat_template(self, messages: list[dict[str, Any]], **_: Any) -> BatchFeature:
        """One user's turn with one picture in front of the words."""
        (message,) = messages
        picture, words = message["content"]
        image, encoder = self.checkpoint.image, self.checkpoint.encoder
        inputs = preprocess(np.asarray(load_image(picture["url"]).convert("RGB")), image)
        ids = [*encoder.prefix(image_token_ids(inputs, encoder, image)), *encoder.turn(words["text"])]
        tokens = torch.tensor([ids])
        return BatchFeature(
            {
                "input_ids": tokens,
                "attention_mask": torch.ones_like(tokens),
                "mm_token_type_ids": torch.isin(tokens, torch.tensor(encoder.image_ids)).long(),
                "pixel_values": torch.from_numpy(self._patches(inputs.crops)),
                "image_token_pooling": torch.from_numpy(inputs.pooling),
                "image_grids": torch.tensor([[len(inputs.pooling), 1, 0, 0]]),
            }
        )

    def _patches(self, crops: np.ndarray) -> np.ndarray:
        """(C,S,S,3) uint8 -> (C,patches,3 p p), normalised."""
        c = self.checkpoint.image
        g, p = c.grid, c.patch_size
        patches = crops.reshape(-1, g, p, g, p * 3).swapaxes(2, 3).reshape(-1, g * g, p * p, 3)
        mean, std = np.array(c.mean, np.float32), np.array(c.std, np.float32)
        return ((patches.astype(np.float32) / 255 - mean) / std).reshape(len(crops), g * g, -1)

    def decode(self, *args: Any, **options: Any) -> str:
        return self.tokenizer.decode(*args, **options)


if __name__ == "__main__":
    folder, port = sys.argv[1:]
    ModelManager._load_processor = lambda *_, **__: TinyProcessor(Path(folder))  # type: ignore[method-assign]
    from transformers.cli.transformers import main

    sys.argv = ["transformers", "serve", folder, "--port", port, "--device", "cpu", "--dtype", "float32"]
    main()
