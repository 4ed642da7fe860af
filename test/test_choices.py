"""The next token, chosen by the end of the decoder graph, beside that which is read off logits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from molmo_ros.network.choices import choice_outputs
from molmo_ros.network.config import AskedTokens
from molmo_ros.network.graph import Graph
from molmo_ros.runtimes.choices import DeviceChoices, LogitChoices

COLUMNS = 3000
NAMES = ["token", "logit", "logprob", "known"]


def by_graph(logits: np.ndarray, asked: AskedTokens) -> DeviceChoices:
    import onnxruntime

    graph = Graph("choices")
    choice_outputs(graph, graph.input("logits", TensorProto.FLOAT, ["N", COLUMNS]), asked, COLUMNS)
    session: Any = onnxruntime.InferenceSession(
        graph.model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return DeviceChoices(dict(zip(NAMES, session.run(NAMES, {"logits": logits}), strict=True)))


@pytest.mark.parametrize("asked", [AskedTokens((7, 5, 2999)), AskedTokens((3, 9), (9, 4)), AskedTokens()])
def test_as_read_off_the_logits(asked: AskedTokens) -> None:
    logits = np.random.default_rng(0).normal(20, 8, (40, COLUMNS)).astype(np.float32)
    logits[:, [2, 5]] = logits.max(axis=1, keepdims=True) + 1  # of equals, the first
    logits[:8, 9] += 60  # the most probable, and in one case not allowed
    found, expected = by_graph(logits, asked), LogitChoices(logits, asked)
    assert found.tokens == expected.tokens and set(found.tokens) == ({2, 9} - set(asked.never))
    for row in range(len(logits)):
        a, b = found.choice(row), expected.choice(row)
        assert a.token == b.token and a.logprob == pytest.approx(b.logprob, abs=1e-5)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
        assert b.scores.shape == (len(asked.columns),)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 1234, slice(None)])
def test_numbers_that_overflowed_are_seen(number: float, at: Any) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (1, COLUMNS)).astype(np.float32)
    logits[0, at] = number
    for choices in (by_graph(logits, AskedTokens((7,))), LogitChoices(logits, AskedTokens((7,)))):
        assert not math.isfinite(choices.choice(0).logprob)
