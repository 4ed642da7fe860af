"""What is left of the candidates after the checks, and what became of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from molmo_ros.datatypes import Array, Index
from molmo_ros.grasp.candidates import Candidates


@dataclass(frozen=True)
class Fits:
    """The candidates that pass (P of them), as hands.

    rotation (P,3,3); tips (P,3) m, midway between the fingertips; opening (P,) m, the widest that is free,
    and least (P,) m, the narrowest: less would put a finger into the object;
    width (P,) m between the contacts; contact (P,3) m their middle; cosine (P,) the worse contact's |n.y|;
    squeeze (P,) how far both contacts slope so that closing pushes the object out of the hand, as a sine;
    grip (P,) points at the poorer contact; slack (P,) m of opening to spare; table (P,) m of clearance beyond
    the least; shift (P,) m by recentring; guessed (P,) mirrored points hit by the fingers; bite (P,) m of
    the object between the fingers, from the tips up; crowd (P,) points of neighbours near the fingers.
    """

    rotation: Array
    tips: Array
    opening: Array
    least: Array
    width: Array
    contact: Array
    cosine: Array
    squeeze: Array
    grip: Index
    slack: Array
    table: Array
    shift: Array
    guessed: Index
    bite: Array
    crowd: Index

    def __len__(self) -> int:
        return len(self.opening)

    @staticmethod
    def joined(parts: Sequence[Fits]) -> Fits:
        """Concatenate some, at least one."""
        return Fits(*(np.concatenate([getattr(p, field.name) for p in parts]) for field in fields(Fits)))

    def take(self, index: Index) -> Fits:
        """Return a choice of them."""
        return Fits(*(getattr(self, field.name)[index] for field in fields(self)))

    def candidates(self, index: Index) -> Candidates:
        """Return a choice of them as candidates, to be checked again."""
        depth = np.sum((self.tips - self.contact) * self.rotation[:, :, 2], axis=1)
        return Candidates(self.rotation, self.contact, self.width / 2, depth, self.cosine).take(index)


@dataclass(frozen=True)
class Refusals:
    """How many candidates failed, by the first reason."""

    table: int = 0
    no_opening: int = 0
    nothing_between: int = 0
    neighbour: int = 0
    palm: int = 0

    def __add__(self, other: Refusals) -> Refusals:
        return Refusals(
            self.table + other.table,
            self.no_opening + other.no_opening,
            self.nothing_between + other.nothing_between,
            self.neighbour + other.neighbour,
            self.palm + other.palm,
        )

    def text(self) -> str:
        """Name the reasons, each with its number."""
        reasons = {
            "the table": self.table,
            "no free opening": self.no_opening,
            "no two opposite faces": self.nothing_between,
            "a neighbour between the fingers": self.neighbour,
            "the palm": self.palm,
        }
        return ", ".join(f"{count} for {why}" for why, count in reasons.items() if count)
