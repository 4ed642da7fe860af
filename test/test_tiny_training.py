"""Training of the built-in model: questions, targets, masks, and a run that learns, stops and goes on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from molmo_ros.answer_format.points import NONE_ANSWER, scan_molmo2
from molmo_ros.sim.objects import COLORS, KINDS
from molmo_ros.tools.tiny.questions import Thing, ask, counting_answer, pointing_answer

torch = pytest.importorskip("torch", reason="training needs torch: pip install molmo_ros[train]")
pytest.importorskip("transformers", reason="training needs transformers: pip install molmo_ros[train]")

from molmo_ros.tools.tiny import data, model, train  # noqa: E402
from molmo_ros.tools.tiny.batch import IGNORE, LENGTH, Batch, make_batch, prefix_ids  # noqa: E402
from molmo_ros.tools.tiny.export import write  # noqa: E402
from molmo_ros.tools.tiny.model import new_model, text  # noqa: E402
from molmo_ros.tools.tiny.tokenizer import token_id, train_tokenizer  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(questions=2000)


@pytest.fixture(scope="module")
def frames() -> data.Frames:
    """Ten painted frames: one disc each, at a known place."""
    n, h, w = 10, data.HEIGHT, data.WIDTH
    v, u = np.mgrid[:h, :w]
    rng = np.random.default_rng(0)
    rgb = np.full((n, h, w, 3), 90, np.uint8)
    ids = np.zeros((n, h, w), np.uint8)
    names = np.full((2, n, data.MAX_OBJECTS), -1, np.int8)
    for i in range(n):
        disc = (v - rng.integers(40, h - 40)) ** 2 + (u - rng.integers(40, w - 40)) ** 2 < 30**2
        rgb[i][disc] = rng.integers(0, 255, 3)
        ids[i][disc] = 1
        names[:, i, 0] = rng.integers(len(KINDS)), rng.integers(len(COLORS))
    return data.Frames(rgb, ids, names[0], names[1])


def test_answers_have_the_official_form() -> None:
    things = [Thing(0, 0, 752, 377), Thing(0, 1, 308, 5)]
    assert pointing_answer(things, "mugs") == '<points coords="1 1 308 005 2 752 377">mugs</points>'
    assert counting_answer(things, "mugs") == (
        'Counting the <points coords="1 1 308 005 2 752 377">mugs</points> shows a total of 2.'
    )
    assert pointing_answer([], "mugs") == counting_answer([], "mugs") == NONE_ANSWER


def test_answers_point_at_what_the_words_mean() -> None:
    rng = np.random.default_rng(0)
    asked_absent = 0
    for _ in range(500):
        things = [
            Thing(*(int(v) for v in rng.integers(0, (7, 8, 1001, 1001)))) for _ in range(rng.integers(1, 6))
        ]
        prompt, answer = ask(things, rng)
        found = {(p.x, p.y) for p in scan_molmo2(answer)}
        words = prompt.lower().split("\n")[0].rstrip(".?").split()
        kind = next((k for k in KINDS if any(w.rstrip("es") == k.rstrip("es") for w in words)), None)
        color = next((c for c in COLORS if c in words), None)
        if kind is None and (color is None or not any(w.startswith("thing") for w in words)):
            assert not found  # naming, or a thing that is never there
            continue
        expected = {
            (t.x, t.y)
            for t in things
            if (kind is None or KINDS[t.kind] == kind) and (color is None or list(COLORS)[t.color] == color)
        }
        assert found == expected, (prompt, answer)
        asked_absent += not expected
    assert 40 < asked_absent < 150


def test_the_tokenizer_gives_each_digit_a_token_and_the_official_extra_ids(tokenizer: Tokenizer) -> None:
    answer = '<points coords="1 1 308 305">red mug</points>'
    encoded = tokenizer.encode(answer)
    assert tokenizer.decode(encoded.ids) == answer
    assert [t for t in encoded.tokens if t.isdigit()] == list("11308305")
    base = token_id(tokenizer, "<im_start>")
    assert base == 640
    assert [token_id(tokenizer, t) - base for t in ("<im_end>", "<im_patch>", "<low_res_im_start>")] == [
        1,
        2,
        4,
    ]


def test_targets_of_a_batch_agree_with_the_frames(frames, tokenizer: Tokenizer) -> None:
    batch = make_batch(frames, tokenizer, 4, np.random.default_rng(1), augment=False)
    picks = np.random.default_rng(1).integers(len(frames), size=4)
    for row, i in enumerate(picks):
        v, u = np.nonzero(frames.ids[i])
        x, y = (u.mean() + 0.5) / data.WIDTH * 1000, (v.mean() + 0.5) / data.HEIGHT * 1000
        on = batch.token_names[row, :, 0] == 1
        digits = batch.token_digits[row][on][0].tolist()
        assert digits[0] * 100 + digits[1] * 10 + digits[2] == pytest.approx(x, abs=8)
        assert digits[3] * 100 + digits[4] * 10 + digits[5] == pytest.approx(y, abs=8)
        assert set(batch.token_names[row][on][:, 1].tolist()) == {int(frames.kinds[i, 0])}
        tokens = on.nonzero()[:, 0]
        assert (tokens % 8).float().mean() + 0.5 == pytest.approx(x / 125, abs=0.7)  # columns of 8
    assert ((batch.labels != IGNORE) == (batch.weights > 0)).all()


def test_questions_behind_one_image_do_not_see_each_other(frames, tokenizer: Tokenizer) -> None:
    """Packed hidden states equal those of each question alone."""
    batch = make_batch(frames, tokenizer, 1, np.random.default_rng(3), augment=False)
    model = new_model(0).eval()
    prefix = len(prefix_ids(tokenizer))
    starts = [*(batch.positions[0] == prefix).nonzero()[:, 0].tolist(), int((batch.input_ids[0] > 0).sum())]
    assert len(starts) > 2
    a, b = starts[1], starts[2]
    rows = torch.cat([torch.arange(prefix), torch.arange(a, b)])
    with torch.no_grad():
        embeds = model.get_input_embeddings()(batch.input_ids)
        packed = text(model, embeds, batch.bias, batch.positions)[:, a:b]
        bias = torch.full((len(rows), len(rows)), -1e4).triu(1)
        bias[1:prefix, 1:prefix] = 0
        alone = text(model, embeds[:, rows], bias[None, None], torch.arange(len(rows))[None])[:, prefix:]
    torch.testing.assert_close(packed, alone, atol=2e-5, rtol=1e-4)


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    """Two layers of vision and one of text, narrow inside: a step costs a fifth."""
    config = model.official_config()
    config["vit_config"] |= {"num_hidden_layers": 2, "intermediate_size": 96}
    config["adapter_config"] |= {"vit_layers": [1, 0], "intermediate_size": 96}
    config["text_config"] |= {"num_hidden_layers": 1, "intermediate_size": 96}
    monkeypatch.setattr(model, "official_config", lambda: config)
    monkeypatch.setattr(model, "TAPS", (1, 0))
    monkeypatch.setattr(train, "train_tokenizer", lambda: tokenizer)


def _arguments(folder: Path, **changes: object) -> argparse.Namespace:
    usual: dict[str, object] = {"data": folder / "data", "out": folder / "run", "compile": False}
    usual |= {"vision_steps": 2, "joint_steps": 2, "decay": 1, "batch": 2, "lr": 1e-3}
    usual |= {"seed": 0, "ranks": 1, "port": 0}
    (folder / "run").mkdir(exist_ok=True)
    return argparse.Namespace(**{**usual, **changes})


@pytest.fixture
def small_data(tmp_path: Path, frames: data.Frames, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data, "SHARD", len(frames))
    (tmp_path / "data").mkdir()
    for i in range(2):
        np.savez(tmp_path / "data" / f"{i:04d}.npz", **vars(frames))
    return tmp_path


@pytest.mark.usefixtures("small_model")
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(small_data: Path) -> None:
    whole = _arguments(small_data, out=small_data / "whole")
    whole.out.mkdir()
    train.run(0, whole)
    # the learning rate of a step depends on the total, so the first half stops at a save, not at its end
    stopped = _arguments(small_data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "SAVE_EVERY", 2)
        patch.setattr(train, "_log", lambda *_: None)
        calls = iter(range(10))
        real = train.make_batch

        def two_then_stop(*args: object, **kw: object) -> Batch:
            if next(calls) == 2:
                raise KeyboardInterrupt
            return real(*args, **kw)  # type: ignore[arg-type]

        patch.setattr(train, "make_batch", two_then_stop)
        with pytest.raises(KeyboardInterrupt):
            train.run(0, stopped)
    train.run(0, stopped)
    a, b = (train.load_file(small_data / d / "weights.safetensors") for d in ("whole", "run"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=name)


@pytest.mark.usefixtures("small_model")
def test_training_learns(small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, float]] = []
    monkeypatch.setattr(train, "_log", lambda _o, _s, _t, _sec, scores, _k: rows.append(scores))
    train.run(0, _arguments(small_data, vision_steps=40, joint_steps=0, decay=10))
    assert rows[-1]["loss"] < 0.93 * rows[0]["loss"]


def test_export_is_a_checkpoint_that_loads(tmp_path: Path, tokenizer: Tokenizer) -> None:
    from molmo_ros.checkpoint.checkpoint import load_checkpoint

    with torch.no_grad():
        write(new_model(0), tokenizer, tmp_path / "tiny")
    checkpoint = load_checkpoint(str(tmp_path / "tiny"))
    assert checkpoint.config.text.vocab_size == 640
    assert json.loads((tmp_path / "tiny/preprocessor_config.json").read_text())["max_crops"] == 0
    assert (tmp_path / "tiny/model.safetensors").stat().st_size < 10e6
    assert len(prefix_ids(tokenizer)) < LENGTH
