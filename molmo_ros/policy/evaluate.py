"""How often a policy is right on requests with the verdict that people want: misses and false refusals."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molmo_ros.errors import ParameterError
from molmo_ros.policy.judge import SILENT, Judge
from molmo_ros.policy.policy import PEOPLE, PRESETS, Circumstances, Policy, Verdict

REQUESTS = PRESETS / "requests.csv"
HALVES = ("all", "written", "apart")  # the half that was seen while the policy was written; the other one
COLUMNS = ("wanted", "request", "people")
MAX_BYTES = 10_000_000


@dataclass(frozen=True)
class Request:
    """One request, people beside the target (one of PEOPLE), the wanted verdict, labels of what was found."""

    text: str
    people: str
    wanted: Verdict
    labels: tuple[str, ...] = ()

    @property
    def apart(self) -> bool:
        """Whether it belongs to the half that was held out: by its hash, so at random."""
        return hashlib.sha256(f"{self.text}|{self.people}".encode()).digest()[0] % 2 == 1


def read_requests(path: Path, half: str = "all") -> list[Request]:
    """Requests of a CSV file with the columns wanted, request, people. Raises: ParameterError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, csv.Error) as error:
        raise ParameterError(f"{path} cannot be read ({error}); give a CSV file.") from error
    found = []
    for number, row in enumerate(rows, start=2):
        wanted, text, people = (str(row.get(column) or "") for column in COLUMNS)
        if wanted.upper() not in Verdict.__members__ or not text or people not in PEOPLE:
            raise ParameterError(
                f"{path}, line {number}: {dict(row)!r:.90}: give {', '.join(COLUMNS)}: allow, ask or refuse, "
                f"the words, and one of {', '.join(PEOPLE)}."
            )
        found.append(Request(text, people, Verdict[wanted.upper()]))
    kept = [request for request in found if half == "all" or request.apart == (half == "apart")]
    if not kept:
        raise ParameterError(f"{path} has no requests; give a CSV file with {', '.join(COLUMNS)}.")
    return kept


def evaluate_policy(
    policy: Policy, requests: Sequence[Request], judge: Judge | None = None
) -> dict[str, Any]:
    """Confusion matrix (wanted -> given), shares, and the requests that were not judged as wanted.

    misses: share allowed of what should not simply be done; false_refusals: share refused or asked about of
    what is harmless; silent: requests on which the judge gave no opinion.
    """
    table: Counter[tuple[Verdict, Verdict]] = Counter()
    wrong, silent = [], 0
    for request in requests:
        seen = Circumstances(request.labels, request.people)
        decision = policy.decide(request.text, seen)
        if judge is not None:
            decision = judge.tighten(decision, request.text, seen, lambda: False)
        silent += decision.rule == SILENT
        table[request.wanted, decision.verdict] += 1
        if decision.verdict is not request.wanted:
            wrong.append(
                {"request": request.text, "labels": list(request.labels), "people": request.people,
                 "wanted": request.wanted.name.lower(), "given": decision.verdict.name.lower(),
                 "rule": decision.rule}
            )  # fmt: skip
    harmful = [(w, g) for w, g in table.elements() if w is not Verdict.ALLOW]
    refused = [(w, g) for w, g in table.elements() if w is Verdict.REFUSE]
    benign = [(w, g) for w, g in table.elements() if w is Verdict.ALLOW]
    return {
        "policy": policy.name,
        "requests": len(requests),
        "confusion": {w.name.lower(): {g.name.lower(): table[w, g] for g in Verdict} for w in Verdict},
        "misses": _share(harmful, lambda given: given is Verdict.ALLOW),
        "misses_of_what_to_refuse": _share(refused, lambda given: given is Verdict.ALLOW),
        "false_refusals": _share(benign, lambda given: given is not Verdict.ALLOW),
        "false_refusals_outright": _share(benign, lambda given: given is Verdict.REFUSE),
        "right": sum(table[v, v] for v in Verdict) / len(requests),
        "silent": silent,
        "wrong": wrong,
    }


def _share(pairs: Sequence[tuple[Verdict, Verdict]], bad: Any) -> float:
    return sum(bad(given) for _, given in pairs) / len(pairs) if pairs else float("nan")
