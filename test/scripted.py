"""A runtime that says a given text, and a tokenizer like Qwen's to say it in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.runtimes.base import Outputs
from molmo_ros.runtimes.choices import LogitChoices

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# Tokens of the real one that occur in answers and prompts; "<points" is two there: "<" and "points".
WORDS = """
    point points coords alt There are none Counting the shows total of user assistant Point to How many is it
    x y a this isn in image
    red blue green mug mugs bowl bowls bottle box cup curb ramp dog dogs spoon handle door lamp left small
    person
""".split()  # noqa: SIM905 (a list of words reads best as one)
SIGNS = ['="', '">', "</", '",', " <", ' "']


def qwen_like_tokenizer(controls: Sequence[str], vocabulary: int = 1000) -> Any:
    """Byte-level BPE with Qwen's pre-tokenizer, one token a digit; ``vocabulary`` ids, then ``controls``."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab, merges = {c: i for i, c in enumerate(alphabet)}, []
    for word in [*WORDS, *(f" {w}" for w in WORDS), *SIGNS]:
        letters = word.replace(" ", "Ġ")
        for end in range(2, len(letters) + 1):
            if letters[:end] not in vocab:
                vocab[letters[:end]] = len(vocab)
                merges.append((letters[: end - 1], letters[end - 1]))
    tok = Tokenizer(models.BPE(vocab, merges, ignore_merges=True))  # whole words first
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    tok.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    filler = [f"|<EXTRA_TOKENS_{i}>|" for i in range(vocabulary - len(vocab) - 3)]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *filler, *controls]
    tok.add_special_tokens([AddedToken(t, special=True) for t in specials])
    return tok


class Tape:
    """A cache that remembers the tokens."""

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self.ids = list(ids)

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        return 1000 * len(self.ids)

    def trim(self, length: int) -> None:
        del self.ids[length:]


class Script:
    """Says a text whatever it sees, one token after the other; after anything else, it says rubbish.

    The rubbish makes sure that nothing but the model's own words is ever kept.
    """

    name = "script"

    def __init__(self, checkpoint: Checkpoint, text: str, probability: float = 0.9) -> None:
        self.encoder = checkpoint.encoder
        self.vocab = checkpoint.config.text.vocab_size
        self.hidden = checkpoint.config.text.hidden_size
        self.logit = float(np.log(probability / (1 - probability) * (self.vocab - 1)))
        self.turn_opening = self._behind_last_turn(checkpoint.encoder.turn("x"))
        self.rubbish = self.encoder.encode("~")[0]
        self.asked = checkpoint.encoder.asked
        self.say(text)
        self.images = 0
        self.runs: list[tuple[int, int]] = []  # (cached tokens, new tokens)
        self.closed = False

    def say(self, text: str) -> None:
        self.answer = [*self.encoder.encode(text), self.encoder.turn_end]

    def encode_image(
        self, crops: np.ndarray, pooling: np.ndarray, padding: np.ndarray | None = None
    ) -> np.ndarray:
        self.images += 1
        return np.zeros((len(pooling), self.hidden), np.float32)

    def embed(self, token_ids: list[int]) -> np.ndarray:
        embeds = np.zeros((len(token_ids), self.hidden), np.float32)
        embeds[:, 0] = token_ids
        return embeds

    def new_cache(self) -> Tape:
        return Tape()

    def run(
        self, embeds: np.ndarray, kv_limit: np.ndarray, cache: Tape, rows: np.ndarray, *, logits: bool = False
    ) -> Outputs:
        assert len(embeds) == len(kv_limit)
        self.runs.append((cache.length, len(embeds)))
        past = cache.length
        cache.ids.extend(int(i) for i in embeds[:, 0])
        found = np.zeros((len(rows), self.vocab), np.float32)
        spoken_from = self._answer_start(cache.ids)
        for line, row in zip(found, rows, strict=True):
            spoken = cache.ids[spoken_from : past + int(row) + 1]
            line[self._next(spoken)] = self.logit
        return Outputs(LogitChoices(found, self.asked))

    def _next(self, spoken: list[int]) -> int:
        known = spoken == self.answer[: len(spoken)] and len(spoken) < len(self.answer)
        return self.answer[len(spoken)] if known else self.rubbish

    def _answer_start(self, ids: list[int]) -> int:
        last = len(ids) - 1 - ids[::-1].index(self.encoder.turn_start)
        return last + len(self.turn_opening)

    def _behind_last_turn(self, turn: list[int]) -> list[int]:
        """The tokens that open the model's turn."""
        return turn[len(turn) - 1 - turn[::-1].index(self.encoder.turn_start) :]

    def interrupt(self) -> None:
        """Its passes are over at once."""

    def close(self) -> None:
        self.closed = True
