"""From a prompt to token ids: the chat template of each generation of Molmo.

A query is untrusted text. It was cleaned before (``query``); the encoder makes sure again that it cannot
become one of the model's control tokens, whatever a caller passed.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from molmo_ros.checkpoint.query import ROLE, check_prompt_length
from molmo_ros.errors import CheckpointError, QueryError
from molmo_ros.network.config import AskedTokens
from molmo_ros.untrusted import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_END_OF_TEXT = "<|endoftext|>"


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file, kept until another one is read.

    The library holds the interpreter lock while it reads, half a second for the 150 000 words of a large
    model: a program in which nothing may stall for that long reads it before that matters.
    Raises: CheckpointError if it is missing or broken.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; download it from the checkpoint's page.")
    stat = path.stat()
    import tokenizers  # noqa: F401  (a missing package is no broken file)

    try:
        return _parse_tokenizer(str(path), stat.st_size, stat.st_mtime_ns)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises plain Exception, and its panics are not even that
        raise CheckpointError(f"{path} is not a tokenizer file ({error}); download it again.") from error


@lru_cache(maxsize=1)
def _parse_tokenizer(path: str, size: int, mtime_ns: int) -> Tokenizer:
    """Size and time of the file are part of the key: a new file of this name is read again."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(path)


class PromptEncoder:
    """Molmo2's chat template and vocabulary, by the ``tokenizers`` library alone.

    The prompt is: BOS, the image tokens, <|im_start|>user, the words, <|im_end|>, <|im_start|>assistant.
    The part before the user's words (``prefix``) depends only on the image, so its cache can be reused.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, bos: str | None = None, eos_ids: tuple[int, ...] = (), path: str = ""
    ) -> None:
        self._tokenizer = tokenizer
        self._path = path
        added = tokenizer.get_added_tokens_decoder()
        # Some tokenizers add runs of white space as tokens; those are not control tokens.
        control = {i: t.content for i, t in added.items() if t.content.strip()}
        self._control_ids = frozenset(control)
        # MolmoPoint has thousands of the same form; those are found by their ids alone.
        self._control_text = tuple(t for t in control.values() if not t.startswith("<POINT_"))
        self.im_patch = self.im_low = self._id("<im_patch>")
        self.im_col = self._id("<im_col>")
        self.im_start = self._id("<im_start>")
        self.im_end = self._id("<im_end>")
        end = self._read_template()
        self.bos_id = self._id(bos) if bos else end
        self.eos_ids = frozenset(eos_ids or (end,)) | {end}
        if (stop := tokenizer.token_to_id(_END_OF_TEXT)) is not None:
            self.eos_ids |= {stop}

    def _read_template(self) -> int:
        """Find the tokens that only this generation has; returns the one that ends an answer."""
        self.low_res_im_start = self._id("<low_res_im_start>")
        self.turn_start = self._id("<|im_start|>")
        self.turn_end = self._id("<|im_end|>")
        return self.turn_end

    @classmethod
    def load(cls, folder: Path) -> PromptEncoder:
        """Read tokenizer.json, and tokenizer_config.json and generation_config.json where they exist.

        Raises: CheckpointError if the tokenizer is missing, broken, or of another generation.
        """
        path = folder / "tokenizer.json"
        tokenizer = read_tokenizer(path)
        config = _json_or_empty(folder / "tokenizer_config.json")
        generation = _json_or_empty(folder / "generation_config.json")
        eos = generation.get("eos_token_id")
        eos_ids = tuple(e for e in (eos if isinstance(eos, list) else [eos]) if isinstance(e, int))
        bos = _token_text(config.get("bos_token")) or _token_text(config.get("eos_token"))
        return cls(tokenizer, bos=bos, eos_ids=eos_ids, path=str(path))

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The tokens that stand for an image; they see each other in both directions."""
        return (self.im_patch, self.im_col, self.im_start, self.im_end, self.low_res_im_start)

    @property
    def stated_ids(self) -> dict[str, int]:
        """Ids by the names under which config.json may state them as well."""
        return {"image_patch_id": self.im_patch}

    @cached_property
    def asked(self) -> AskedTokens:
        """The tokens whose logits an answer is read by: digits, each in the order of ``digit_tokens``."""
        return AskedTokens(tuple(self.digit_tokens()))

    def prefix(self, image_ids: list[int]) -> list[int]:
        """Everything before the user's words: BOS and the tokens of one image."""
        return [self.bos_id, *image_ids]

    def turn(self, prompt: str) -> list[int]:
        """The user's turn and the opening of the answer.

        Raises: QueryError if ``prompt`` would encode to a control token, or is empty or too long.
        """
        check_prompt_length(prompt)
        user = self._plain(f"user\n{prompt}")
        newline, assistant = self._plain("\n"), self._plain("assistant\n")
        return [self.turn_start, *user, self.turn_end, *newline, self.turn_start, *assistant]

    def encode(self, text: str) -> list[int]:
        """Tokens of an answer; never of a prompt, for which `turn` refuses control tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of generated tokens, control tokens left out."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def digit_tokens(self) -> dict[int, str]:
        """Token id -> its digits, for every token of one to four ASCII digits and nothing else."""
        texts = [f"{n:0{width}}" for width in range(1, 5) for n in range(10**width)]
        found = {self._tokenizer.token_to_id(text): text for text in texts}
        return {i: text for i, text in found.items() if i is not None and i not in self._control_ids}

    def _plain(self, text: str) -> list[int]:
        """Ids of ``text`` read as ordinary text, never as control tokens."""
        for token in self._control_text:
            if token in text:
                raise QueryError(f"The prompt contains the control token {token!r}; leave it out.")
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not self._control_ids.isdisjoint(ids):
            raise QueryError("The prompt would encode to a control token; leave out what stands in <...>.")
        return ids

    def _id(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise CheckpointError(
                f"{self._path or 'The tokenizer'} has no token {token}, so it is of another generation; "
                "take tokenizer.json from the same checkpoint as the weights."
            )
        return int(token_id)


class V1PromptEncoder(PromptEncoder):
    """Molmo v1's template: BOS, the image tokens, " User: " the words " Assistant:" in one string.

    It has no tokens for turns, so the words may not contain one; both image blocks open with <im_start>, and
    BOS is the end of text.
    """

    def _read_template(self) -> int:
        if self._tokenizer.token_to_id("<low_res_im_start>") is not None:
            raise CheckpointError(
                f"{self._path or 'The tokenizer'} has <low_res_im_start>, so it is of another generation; "
                "take tokenizer.json from the same checkpoint as the weights."
            )
        self.low_res_im_start = self.im_start
        return self._id(_END_OF_TEXT)

    def turn(self, prompt: str) -> list[int]:
        check_prompt_length(prompt)
        if role := ROLE.search(prompt):
            raise QueryError(f"The prompt contains {role[0]!r}, which begins another turn; leave it out.")
        return self._plain(f" User: {prompt} Assistant:")


class PointPromptEncoder(PromptEncoder):
    """MolmoPoint: Molmo2's template, another token in the low-resolution block, and tokens that point.

    After the vocabulary (from ``first_point`` on) its answers have one id for each <POINT_k>, whose meaning
    depends on the image (``patches``). ``token_index``, ``patch_index`` and ``place_index`` stand for those
    tokens where the model reads them again.
    """

    def _read_template(self) -> int:
        end = super()._read_template()
        self.im_low = self._id("<im_low>")
        self.first_point = self._id("<POINT_0>")
        self.token_index = self._id("<|token_index|>")
        self.patch_index = self._id("<|vit_index|>")
        self.place_index = self._id("<|vit_loc|>")
        return end

    @property
    def image_ids(self) -> tuple[int, ...]:
        return (*super().image_ids, self.im_low)

    @property
    def stated_ids(self) -> dict[str, int]:
        return {
            "image_patch_id": self.im_patch, "image_non_indexable_patch_id": self.im_low,
            "patch_token_id": self.token_index, "subpatch_token_id": self.patch_index,
            "location_token_id": self.place_index,
        }  # fmt: skip

    @cached_property
    def asked(self) -> AskedTokens:
        """As for the others, plus <|token_index|> as the last; those that stand for points are never
        generated."""
        never = (self.token_index, self.patch_index, self.place_index)
        return AskedTokens((*self.digit_tokens(), self.token_index), never)

    def decode(self, ids: list[int]) -> str:
        """As for the others; the tokens that point are kept, however the tokenizer classifies them."""
        text = ""
        for points, part in groupby(ids, lambda i: i >= self.first_point):
            if points:
                text += "".join(f"<POINT_{i - self.first_point}>" for i in part)
            else:
                text += super().decode(list(part))
        return text


def encoder_class(model_type: str) -> type[PromptEncoder]:
    """The template of a generation by the model_type of its config.json."""
    return {"molmo": V1PromptEncoder, "molmo_point": PointPromptEncoder}.get(model_type, PromptEncoder)


def _json_or_empty(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); download it again.") from error
    return content if isinstance(content, dict) else {}


def _token_text(token: object) -> str | None:
    """A token in tokenizer_config.json is a string or a record with its content."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None
