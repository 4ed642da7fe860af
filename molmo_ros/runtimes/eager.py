"""transformers' own Molmo2 in PyTorch: the reference for the other runtimes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import Float32, Image, Index
from molmo_ros.errors import RuntimeUnavailableError
from molmo_ros.network.config import V2
from molmo_ros.runtimes.base import Cache, Outputs
from molmo_ros.runtimes.choices import LogitChoices

if TYPE_CHECKING:
    import torch


class TorchCache:
    """transformers' cache behind our protocol."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    @property
    def length(self) -> int:
        return int(self.cache.get_seq_length())

    @property
    def nbytes(self) -> int:
        return sum(2 * layer.keys.nbytes for layer in self.cache.layers if layer.keys is not None)

    def trim(self, length: int) -> None:
        if length < self.length:
            self.cache.crop(length - self.length)


class EagerRuntime:
    """fp32 on the CPU, or on the first CUDA device if there is one."""

    name = "eager"
    precision = "fp32"

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        threads: int | None = None,
        progress: Callable[[str, float], None] | None = None,
    ) -> None:
        if checkpoint.config.model_type != V2:
            raise RuntimeUnavailableError(
                f'transformers has no "{checkpoint.config.model_type}" model; use runtime "onnx".'
            )
        import torch

        try:
            from transformers import Molmo2ForConditionalGeneration
        except ImportError as error:
            raise RuntimeUnavailableError(
                "The installed transformers has no Molmo2: pip install 'transformers>=5.23'"
            ) from error
        transformers_logging: Any = importlib.import_module("transformers.utils.logging")
        transformers_logging.disable_progress_bar()  # ``progress`` is told instead
        if threads is not None:
            torch.set_num_threads(threads)
        if progress:
            progress("loading transformers", 0.1)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = Molmo2ForConditionalGeneration.from_pretrained(
            str(checkpoint.source), dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
        self._model = model.to(self._device).eval()
        self._image = checkpoint.image
        self._asked = checkpoint.encoder.asked
        if progress:
            progress("ready", 1.0)

    def encode_image(self, crops: Image | Float32, pooling: Index, padding: Index | None = None) -> Float32:
        import torch

        c = self._image
        g, p = c.grid, c.patch_size
        patches = crops.reshape(-1, g, p, g, p * 3).swapaxes(2, 3).reshape(-1, g * g, p * p, 3)
        mean, std = np.array(c.mean, np.float32), np.array(c.std, np.float32)
        pixels = ((patches.astype(np.float32) / 255 - mean) / std).reshape(len(crops), g * g, -1)
        with torch.inference_mode():
            out = self._model.model.get_image_features(
                self._tensor(pixels), self._tensor(pooling), torch.tensor([[len(pooling), 1, 0, 0]])
            )
        return self._numpy(torch.cat(tuple(out.pooler_output)))

    def embed(self, token_ids: list[int]) -> Float32:
        import torch

        with torch.inference_mode():
            ids = torch.tensor(token_ids, device=self._device)
            return self._numpy(self._model.get_input_embeddings()(ids))

    def new_cache(self) -> TorchCache:
        from transformers import DynamicCache

        return TorchCache(DynamicCache())

    def run(
        self, embeds: Float32, kv_limit: Index, cache: Cache, rows: Index, *, logits: bool = False
    ) -> Outputs:
        import torch

        assert isinstance(cache, TorchCache)
        past = cache.length
        seen = np.arange(past + len(embeds))[None] < kv_limit[:, None]  # (T,S)
        bias = np.where(seen, 0.0, np.finfo(np.float32).min).astype(np.float32)
        with torch.inference_mode():
            hidden = self._model.model.language_model(
                inputs_embeds=self._tensor(embeds)[None],
                attention_mask=self._tensor(bias)[None, None],
                position_ids=torch.arange(past, past + len(embeds), device=self._device)[None],
                past_key_values=cache.cache,
                use_cache=True,
            ).last_hidden_state
            found = self._numpy(self._model.lm_head(hidden[0, self._tensor(rows)]))
        return Outputs(LogitChoices(found, self._asked), logits=found)

    def interrupt(self) -> None:
        """PyTorch has no way to abort a pass: it runs to its end."""

    def close(self) -> None:
        del self._model

    def _tensor(self, array: Any) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _numpy(self, tensor: torch.Tensor) -> Float32:
        return np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)
