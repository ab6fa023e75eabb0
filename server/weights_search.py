"""Which settings of weight sharing are tried, for how many rounds each, and in which order."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fedkr.config import Allotment, SearchConfig, StudentConfig

# A figure on val, higher is better, and the negative loss for ties.
Score = tuple[float, float]


@dataclass(frozen=True)
class Candidate:
    """One setting of the search."""

    lr: float
    local_epochs: int
    norm: str = "batch"

    @property
    def name(self) -> str:
        """Return the setting as it names files and seeds."""
        return f"lr{float(self.lr)!r}-e{self.local_epochs}" + ("" if self.norm == "batch" else f"-{self.norm}")


@dataclass(frozen=True)
class Plan:
    """How many rounds each setting gets, so that the sites take no more steps in the mean than they are allotted.

    Attributes:
        search: the options.
        given: steps, and looks at most.
        images: the sites' numbers of training images.
        batch: images a step.
        val: how many val images the sites have together.
    """

    search: SearchConfig
    given: Allotment
    images: Sequence[float]
    batch: int
    val: int

    @cached_property
    def local_epochs(self) -> list[int]:
        """The numbers of local epochs to try: 1 as well where a round of all others is longer than a look."""
        per_look, listed = self.given.per_look, list(dict.fromkeys(self.search.local_epochs))
        return (
            listed if any(self._steps(epochs) <= per_look for epochs in listed) else list(dict.fromkeys([*listed, 1]))
        )

    @cached_property
    def tried(self) -> Allotment:
        """The allotment of so many looks that there are settings for whose first round is no longer than a look.

        The sites' first round, of the first setting, told their numbers of images: where that setting is not tried, its
        steps are taken from the others'.
        """
        begun, alike = self._steps(self.search.local_epochs[0]), len({*self.search.lrs}) * len({*self.search.norms})
        for looks in range(self.given.looks if self.search.search_rounds else 0, 1, -1):
            whole = Allotment(self.given.steps, looks)
            found = whole if begun <= whole.per_look else Allotment(max(0, self.given.steps - math.ceil(begun)), looks)
            if alike * sum(self._steps(epochs) <= found.per_look for epochs in self.local_epochs) >= looks:
                return found
        return Allotment(self.given.steps, 0)

    @cached_property
    def schedule(self) -> int:
        """The steps of the chosen setting's full schedule: what the dearest looks at all others leave."""
        looks = [self._first_rounds(epochs) * self._steps(epochs) for epochs in self.local_epochs]
        return self.tried.steps - math.ceil(max(0, self.tried.looks - 1) * max(looks))

    def steps_of_round(self, candidate: Candidate) -> float:
        """Return the steps of one round, the mean over the sites."""
        return self._steps(candidate.local_epochs)

    def rounds(self, candidate: Candidate) -> int:
        """Return the length of a setting's full schedule, one round at least."""
        return max(1, min(self.search.rounds, self._affordable(candidate)))

    def capped(self, candidate: Candidate) -> bool:
        """Whether the most rounds, and not the steps, end a setting's schedule."""
        return self._affordable(candidate) > self.search.rounds

    def looked(self, candidate: Candidate) -> int:
        """Return after how many rounds a setting is looked at; 0 where one round is more than its part of the steps."""
        return min(self.rounds(candidate), self._first_rounds(candidate.local_epochs))

    def _steps(self, local_epochs: int) -> float:
        steps = [max(1, math.ceil(local_epochs * count / self.batch)) for count in self.images]
        return sum(steps) / len(steps)

    def _first_rounds(self, local_epochs: int) -> int:
        return min(self.search.search_rounds, int(self.tried.per_look / self._steps(local_epochs)))

    def _affordable(self, candidate: Candidate) -> int:
        return int(self.schedule / self.steps_of_round(candidate))


def first_setting(search: SearchConfig, student: StudentConfig) -> Candidate:
    """Return what is tried first, and taken where nothing is: the first of each list, with the recipe's own norm."""
    return Candidate(search.lrs[0], search.local_epochs[0], _norms(search, student)[0])


def try_settings(
    search: SearchConfig, student: StudentConfig, plan: Plan, look: Callable[[Candidate], Score]
) -> dict[Candidate, Score]:
    """Look at as many settings as the plan has looks; return their scores.

    One kind of setting is varied after the other, at the best so far, as ``fedkr``'s tuning varies its knobs: learning
    rate, norm, local epochs; then anew until no neighbour of the best is untried. Looks that are left go to the other
    settings, in the order of the lists.
    """
    kinds: dict[str, Sequence[Any]] = {
        "lr": search.lrs,
        "norm": _norms(search, student),
        "local_epochs": plan.local_epochs,
    }
    scores: dict[Candidate, Score] = {}

    def try_each(candidates: Iterable[Candidate]) -> None:
        for candidate in candidates:
            if candidate not in scores and len(scores) < plan.tried.looks and plan.looked(candidate):
                scores[candidate] = look(candidate)

    best, before = first_setting(search, student), -1
    while len(scores) > before:
        before = len(scores)
        for name, values in kinds.items():
            try_each([dataclasses.replace(best, **{name: value}) for value in values])
            best = max(scores, key=lambda c: scores[c], default=best)
    try_each(Candidate(lr, epochs, norm) for lr, norm, epochs in itertools.product(*kinds.values()))
    return scores


def settings(search: SearchConfig) -> int:
    """Return how many settings there are."""
    return len({*search.lrs}) * len({*search.local_epochs}) * len({*search.norms})


def _norms(search: SearchConfig, student: StudentConfig) -> list[str]:
    """Return the norms to try, the recipe's own first where it is among them."""
    return sorted(search.norms, key=lambda norm: norm != student.norm)
