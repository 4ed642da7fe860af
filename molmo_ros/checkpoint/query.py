"""From a user's words to the prompt of a model: cleaning, and the question templates of the training data."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from molmo_ros.errors import QueryError

MAX_QUERY_CHARS = 256
MAX_PROMPT_CHARS = 1024

# Nobody types this much; refuse before spending time on it.
_MAX_RAW_CHARS = 16 * MAX_PROMPT_CHARS
_MAX_PASSES = 10

# Control tokens of the Qwen and OLMo tokenizers and of the three Molmo generations.
_SPECIAL = re.compile(
    r"<\|[^<>|]{0,64}\|>"
    r"|\|<EXTRA_TOKENS_[0-9]+>\|"
    r"|</?(?:im_start|im_end|im_patch|im_col|im_low|low_res_im_start|frame_start|frame_end)>"
    r"|</?(?:think|tool_call|tool_response)>"
    r"|<POINT_[0-9]+>",
    re.IGNORECASE,
)
# Text that would pass for another turn of Molmo v1, whose template is plain text, or for an answer.
ROLE = re.compile(r"\b(?:user|assistant|system)\s*:", re.IGNORECASE)
_MARKUP = re.compile(r"</?(?:points?|tracks)\b[^<>]*>?", re.IGNORECASE)
_DETERMINER = re.compile(
    r"(?:the|a|an|all|any|every|each|both|some|my|your|his|her|our|their|this|that|these|those|one|two|three"
    r"|[0-9]+)\b",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"(?:all(?: of)? the|the|all|every|each|a|an)\s+(?=\S)", re.IGNORECASE)
_ORDER = re.compile(r"(?:please\s+)?(?:point (?:to|at)|find|locate|show me)\s+(?=\S)", re.IGNORECASE)


@dataclass(frozen=True)
class Query:
    """A user's words, parsed once where they enter: at a service, on the command line, in ``Grounder``.

    text: the words, cleaned; label: the noun that the model would write beside its points ("all the mugs" ->
    "mugs"), empty for a free question; prompt: what the model is asked.
    """

    text: str
    label: str
    prompt: str


def parse_query(text: str | Query, max_chars: int = MAX_QUERY_CHARS) -> Query:
    """Name of a thing -> a query for its points: "red mug" -> "Point to the red mug.".

    The user's own determiner is kept. Lower case, like the labels of Molmo's training data. A Query is
    returned as it is. Raises: QueryError if the text is empty, longer than ``max_chars``, or names nothing.
    """
    if isinstance(text, Query):
        return text
    clean = _clean(text, max_chars)
    thing = _ORDER.sub("", clean, count=1).rstrip(" .!?,;:").lower()
    if not thing:
        raise QueryError(f'The query "{clean[:40]}" names nothing; try "the red mug".')
    prompt = f"Point to {thing}." if _DETERMINER.match(thing) else f"Point to the {thing}."
    return Query(clean, _ARTICLE.sub("", thing, count=1), prompt)


def parse_question(text: str | Query, max_chars: int = MAX_PROMPT_CHARS) -> Query:
    """A free question, cleaned but otherwise as it stands; a Query is returned as it is.

    Raises: QueryError if it is empty or longer than ``max_chars``.
    """
    if isinstance(text, Query):
        return text
    clean = _clean(text, max_chars)
    return Query(clean, "", clean)


def counting_prompt(query: Query) -> str:
    """ "the mugs" -> "How many mugs are there?"; the plural is the user's."""
    return f"How many {query.label} are there?"


def check_prompt_length(prompt: str) -> None:
    """Raise QueryError if ``prompt`` is empty or longer than MAX_PROMPT_CHARS."""
    if not prompt.strip() or len(prompt) > MAX_PROMPT_CHARS:
        raise QueryError(f"The prompt has {len(prompt)} characters; it must have 1 to {MAX_PROMPT_CHARS}.")


def refuse_control_tokens(prompt: str) -> None:
    """Raise QueryError if ``prompt`` holds what a Molmo tokenizer reads as a control token.

    For prompts that go to a server, whose tokenizer cannot be asked.
    """
    if found := _SPECIAL.search(prompt):
        raise QueryError(f"The prompt contains the control token {found[0]!r}; leave it out.")


def _clean(text: str, max_chars: int) -> str:
    """``text`` in one line, without control characters, control tokens and extra spaces."""
    if len(text) > _MAX_RAW_CHARS:
        raise QueryError(f"The query has {len(text)} characters; shorten it to {max_chars}.")
    clean = " ".join(_without_specials(_without_controls(text)).split())
    if not clean:
        raise QueryError('The query is empty; name a thing to look for, such as "the red mug".')
    if len(clean) > max_chars:
        raise QueryError(f"The query has {len(clean)} characters; shorten it to {max_chars}.")
    return clean


def _without_controls(text: str) -> str:
    """Categories Cc, Cf, Cs, Co, Cn: control, invisible, half a surrogate pair, private, unassigned."""
    text = unicodedata.normalize("NFC", re.sub(r"\s", " ", text))
    return "".join(c for c in text if not unicodedata.category(c).startswith("C"))


def _without_specials(text: str) -> str:
    """Without control tokens, turns and answers; removing one may join the parts of another around it.

    Raises: QueryError for a text that is nested on purpose: each layer would cost one more pass.
    """
    for _ in range(_MAX_PASSES):
        shorter = ROLE.sub("", _MARKUP.sub("", _SPECIAL.sub("", text)))
        shorter = unicodedata.normalize("NFC", shorter)  # characters that were apart may compose now
        if shorter == text:
            return text
        text = shorter
    raise QueryError("The query is made of control tokens inside each other; name a thing in plain words.")
