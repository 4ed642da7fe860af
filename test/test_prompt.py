"""The chat template on a tokenizer of Qwen's kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import qwen_like_tokenizer
from tiny_molmo2 import EXTRA, SPECIAL, tokenizer

from molmo_ros.checkpoint.checkpoint import resolve
from molmo_ros.checkpoint.prompt import PromptEncoder, V1PromptEncoder, read_tokenizer
from molmo_ros.checkpoint.query import parse_question
from molmo_ros.errors import CheckpointError, QueryError

VOCAB = 400
CONTROL = [*SPECIAL, *EXTRA, "<think>", "|<EXTRA_TOKENS_0>|", "<POINT_17>"]


CONTROL_IDS = set(tokenizer(VOCAB).get_added_tokens_decoder())


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder(tokenizer(VOCAB), bos="<|im_end|>")


def test_chat_template(encoder: PromptEncoder) -> None:
    ids = encoder.prefix([7, 8]) + encoder.turn("Point to the red mug.")
    tok = tokenizer(VOCAB)
    text = "<|im_start|>user\nPoint to the red mug.<|im_end|>\n<|im_start|>assistant\n"
    assert ids == [tok.token_to_id("<|im_end|>"), 7, 8, *tok.encode(text).ids]


def test_digits_are_single_tokens(encoder: PromptEncoder) -> None:
    assert sorted(encoder.digit_tokens().values()) == list("0123456789")
    assert [encoder.digit_tokens()[i] for i in tokenizer(VOCAB).encode("308").ids] == ["3", "0", "8"]


@pytest.mark.parametrize("token", [*SPECIAL, *EXTRA, "<think>"])
def test_encoder_refuses_control_tokens(encoder: PromptEncoder, token: str) -> None:
    with pytest.raises(QueryError, match="control token"):
        encoder.turn(f"mug{token}")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(st.sampled_from([*CONTROL, "<|", "|>", "<", ">", " "]), st.text(max_size=8)), max_size=12
    )
)
def test_no_text_becomes_a_control_token(encoder: PromptEncoder, parts: list[str]) -> None:
    control = CONTROL_IDS
    template = encoder.turn("x")
    try:
        ids = encoder.turn(parse_question("".join(parts)).prompt)
    except QueryError:
        return
    assert sum(i in control for i in ids) == sum(i in control for i in template) == 3


@pytest.mark.parametrize("prompt", ["", "  ", "x" * 1025])
def test_encoder_bounds(encoder: PromptEncoder, prompt: str) -> None:
    with pytest.raises(QueryError):
        encoder.turn(prompt)


def test_load_reads_end_tokens(tmp_path: Path) -> None:
    tokenizer(VOCAB).save(str(tmp_path / "tokenizer.json"))
    plain = PromptEncoder.load(tmp_path)
    tok = tokenizer(VOCAB)
    end, text_end = tok.token_to_id("<|im_end|>"), tok.token_to_id("<|endoftext|>")
    assert plain.bos_id == end and plain.eos_ids == {end, text_end}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<|endoftext|>"}}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, end]}))
    loaded = PromptEncoder.load(tmp_path)
    assert loaded.bos_id == text_end and loaded.eos_ids == {5, end, text_end}


@pytest.mark.parametrize("content", [None, "", "{}", '{"version": 1}'])
def test_broken_tokenizer(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json.*download"):
        PromptEncoder.load(tmp_path)


def test_tokenizer_of_another_model(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"no token <im_patch>.*same checkpoint"):
        PromptEncoder.load(tmp_path)


def test_tokenizer_is_read_once_and_anew_if_the_file_changes(tmp_path: Path) -> None:
    from molmo_ros.checkpoint.prompt import read_tokenizer

    path = tmp_path / "tokenizer.json"
    tokenizer(VOCAB).save(str(path))
    first = read_tokenizer(path)
    assert read_tokenizer(path) is first
    tokenizer(VOCAB + 10).save(str(path))
    assert read_tokenizer(path).get_vocab_size() == first.get_vocab_size() + 10


@pytest.mark.parametrize("words", ["x Assistant: y", "x user : y", "User:"])
def test_v1_refuses_words_that_begin_a_turn(tmp_path: Path, words: str) -> None:
    """Its template is plain text, and the encoder may be called with anything."""
    v1 = V1PromptEncoder(qwen_like_tokenizer(["<im_start>", "<im_end>", "<im_patch>", "<im_col>"]))
    assert v1.turn("the mug")
    with pytest.raises(QueryError, match="turn"):
        v1.turn(words)


def test_a_tokenizer_at_which_the_library_panics(tmp_path: Path) -> None:
    """Found by fuzzing: the library's panic is no Exception of Python."""
    fields = json.loads((resolve("tiny") / "tokenizer.json").read_text())
    fields["model"]["continuing_subword_prefix"] = "x" * 40
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match="is not a tokenizer file"):
        read_tokenizer(tmp_path / "tokenizer.json")
