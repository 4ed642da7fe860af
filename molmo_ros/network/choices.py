"""The end of the decoder graph: the next token is chosen where the logits are.

An answer is decoded greedily. All it needs of a row of logits is the most probable token, how probable that
is, and the logits of the few tokens that are asked about by name, such as digits: a few hundred bytes. A row
of logits is 600 kB at 152,000 tokens, and would have to leave the device in every pass.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from molmo_ros.network.config import AskedTokens
from molmo_ros.network.graph import Graph, Value

_NEVER = -1e9  # added to the logit of a token that must not be chosen


def choice_outputs(graph: Graph, logits: Value, asked: AskedTokens, vocabulary: int) -> None:
    """logits (N,V) fp32 -> token (N,1) int64, the most probable one that may be chosen, the first of equals;
    logit (N,1) of it; logprob (N,1), its log-probability among those that may be chosen; known (N,K), the
    logits of ``asked.columns``.

    A logit that is NaN or infinite makes the logprob of its row NaN or infinite.
    """
    columns = graph.index("known_tokens", asked.columns)
    graph.output(graph.gather(logits, columns, axis=1), "known", TensorProto.FLOAT, ["N", len(asked.columns)])
    if asked.never:
        bias = np.zeros(vocabulary, np.float32)
        bias[list(asked.never)] = _NEVER
        logits = graph.add(logits, graph.fp32_weight("never_tokens", bias))
    token = graph.op("ArgMax", logits, axis=1, keepdims=1)
    logprobs = graph.op("LogSoftmax", logits, axis=1)
    graph.output(token, "token", TensorProto.INT64, ["N", 1])
    for name, rows in (("logit", logits), ("logprob", logprobs)):
        chosen = graph.op("GatherElements", rows, token, axis=1)
        graph.output(chosen, name, TensorProto.FLOAT, ["N", 1])
