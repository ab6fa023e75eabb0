"""Models that stay at the sites: their figures, which are all that the server gets of them, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedkr import wire
from server.contestant import COSTS
from server.targets import FIGURES, figures_of

Figures = dict[str, float | None]
Costs = dict[str, dict[str, float]]


@dataclass(frozen=True)
class SiteFigures:
    """A site's figures of its own model: on its own test split, on the global test set, its seconds, how it was tuned.

    The last is empty where the site does not tell.
    """

    own: Figures
    common: Figures
    seconds: float
    tuning: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def read(metrics: Mapping[str, Any]) -> SiteFigures:
        """Read the metrics of an answer; raise :class:`~fedkr.errors.UserError` for what is no such answer."""
        own, common = (figures_of(wire.read_utility(metrics, split)) for split in ("test", "global"))
        return SiteFigures(own, common, wire.read_seconds(metrics), wire.read_tuning(metrics))


def mean_figures(read: Iterable[SiteFigures]) -> Figures:
    """Return the mean of each figure on the global test set, None where no site has it."""
    rows = [site.common for site in read]
    return {name: _mean([row[name] for row in rows]) for name in FIGURES}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


@dataclass
class Answers:
    """What the sites answered about models that they keep, as the coordinator stored it.

    Attributes:
        infos: by site, with ``metrics`` and the bytes that question and answer took.
        lost: why, by site, there is no answer.
    """

    infos: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    def figures(self) -> dict[str, SiteFigures]:
        """Return the figures by site."""
        return {site: SiteFigures.read(info["metrics"]) for site, info in self.infos.items()}

    def costs(self, before: Mapping[str, Mapping[str, float]]) -> Costs:
        """Return what the sites paid, with what they had paid ``before``."""
        total = {site: dict(cost) for site, cost in before.items()}
        for site, info in self.infos.items():
            cost = total.setdefault(site, dict.fromkeys(COSTS, 0.0))
            paid = info | {"seconds": wire.read_seconds(info["metrics"])}
            for name in COSTS:
                cost[name] += paid[name]
        return total

    def notes(self, contestant: str) -> list[str]:
        """Return what a reader of the results must know."""
        return [f"{site} has no model of {contestant}: {why}" for site, why in self.lost.items()]
