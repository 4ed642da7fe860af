"""The tokenizer of the built-in model: byte-level BPE with Qwen's pre-tokenization, one token per digit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from molmo_ros.tools.tiny.questions import STRANGERS, Thing, ask

VOCAB_SIZE = 640  # padded with unused tokens
BPE_SIZE = 600
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# the order is the official one: ids continue from VOCAB_SIZE
IMAGE_TOKENS = """
    <im_start> <im_end> <im_patch> <im_col> <low_res_im_start> <|image|> <im_low> <frame_start>
    <frame_end> <|video|> <|points|> <|token_index|> <|vit_index|> <|vit_loc|>
""".split()  # noqa: SIM905 (a list of words reads best as one)
ADDITIONAL_VOCAB_SIZE = 16
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def train_tokenizer(seed: int = 0, questions: int = 20_000) -> Tokenizer:
    """Learn the merges from questions and answers about random things."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_SIZE, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(seed, questions), trainer)
    filler = [f"<|unused_{i}|>" for i in range(VOCAB_SIZE - tokenizer.get_vocab_size() - len(SPECIAL))]
    added = [*SPECIAL, *filler, *IMAGE_TOKENS]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in added])
    return tokenizer


def _corpus(seed: int, questions: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    for _ in range(questions):
        things = [
            Thing(*rng.integers((0, 0, 0, 0), (7, 8, 1001, 1001)).tolist()) for _ in range(rng.integers(1, 7))
        ]
        prompt, answer = ask(things, rng)
        yield f"user\n{prompt}"
        yield f"assistant\n{answer}"
    yield from (f" {w}" for w in STRANGERS)


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that must exist."""
    index: int | None = tokenizer.token_to_id(token)
    if index is None:
        raise KeyError(f"the tokenizer lacks {token!r}")
    return index
