"""How the model on a server writes points: chosen by the user, or by the model's name."""

from __future__ import annotations

import logging
import re

from molmo_ros.answer_format.grammar import Format, Grammar
from molmo_ros.answer_format.json_points import JsonGrammar
from molmo_ros.errors import ParameterError

log = logging.getLogger(__name__)

AUTO, GEMINI = "auto", "gemini"
FORMATS = (AUTO, *(f.value for f in Format), GEMINI)
RemoteGrammar = Grammar | JsonGrammar

_BY_NAME = (
    (re.compile(r"gemini", re.IGNORECASE), GEMINI),
    (re.compile(r"molmo-?2", re.IGNORECASE), Format.MOLMO2.value),
    (re.compile(r"molmoe|molmo-(?:7b|72b)", re.IGNORECASE), Format.MOLMO1.value),
)


def check_format(name: str) -> None:
    """Raises: ParameterError."""
    if name not in FORMATS:
        raise ParameterError(f"remote_format is {name!r}; choose {', '.join(FORMATS)}.")


def grammar_of(format_name: str, model: str) -> RemoteGrammar:
    """The grammar of a format; "auto" goes by the model's name, and falls back on Molmo2's.

    Raises: ParameterError for MolmoPoint, whose points are tokens that a server's text does not tell apart.
    """
    if format_name == AUTO:
        if re.search(r"molmo-?point", model, re.IGNORECASE):
            raise ParameterError(
                f"{model} points by choosing patches, which cannot be read from a server's text; run it here "
                "(runtime onnx), or serve a Molmo2. If it does write coordinates, set remote_format."
            )
        format_name = next((kind for pattern, kind in _BY_NAME if pattern.search(model)), "")
        if not format_name:
            format_name = Format.MOLMO2.value
            log.info("The name %r tells no format; reading points as Molmo2's (see remote_format).", model)
    return JsonGrammar() if format_name == GEMINI else Grammar(Format(format_name))
