"""A text-only model behind an OpenAI-compatible server, with a deadline."""

from __future__ import annotations

import json
import os

from molmo_ros.datatypes import ShouldStop
from molmo_ros.runtimes.remote.server import Server
from molmo_ros.runtimes.remote.stream import read_reply

MAX_TOKENS = 64


class RemoteWords:
    """Asks once, greedily, without retries: the caller has a deadline."""

    def __init__(self, url: str, model: str, timeout_s: float, key_env: str) -> None:
        """Raises: ParameterError if the address cannot be one."""
        self._server = Server(url, timeout_s, retries=0, key=os.environ.get(key_env, "").strip())
        self._model = model

    def ask(self, instruction: str, question: str, should_stop: ShouldStop) -> str:
        """The answer to one question; ``instruction`` is the system's message, empty: none.

        Raises: ServerError if no whole answer comes in time, CancelledError.
        """
        system = [{"role": "system", "content": instruction}] if instruction else []
        body = {
            "model": self._model,
            "messages": [*system, {"role": "user", "content": question}],
            "temperature": 0.0,
            "max_tokens": MAX_TOKENS,
            "stream": True,
        }
        data = json.dumps(body).encode()
        return self._server.call(
            lambda: read_reply(self._server, data, lambda text: False, should_stop).text, should_stop
        )
