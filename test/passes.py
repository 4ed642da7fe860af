"""What two runtimes of one network say, for tests that compare them."""

from __future__ import annotations

from typing import Any

import numpy as np

from molmo_ros.answer.molmo import Molmo
from molmo_ros.datatypes import Image
from molmo_ros.runtimes.base import Runtime


def run_logits(runtime: Runtime, *given: Any) -> np.ndarray:
    """(N,vocabulary); ``given`` as to ``Runtime.run``."""
    found = runtime.run(*given, logits=True)
    assert found.logits is not None
    return found.logits


def assert_same_answers(expected: Molmo, found: Molmo, pictures: tuple[Image, Image]) -> None:
    """First and second question on a picture, with drafts and without; then a picture seen before."""
    first, second = pictures
    for rgb in (first, second, first):
        for drafts in (True, False):
            for prompt in ("Point to the mug.", "Point to the red bowl."):
                a, b = (m.answer(rgb, prompt, max_new_tokens=24, drafts=drafts) for m in (expected, found))
                assert a.token_ids == b.token_ids
                assert np.abs(np.subtract(a.logprobs, b.logprobs)).max() < 1e-5
