"""``local``: each site trains on its own images alone, and the model stays there."""

from __future__ import annotations

from collections.abc import Callable

from fedkr import wire
from server import contestant
from server.contestant import Outcome, Turn
from server.coordinator import Pending
from server.site_models import SiteFigures, mean_figures
from server.targets import Target


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
        answers = self.coordinator.collect_metrics(pending, lambda _, metrics: SiteFigures.read(metrics))
        read = {site: SiteFigures.read(info["metrics"]) for site, info in answers.items()}
        return Outcome(
            costs={site: {"seconds": one.seconds, "bytes_up": 0, "bytes_down": 0} for site, one in read.items()},
            # Without a common test set, each site's "global" figures are on images of its own.
            figures=mean_figures(read.values() if self.federation.test is not None else []),
            per_site={site: one.own for site, one in read.items()},
            leaves=[Target(self.name, "local", self.name)],
            tuned_sites={site: one.tuning for site, one in read.items() if one.tuning},
        )
