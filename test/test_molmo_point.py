"""MolmoPoint against numbers that its own code produced (``golden/README.md``), random weights, in fp32."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_molmo2
from tiny_molmo_point import BASE, EXTRA_SIZE, write_checkpoint

from molmo_ros.answer.decoding import kv_limits
from molmo_ros.answer.molmo import Molmo
from molmo_ros.answer.molmo_point import PointChoices, Pointer
from molmo_ros.answer_format.patches import PatchMap, parse_molmopoint, point_token
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.checkpoint.preprocess import image_token_ids, preprocess
from molmo_ros.datatypes import Answer
from molmo_ros.errors import CancelledError, CheckpointError
from molmo_ros.network.precision import GPU_PRECISIONS
from molmo_ros.runtimes.choices import Choice
from molmo_ros.runtimes.export import DECODER, VISION, export
from molmo_ros.tools import build_engine as builder
from molmo_ros.tools.compile_trt import compile_onnx

GOLDEN = Path(__file__).parent / "golden" / "molmopoint.npz"
CASES = {"many": (37, 3.0), "edge": (55, 4.0), "ended": (124, 4.0)}  # seed, loudness of <|token_index|>
IMAGE = np.random.default_rng(1).integers(0, 256, (40, 150, 3), dtype=np.uint8)
PROMPT = "Point to the red mug."
STEPS = 48
FIRST = BASE + EXTRA_SIZE


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return dict(np.load(GOLDEN))


class Case:
    """A checkpoint, its answer, and how each token of it was chosen."""

    def __init__(self, folder: Path, seed: int, points: float) -> None:
        self.folder = write_checkpoint(folder, seed=seed, points=points)
        self.checkpoint: Checkpoint = load_checkpoint(str(self.folder))
        self.molmo = Molmo.load(str(self.folder), "onnx", threads=1)
        self.rows: list[Choice] = []
        self.token_scores: dict[int, np.ndarray] = {}  # by the length of the answer before
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Pointer, "choices", self._recorded(Pointer.choices))
            self.answer: Answer = self.molmo.answer(IMAGE, PROMPT, max_new_tokens=STEPS, drafts=False)
        (seen,) = self.molmo.images
        assert seen.pointer is not None
        self.pointer: Pointer = seen.pointer
        self.places: PatchMap = self.pointer.places
        encoder = self.checkpoint.encoder
        self.inputs = preprocess(IMAGE, self.checkpoint.image)
        self.prefix = encoder.prefix(image_token_ids(self.inputs, encoder, self.checkpoint.image))
        self.turn = encoder.turn(PROMPT)

    def _recorded(self, choices: Any) -> Any:
        def record(pointer: Pointer, words: Any, pointing: Any, answers: list[list[int]]) -> PointChoices:
            found: PointChoices = choices(pointer, words, pointing, answers)
            self.rows.extend(found.rows)
            for queries, answer in zip(pointing, answers, strict=True):
                last = pointer._last_token(answer[:-1])
                self.token_scores[len(answer)] = pointer._token_scores(queries[:32], last)
            return found

        return record


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    root = tmp_path_factory.mktemp("point")
    return {name: Case(root / name, *how) for name, how in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_ids_features_and_logits(name: str, cases: dict[str, Case], golden: dict[str, Any]) -> None:
    case = cases[name]
    assert [*case.prefix, *case.turn] == golden["input_tokens"].tolist()
    runtime: Any = case.molmo.runtime
    features, patches, keys = runtime.encode_patches(case.inputs.crops, case.inputs.pooling)
    np.testing.assert_allclose(features[::5], golden[f"{name}.features"], atol=1e-5)
    embeds = runtime.embed([*case.prefix, *case.turn])
    encoder: Any = case.checkpoint.encoder
    embeds[np.isin([*case.prefix, *case.turn], (encoder.im_patch, encoder.im_low))] += features
    count = len(embeds)
    limits = kv_limits(0, len(case.prefix), count)
    found = runtime.run(embeds, limits, runtime.new_cache(), np.arange(count), logits=True)
    logits, pointing = found.logits, found.pointing
    text = np.setdiff1d(np.arange(FIRST), [encoder.token_index, encoder.patch_index, encoder.place_index])
    theirs = golden[f"{name}.logits"]
    np.testing.assert_allclose(logits[[0, 1, 20, 60, -10, -3, -2, -1]][:, text], theirs[:, text], atol=1e-5)
    assert theirs.shape[1] == FIRST + len(case.inputs.pooling) + 1 + 4 + 9
    assert patches.shape[:2] == keys.shape[:2] == (case.places.no_more, 4)
    assert pointing.shape == (count, 3 * 32 + 9)


@pytest.mark.parametrize("name", CASES)
def test_greedy_tokens_and_scores(name: str, cases: dict[str, Case], golden: dict[str, Any]) -> None:
    """The same tokens as upstream's, points among them, and the same scores of tokens, patches and places."""
    case, first = cases[name], FIRST + cases[name].places.no_more + 1
    assert list(case.answer.token_ids) == golden[f"{name}.tokens"].tolist()
    for i, theirs in enumerate(golden[f"{name}.widened"]):
        ours = case.rows[[0, 1, 2, 3, STEPS - 1][i]]
        assert ours.token == theirs.argmax()
        total = np.log(np.exp(theirs - theirs.max(), dtype=np.float64).sum())
        assert ours.logprob == pytest.approx(-total, abs=1e-5)
    for i, theirs in enumerate(golden[f"{name}.token_scores"]):
        if (at := 5 * i + 1) < STEPS:
            ours = case.token_scores[at]
            np.testing.assert_allclose(ours[case.places.low :], theirs[case.places.low :], atol=1e-5)
            if FIRST <= case.rows[at].token < first:
                np.testing.assert_array_equal(case.rows[at].scores, ours)
    for step, theirs in zip(golden[f"{name}.patch_steps"], golden[f"{name}.patch_scores"], strict=True):
        ours = case.rows[step + 1].scores
        free = np.isfinite(ours)  # upstream's mask comes later
        np.testing.assert_allclose(ours[free], theirs[free], atol=1e-5)
    for step, theirs in zip(golden[f"{name}.place_steps"], golden[f"{name}.place_scores"], strict=True):
        np.testing.assert_allclose(case.rows[step + 1].scores, theirs, atol=1e-5)
    assert len(golden[f"{name}.patch_steps"]) >= 3, "the case has at least three points"


def test_the_cases_have_all_that_can_happen(cases: dict[str, Case], golden: dict[str, Any]) -> None:
    """One token chosen twice, patches that are padding, "no more points"."""
    low, end = cases["many"].places.low, cases["many"].places.no_more
    chosen = {name: [t - FIRST for t in golden[f"{name}.tokens"] if t >= FIRST] for name in CASES}
    tokens = {name: [n for n in numbers if n < end] for name, numbers in chosen.items()}
    assert all(len(set(t)) < len(t) and min(t) >= low and t == sorted(t) for t in tokens.values())
    assert len(tokens["edge"]) > len(golden["edge.points"]) == 3
    assert chosen["ended"][-1] == end and not {end} & {*chosen["many"], *chosen["edge"]}


@pytest.mark.parametrize("name", CASES)
def test_points(name: str, cases: dict[str, Case], golden: dict[str, Any]) -> None:
    """Upstream wants a number after each point; those of padding it does not find either."""
    case = cases[name]
    places = golden[f"{name}.points"]
    text = re.sub(r"((?:<POINT_\d+>){3})", r"\g<1>1", case.answer.text)
    points = parse_molmopoint(text, case.places, IMAGE.shape[1], IMAGE.shape[0])
    np.testing.assert_allclose([(p.x, p.y) for p in points], places[:, 2:] - 0.5, atol=1e-9)
    assert [(p.x, p.y) for p in case.answer.points] == [(p.x, p.y) for p in points]
    for point in case.answer.points:
        assert 0 < point.confidence <= 1
        assert point.covariance.shape == (2, 2) and np.linalg.eigvalsh(point.covariance).min() > 0


@pytest.mark.parametrize("name", CASES)
def test_cached_decode_equals_recompute(name: str, cases: dict[str, Case]) -> None:
    """The whole answer after the prompt in one pass, from an empty cache."""
    case = cases[name]
    runtime: Any = case.molmo.runtime
    answer = list(case.answer.token_ids)
    encoder: Any = case.checkpoint.encoder
    embeds = runtime.embed(case.prefix)
    embeds[np.isin(case.prefix, (encoder.im_patch, encoder.im_low))] += case.pointer._embeds
    embeds = np.concatenate([embeds, case.pointer.embed(runtime.embed, [], [*case.turn, *answer])])
    count, rows = len(embeds), np.arange(len(embeds) - STEPS - 1, len(embeds) - 1)
    limits = kv_limits(0, len(case.prefix), count)
    found = runtime.run(embeds, limits, runtime.new_cache(), rows)
    again = case.pointer.choices(found.choices, found.pointing[rows], [answer[:i] for i in range(STEPS)])
    for a, b in zip(again.rows, case.rows, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=2e-5)
        likely = a.scores > -1e5
        np.testing.assert_allclose(a.scores[likely], b.scores[likely], atol=2e-5)
    assert again.tokens == answer


@pytest.mark.parametrize("name", CASES)
def test_drafts_and_the_second_question(name: str, cases: dict[str, Case]) -> None:
    case = cases[name]
    molmo = Molmo.load(str(case.folder), "onnx", threads=1)
    other = molmo.answer(IMAGE, "How many bowls are there?", max_new_tokens=20)
    assert molmo.answer(IMAGE, PROMPT, max_new_tokens=STEPS).token_ids == case.answer.token_ids
    assert molmo.answer(IMAGE, "How many bowls are there?", max_new_tokens=20).token_ids == other.token_ids
    assert molmo.answer(255 - IMAGE, PROMPT, max_new_tokens=STEPS).token_ids != case.answer.token_ids
    passes = [0]

    def stop() -> bool:
        passes[0] += 1
        return passes[0] > 5

    with pytest.raises(CancelledError):
        molmo.answer(IMAGE, PROMPT, max_new_tokens=STEPS, should_stop=stop)
    assert molmo.answer(IMAGE, PROMPT, max_new_tokens=STEPS).token_ids == case.answer.token_ids


def test_openvino_says_the_same(cases: dict[str, Case]) -> None:
    pytest.importorskip("openvino")
    for case in cases.values():
        answer = Molmo.load(str(case.folder), "openvino", threads=1).answer(
            IMAGE, PROMPT, max_new_tokens=STEPS
        )
        assert answer.token_ids == case.answer.token_ids


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4", "int8_dynamic"])
def test_precisions(precision: str, cases: dict[str, Case]) -> None:
    """What points is never rounded: only what it is fed differs."""
    case = cases["many"]
    exact: Any = case.molmo.runtime
    runtime: Any = Molmo.load(str(case.folder), "onnx", threads=1, precision=precision).runtime
    for ours, theirs in zip(
        runtime.encode_patches(case.inputs.crops, case.inputs.pooling),
        exact.encode_patches(case.inputs.crops, case.inputs.pooling), strict=True,
    ):  # fmt: skip
        assert ours.dtype == np.float32
        assert (ours * theirs).sum() / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.99
    embeds, limits = exact.embed(case.turn), np.arange(1, len(case.turn) + 1)
    found, expected = (
        r.run(embeds, limits, r.new_cache(), np.arange(len(embeds)), logits=True) for r in (runtime, exact)
    )
    for ours, theirs in ((found.logits, expected.logits), (found.pointing, expected.pointing)):
        assert (ours * theirs).sum() / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.97


def test_graphs(cases: dict[str, Case], tmp_path: Path) -> None:
    """Written for a GPU in int4, what points is fp32 in them."""
    checkpoint = cases["many"].checkpoint
    export(checkpoint, tmp_path / "graphs", GPU_PRECISIONS["int4"])
    outputs, weights = {}, {}
    for part in (VISION, DECODER):
        model = onnx.load(str(tmp_path / "graphs" / f"{part}.onnx"))
        onnx.checker.check_model(model, full_check=True)
        outputs[part] = [value.name for value in model.graph.output]
        weights |= {w.name: w.data_type for w in model.graph.initializer}
    assert outputs[VISION] == ["patch_embeds", "patch_keys", "image_embeds"]
    assert outputs[DECODER] == ["pointing", "known", "token", "logit", "logprob", "logits", "new_kv"]
    points = [n for n in weights if ("point_predictor" in n and "x_norm" not in n) or "build_vit" in n]
    assert len(points) == 12 and all(weights[n] == onnx.TensorProto.FLOAT for n in points)
    assert cases["many"].pointer.nbytes > 4 * cases["many"].places.no_more * (64 + 4 * 64 + 4 * 32 + 32)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_tensorrt_compiles_it(precision: str, cases: dict[str, Case], tmp_path: Path) -> None:
    """Every attention of the towers is one kernel; that of pooling need not be."""
    pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13 to compile in tests")
    checkpoint = cases["many"].checkpoint
    export(checkpoint, tmp_path / "graphs", GPU_PRECISIONS[precision])
    ranges = builder.profiles(checkpoint, 1024)
    for part, attentions in ((VISION, checkpoint.config.vision.num_layers), (DECODER, 3)):
        source = tmp_path / "graphs" / f"{part}.onnx"
        compiled = compile_onnx("tensorrt_rtx", source, tmp_path / part, ranges[part][:1], 86)
        assert compiled.bytes > 1e6 and attentions <= compiled.attention_kernels <= attentions + 1, part


def test_wrong_companions(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c")
    tokenizer = (folder / "tokenizer.json").read_text()
    tiny_molmo2.tokenizer(BASE).save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has no token <POINT_0>, so it is of another"):
        load_checkpoint(str(folder))
    (folder / "tokenizer.json").write_text(tokenizer.replace(point_token(0), "<OTHER>").replace(
        point_token(1), point_token(0)))  # fmt: skip
    with pytest.raises(CheckpointError, match=r"<POINT_0> at 317, the model points from 316 on"):
        load_checkpoint(str(folder))
    config = (folder / "config.json").read_text()
    (folder / "tokenizer.json").write_text(tokenizer)
    (folder / "config.json").write_text(config.replace('_token_id": 312', '_token_id": 311'))
    with pytest.raises(CheckpointError, match=r"subpatch_token_id at 312, config.json at 311"):
        load_checkpoint(str(folder))
    (folder / "config.json").write_text(config.replace('"3x3"', '"4x4"'))
    with pytest.raises(CheckpointError, match="patch_location is '4x4', known is '3x3'"):
        load_checkpoint(str(folder))
    write_checkpoint(folder, max_crops=0)
    with pytest.raises(CheckpointError, match="points at patches of high resolution"):
        load_checkpoint(str(folder))
