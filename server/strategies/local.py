"""``local``: each site trains on its own images alone, and the model stays there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fedkr import wire
from server import contestant
from server.contestant import Outcome, Turn
from server.coordinator import Pending
from server.targets import FIGURES, Target, figures_of


class Contestant(contestant.Contestant):
    """The mean over the sites' own models, on the global test set where the sites share one."""

    turn = Turn.BEHIND

    def start(self) -> Callable[[], Outcome]:
        """Ask each site that lets metrics leave for the figures of its own model."""
        content = wire.request_content(self.coordinator.study_json)
        contents = dict.fromkeys(self.coordinator.allowing("metrics"), content)
        pending = self.coordinator.send(self.coordinator.compose("local", wire.LOCAL, contents))
        return lambda: self._outcome(pending)

    def _outcome(self, pending: Pending) -> Outcome:
        answers = self.coordinator.collect_metrics(pending, lambda _, metrics: _read(metrics))
        read = {site: _read(info["metrics"]) for site, info in answers.items()}
        # Without a common test set, each site's "global" figures are on images of its own.
        known = [common for _, common, _ in read.values()] if self.federation.test is not None else []
        return Outcome(
            costs={site: {"seconds": s, "bytes_up": 0, "bytes_down": 0} for site, (_, _, s) in read.items()},
            figures={name: _mean([row[name] for row in known]) for name in FIGURES},
            per_site={site: own for site, (own, _, _) in read.items()},
            leaves=[Target(self.name, "local", self.name)],
        )


def _read(metrics: dict[str, Any]) -> tuple[dict[str, float | None], dict[str, float | None], float]:
    """Return a site's figures on its own test split, those on the global test set, and its seconds."""
    own, common = (figures_of(wire.read_utility(metrics, split)) for split in ("test", "global"))
    return own, common, wire.read_seconds(metrics)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
