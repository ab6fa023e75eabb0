"""Which settings of weight sharing are tried, for how many rounds each, and in which order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedkr.config import Allotment, SearchConfig, StudentConfig

# A figure on val, higher is better, and the negative loss for ties.
Score = tuple[float, float]
DIVERGED = (-math.inf, -math.inf)


@dataclass(frozen=True)
class Candidate:
    """One setting of the search."""

    lr: float
    local_epochs: int
    norm: str = "batch"

    @property
    def name(self) -> str:
        """Return the setting as it names files and seeds."""
        return f"lr{self.lr:g}-e{self.local_epochs}" + ("" if self.norm == "batch" else f"-{self.norm}")


@dataclass(frozen=True)
class Plan:
    """How many rounds each setting gets, so that the sites take no more steps in the mean than they are allotted.

    Attributes:
        search: the options.
        given: steps and looks.
        images: the sites' numbers of training images.
        batch: images a step.
        val: how many val images the sites have together.
    """

    search: SearchConfig
    given: Allotment
    images: Sequence[float]
    batch: int
    val: int

    def steps_of_round(self, candidate: Candidate) -> float:
        """Return the steps of one round, the mean over the sites."""
        steps = [max(1, math.ceil(candidate.local_epochs * count / self.batch)) for count in self.images]
        return sum(steps) / len(steps)

    def rounds(self, candidate: Candidate) -> int:
        """Return the length of a setting's full schedule, one round at least."""
        return max(1, min(self.search.rounds, int(self.given.schedule / self.steps_of_round(candidate))))

    def looked(self, candidate: Candidate) -> int:
        """Return after how many rounds a setting is looked at; 0 where one round is more than its part of the steps."""
        rounds = int(self.given.per_look / self.steps_of_round(candidate))
        return min(self.search.search_rounds, self.rounds(candidate), rounds)


def first_setting(search: SearchConfig, student: StudentConfig) -> Candidate:
    """Return what is tried first, and taken where nothing is: the first of each list, with the recipe's own norm."""
    return Candidate(search.lrs[0], search.local_epochs[0], _norms(search, student)[0])


def try_settings(
    search: SearchConfig, student: StudentConfig, plan: Plan, look: Callable[[Candidate], Score]
) -> dict[Candidate, Score]:
    """Look at as many settings as the plan has looks; return their scores.

    One kind of setting is varied after the other, at the best so far, as ``fedkr``'s tuning varies its knobs: learning
    rate, norm, local epochs; then anew until no neighbour of the best is untried.
    """
    kinds: dict[str, Sequence[Any]] = {
        "lr": search.lrs,
        "norm": _norms(search, student),
        "local_epochs": search.local_epochs,
    }
    scores: dict[Candidate, Score] = {}
    best, before = first_setting(search, student), -1
    while len(scores) > before:
        before = len(scores)
        for name, values in kinds.items():
            for candidate in [dataclasses.replace(best, **{name: value}) for value in values]:
                if candidate not in scores and len(scores) < plan.given.looks and plan.looked(candidate):
                    scores[candidate] = look(candidate)
            best = max(scores, key=lambda c: scores[c], default=best)
    return scores


def settings(search: SearchConfig) -> int:
    """Return how many settings there are."""
    return len(search.lrs) * len(search.local_epochs) * len(search.norms)


def _norms(search: SearchConfig, student: StudentConfig) -> list[str]:
    """Return the norms to try, the recipe's own first where it is among them."""
    return sorted(search.norms, key=lambda norm: norm != student.norm)
