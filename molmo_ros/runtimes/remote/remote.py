"""A checkpoint behind an OpenAI-compatible server (vLLM, ``transformers serve``), shared by a fleet.

Takes the place of `answer.Molmo`: picture and prompt go out, the text that comes back goes through the same
parser. The text is streamed, so that a query ends as soon as the coordinates are known, and a cancelled one
stops the server too.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from molmo_ros.answer_format.confidence import annotate
from molmo_ros.answer_format.grammar import Plan
from molmo_ros.answer_format.json_points import JsonGrammar
from molmo_ros.checkpoint.preprocess import as_rgb
from molmo_ros.checkpoint.query import check_prompt_length, refuse_control_tokens
from molmo_ros.datatypes import Answer, Image, ImagePoint, Progress, ShouldStop
from molmo_ros.errors import ParameterError, ServerError
from molmo_ros.runtimes.remote.chat import TOP_LOGPROBS, Reply, chat_body, data_url
from molmo_ros.runtimes.remote.formats import AUTO, RemoteGrammar, check_format, grammar_of
from molmo_ros.runtimes.remote.server import Server
from molmo_ros.runtimes.remote.stream import read_reply

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteOptions:
    """Where the model is; the parameters ``remote_*`` of the node, see there."""

    url: str = "http://localhost:8000/v1"
    model: str = ""  # empty: the only one that the server lists
    key_env: str = "MOLMO_ROS_API_KEY"
    timeout_s: float = 20.0
    retries: int = 2
    image: str = "png"
    format: str = AUTO


class RemoteMolmo:
    """A model on a server, with the methods of `answer.Molmo`."""

    def __init__(self, options: RemoteOptions) -> None:
        """Raises: ParameterError if the address cannot be one."""
        if options.image not in ("png", "jpeg"):
            raise ParameterError(f"remote_image is {options.image!r}; choose png or jpeg.")
        check_format(options.format)
        if options.model:
            grammar_of(options.format, options.model)  # an unreadable kind of model is reported at once
        self._options = options
        key = os.environ.get(options.key_env, "").strip()
        self.server = Server(options.url, options.timeout_s, options.retries, key)
        self._model = options.model
        self._away = ""  # why the server did not answer when it was first asked
        self._logprobs = True  # until the server has refused them

    @classmethod
    def load(cls, options: RemoteOptions, progress: Progress | None = None) -> RemoteMolmo:
        """Like the constructor, and checks whether the server is reachable.

        An unreachable one may come up later (``info["away"]`` says why); a refusal raises at once.
        Raises: ParameterError, ServerError.
        """
        model = cls(options)
        if progress:
            progress(f"asking {options.url}", 0.5)
        try:
            names = model.models()
            log.info("The server %s has %s.", options.url, ", ".join(names) or "no model")
        except ServerError as error:
            if not error.retriable:
                raise
            model._away = str(error)
        if progress:
            progress("ready", 1.0)
        return model

    @property
    def info(self) -> dict[str, Any]:
        """What is known of it."""
        return {
            "checkpoint": self._model,
            "url": self._options.url,
            "runtime": "remote",
            "precision": "",
            "away": self._away,
        }

    def answer(
        self,
        rgb: Image,
        prompt: str,
        *,
        max_new_tokens: int = 192,
        max_points: int | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Answer:
        """As `Molmo.answer`. Raises: ServerError, AnswerError, CancelledError, QueryError, FrameError."""
        return self._ask(rgb, prompt, Plan(max_points=max_points, exact=True), max_new_tokens, should_stop)

    def point(
        self,
        rgb: Image,
        prompt: str,
        *,
        label: str = "",
        max_points: int | None = None,
        exact: bool = False,
        previous: Answer | None = None,  # of no use here
        max_new_tokens: int = 192,
        should_stop: ShouldStop | None = None,
    ) -> Answer:
        """As `Molmo.point`; confidence and covariance are NaN unless the server returns probabilities.

        Raises: as `answer`.
        """
        plan = Plan(label, max_points, exact)
        return self._ask(rgb, prompt, plan, max_new_tokens, should_stop, points=True)

    def models(self) -> list[str]:
        """The names of the server's models. Raises: ServerError."""
        text = b"".join(self.server.lines("GET", "/models", b"", _never))
        try:
            return [str(entry["id"]) for entry in json.loads(text)["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(
                f"{self._options.url}/models is no list of models ({error!r}); check remote_url."
            ) from error

    def close(self) -> None:
        """Nothing is held."""

    def _ask(
        self,
        rgb: Image,
        prompt: str,
        plan: Plan,
        max_new_tokens: int,
        should_stop: ShouldStop | None,
        points: bool = False,
    ) -> Answer:
        check_prompt_length(prompt)
        refuse_control_tokens(prompt)
        stop = should_stop or _never
        model = self._model or self._only_model()
        grammar = grammar_of(self._options.format, model)
        if isinstance(grammar, JsonGrammar):
            prompt = grammar.instruct(prompt) if points else prompt
            max_new_tokens *= grammar.tokens_per_molmo
        rgb = as_rgb(rgb)
        start = time.perf_counter()
        picture = data_url(rgb, self._options.image)
        made_ms = (time.perf_counter() - start) * 1e3
        body = chat_body(model, picture, prompt, max_new_tokens)
        reply = self._reply(body, plan, grammar, stop)
        if reply.finish == "length":
            log.warning("The answer was cut off after %d tokens; narrow the query.", max_new_tokens)
        text = reply.text if plan.exact else grammar.finish(reply.text, plan.label)
        stages = {"preprocess": made_ms, "prefill": reply.first_ms, "decode": reply.rest_ms}
        found = _points(text, reply, grammar, rgb.shape[1], rgb.shape[0])
        return Answer(text, found, logprobs=tuple(reply.logprobs), stages_ms=stages)

    def _only_model(self) -> str:
        names = self.server.call(self.models, _never)
        if len(names) != 1:
            raise ParameterError(
                f"The server has {len(names)} models ({', '.join(names[:5])}); choose one by remote_model."
            )
        self._model = names[0]
        return self._model

    def _reply(
        self, body: dict[str, Any], plan: Plan, grammar: RemoteGrammar, should_stop: ShouldStop
    ) -> Reply:
        """The answer; once more without probabilities if the server refuses to return them."""
        asked = {**body, "logprobs": True, "top_logprobs": TOP_LOGPROBS} if self._logprobs else body
        data = json.dumps(asked).encode()

        def done(text: str) -> bool:  # nothing that was asked for can follow
            return grammar.done(text, plan)

        try:
            return self.server.call(lambda: read_reply(self.server, data, done, should_stop), should_stop)
        except ServerError as error:
            if not self._logprobs or "logprob" not in str(error):
                raise
            log.info("The server tells no probabilities, so confidences are unknown: %s", error)
            self._logprobs = False
            return self._reply(body, plan, grammar, should_stop)


def _points(
    text: str, reply: Reply, grammar: RemoteGrammar, width: int, height: int
) -> tuple[ImagePoint, ...]:
    found = grammar.parse(text, width, height)
    if reply.known:
        return annotate(found, grammar.scan(text), reply.tokens, width, height)
    unknown = np.full((2, 2), np.nan)
    return tuple(replace(p, confidence=float("nan"), covariance=unknown) for p in found)


def _never() -> bool:
    return False
