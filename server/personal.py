"""What contestants have in common whose models the sites make for themselves of releases, or of a student of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import RecordDict

from fedkr import wire
from fedkr.fingerprint import fingerprint
from fedkr.stages import Artifact, read_artifact
from server.contestant import Outcome, Row, Turn
from server.coordinator import Pending, site_order
from server.from_releases import FromReleases, Released
from server.site_models import Answers, SiteFigures, mean_figures
from server.targets import Target


class Personalised(FromReleases):
    """Asks each site for a model of its own, which it keeps; a site that gives no answer has none, and stays.

    Attributes:
        message_type: what is asked.
    """

    needs = frozenset({"metrics", "release"})
    turn = Turn.BEHIND
    message_type: str

    def ask(self, contents: Mapping[str, Callable[[], RecordDict]], about: Mapping[str, Any]) -> Answers:
        """Send each site its content, made when it is its turn, and wait for all; ``about`` is what each is of."""
        answers = Answers()
        sent = [self._send(site, contents[site], fingerprint(about[site]), answers.lost) for site in contents]
        found: dict[str, Path] = {}
        for pending in sent:
            found |= self.coordinator.keep(pending, lambda site, content: self.accept(site, content))
        answers.infos = {site: read_artifact(found[site]).info for site in sorted(found, key=site_order)}
        return answers

    def _send(self, site: str, content: Callable[[], RecordDict], about: str, lost: dict[str, str]) -> Pending:
        composed = self.coordinator.compose(self.name, self.message_type, {site: content()}, about, lost)
        return self.coordinator.send(composed)

    def accept(self, site: str, content: RecordDict) -> Artifact:
        """Return what is kept of a site's answer; raise :class:`~fedkr.errors.UserError` for what is none."""
        metrics = wire.read_metrics(content)
        SiteFigures.read(metrics)
        return Artifact({}, {"metrics": metrics})

    def outcome_of(
        self, released: Released, answers: Answers, choices: Mapping[str, Row] | None = None, seconds: float = 0.0
    ) -> Outcome:
        """Return what the contestant ends with; ``seconds`` were spent at the server."""
        recycling, costs = released.recycling()
        read = answers.figures()
        return Outcome(
            costs=answers.costs(costs),
            seconds=seconds,
            figures=mean_figures(read.values() if self.federation.test is not None else []),
            per_site={site: one.own for site, one in read.items()},
            leaves=[Target(self.name, "personal", self.name)],
            releases=released.teaching,
            recycling=recycling,
            choices=choices or {},
            notes=[*released.notes, *answers.notes(self.name)],
        )
