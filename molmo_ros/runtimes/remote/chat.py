"""The part of OpenAI's chat protocol that a pointing model needs: pictures out, streamed text back."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from molmo_ros.answer_format.confidence import Token
from molmo_ros.datatypes import Image
from molmo_ros.errors import FrameError, ServerError

JPEG_QUALITY = 95
TOP_LOGPROBS = 20  # enough for the ten digits; the most that vLLM gives unless told otherwise


def chat_body(model: str, picture: str, prompt: str, max_tokens: int) -> dict[str, Any]:
    """A request for a streamed greedy answer about one picture, a data URL."""
    content = [
        {"type": "image_url", "image_url": {"url": picture}},  # before the words, as in training
        {"type": "text", "text": prompt},
    ]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0.0,
        "max_tokens": max_tokens,
        "stream": True,
    }


@dataclass
class Reply:
    """What has arrived so far; ``finish`` says why there is no more; empty: there may be."""

    start: float
    text: str = ""
    finish: str = ""
    events: int = 0
    first_ms: float = 0.0
    tokens: list[Token] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def known(self) -> bool:
        """Whether the probabilities of all its text were sent (and perhaps that of its end)."""
        return bool(self.tokens) and "".join(t.text for t in self.tokens).startswith(self.text)

    @property
    def rest_ms(self) -> float:
        return (time.perf_counter() - self.start) * 1e3 - self.first_ms

    def take(self, event: dict[str, Any], part: str) -> None:
        """An event of the stream ("delta"), or a whole answer ("message"). Raises: ServerError."""
        self.events += 1
        try:
            for choice in event["choices"][:1]:  # an event with only the usage has none
                content = (choice.get(part) or {}).get("content") or ""
                if content and not self.text:
                    self.first_ms = (time.perf_counter() - self.start) * 1e3
                for entry in (choice.get("logprobs") or {}).get("content") or []:
                    self._take_token(entry)
                self.text += content
                self.finish = choice.get("finish_reason") or self.finish
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ServerError(
                f"The server's answer is not that of a chat ({error!r}); it must speak OpenAI's protocol."
            ) from error

    def _take_token(self, entry: dict[str, Any]) -> None:
        logprob = min(float(entry["logprob"]), 0.0)
        others = {
            str(other["token"]): float(np.exp(other["logprob"]))
            for other in entry.get("top_logprobs") or []
            if str(other["token"]).isdigit()
        }
        text = str(entry["token"])
        start = sum(len(t.text) for t in self.tokens)
        self.tokens.append(Token(text, start, float(np.exp(logprob)), others if text.isdigit() else {}))
        self.logprobs.append(logprob)


def data_url(rgb: Image, kind: str) -> str:
    """rgb (H,W,3) uint8 as a data URL, kind "png" (lossless) or "jpeg"."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if kind == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    good, data = cv2.imencode(f".{kind}", np.ascontiguousarray(rgb[:, :, ::-1]), options)
    if not good:
        raise FrameError(f"The image {rgb.shape} cannot be written as {kind}; check the camera.")
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"
