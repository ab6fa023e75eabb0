"""``fedkr-dda``: each site trains on its own images and on those releases of other sites that it chooses (FedKR)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from flwr.app import RecordDict

from fedkr import wire
from fedkr.documents import check_choice
from fedkr.stages import Artifact
from server.contestant import Outcome
from server.from_releases import Released
from server.personal import Personalised


class Contestant(Personalised):
    """The mean over the sites' models; a release goes to other sites only where its own site's policy says so."""

    message_type = wire.PERSONALISE

    def outcome(self, released: Released) -> Outcome:
        """Bring each site the releases of the others, and ask for its figures and what it chose."""
        self._offers = {site: self._offer(site, released) for site in self.coordinator.allowing("metrics")}
        about = {
            site: [(other, [path.name for path in files]) for other, files in offer.items()]
            for site, offer in self._offers.items()
        }
        answers = self.ask(
            {site: partial(self._content, offer, released) for site, offer in self._offers.items()}, about
        )
        choices = {site: info["choice"] for site, info in answers.infos.items()}
        return self.outcome_of(released, answers, choices)

    def _offer(self, site: str, released: Released) -> dict[str, list[Path]]:
        """Return what may go to a site: of each other site the release of every exchange."""
        givers = [name for name in self.coordinator.passing_on() if name != site]
        found = {name: [files[name] for files in released.teaching if name in files] for name in givers}
        return {name: files for name, files in found.items() if files}

    def _content(self, offer: dict[str, list[Path]], released: Released) -> RecordDict:
        sets = {name: released.sets([[path] for path in files]) for name, files in offer.items()}
        return wire.offer_content(self.coordinator.study_json, self.name, sets)

    def accept(self, site: str, content: RecordDict) -> Artifact:
        """See :meth:`server.personal.Personalised.accept`; what the site chose is kept too."""
        kept, choice = super().accept(site, content), wire.read_document(content, wire.CHOICE)
        check_choice(list(self._offers[site]), choice)
        kept.info["choice"] = choice
        return kept
