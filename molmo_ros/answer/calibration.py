"""Calibration of confidence and covariance: constants beside a checkpoint, measured on scenes.

Confidence: log-odds are scaled and shifted (Platt scaling, Platt 1999). Covariance: one factor. Without
calibration.json, as in a downloaded checkpoint, both stay as the model gives them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from molmo_ros.datatypes import ImagePoint
from molmo_ros.errors import CheckpointError
from molmo_ros.untrusted import read_json

FILE = "calibration.json"
_EPSILON = 1e-6  # of a probability: the log-odds of 1 are infinite


@dataclass(frozen=True)
class Calibration:
    """``slope`` and ``offset`` of the log-odds, ``variance`` the factor on covariances; default: identity."""

    slope: float = 1.0
    offset: float = 0.0
    variance: float = 1.0

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        """That of a checkpoint folder. Raises: CheckpointError if the file exists but makes no sense."""
        path = folder / FILE
        if not path.is_file():
            return cls()
        try:
            fields = read_json(path)
            found = cls(**{name: float(fields[name]) for name in ("slope", "offset", "variance")})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is no calibration ({error!r}); delete it or measure it again."
            ) from error
        if not (0 < found.slope < 100 and abs(found.offset) < 100 and 0 < found.variance < 1e4):
            raise CheckpointError(f"{path} is out of range ({found}); delete it or measure it again.")
        return found

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def confidence(self, raw: float) -> float:
        """The share of points with this raw confidence that are right."""
        return 1 / (1 + math.exp(-(self.slope * log_odds(raw) + self.offset)))

    def apply(self, points: Iterable[ImagePoint]) -> tuple[ImagePoint, ...]:
        """The points with calibrated confidence and covariance."""
        if self == Calibration():
            return tuple(points)
        return tuple(
            replace(p, confidence=self.confidence(p.confidence), covariance=p.covariance * self.variance)
            for p in points
        )


def log_odds(probability: float) -> float:
    p = min(max(probability, _EPSILON), 1 - _EPSILON)
    return math.log(p / (1 - p))
