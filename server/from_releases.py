"""What contestants have in common that learn from releases: collected and judged once, and the student of them all."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fedkr.config import OneOf, read_dataclass
from fedkr.errors import StudyFailedError
from fedkr.recycle.distill import for_union
from fedkr.release import ReleasedSets
from fedkr.stages import Artifact, read_artifact
from server import contestant
from server.consensus import LEAST_SITES
from server.contestant import COSTS, Outcome, Row
from server.coordinator import card_shape, site_order
from server.judges import Judges
from server.labels import LABELS, RELEASED, relabel
from server.sharing import KEPT, LABEL, fair_parts, named
from server.student import train_student

logger = logging.getLogger("fedkr.server")

# The contestant whose options say how releases teach; all others learn as it does.
LEADING = "fedkr"
# What of a release's manifest the results keep.
OF_MANIFEST = ("left_out", "recalls", "quality", "teacher", "checkpoint", "knobs", "by_val", "privacy")
IN_QUARANTINE = "the release of {} is in quarantine, it taught no student"
RELABELLED = "labels by consensus of all sites: images of another class than their own teacher gave them"


@dataclass
class Options:
    """Options of the contestant ``fedkr``.

    Attributes:
        quarantine: whether releases are judged before they teach (:mod:`server.quarantine`), shared images teach once,
            and oversized releases are sampled down (:mod:`server.sharing`).
        labels: what the student learns of released images: ``released``, their site's soft labels as they came, or
            ``consensus`` of all sites' teachers (:mod:`server.consensus`).
    """

    quarantine: bool = True
    labels: Annotated[str, OneOf(*LABELS)] = RELEASED


@dataclass(frozen=True)
class Released:
    """What the sites released.

    Attributes:
        files: for each exchange the sites' files.
        teaching: the same without those in quarantine; there is one at least.
        quarantined: why, by site.
        labels: those that stand for released ones (:func:`server.labels.relabel`); none where all stay.
        fair: which images teach where not all do (:func:`server.sharing.fair_parts`).
    """

    files: Sequence[Mapping[str, Path]]
    teaching: Sequence[Mapping[str, Path]]
    quarantined: Mapping[str, str] = field(default_factory=dict)
    labels: Artifact = field(default_factory=Artifact)
    fair: Artifact = field(default_factory=Artifact)

    @property
    def seconds(self) -> float:
        """What it took the server to find labels."""
        return float(self.labels.info.get("seconds", 0.0))

    @property
    def notes(self) -> list[str]:
        """What a reader of the results must know."""
        notes = [f"{IN_QUARANTINE.format(site)}: {why}" for site, why in self.quarantined.items()]
        notes += self.fair.info.get("notes", [])
        shares = [f"{site} {share:.1%}" for site, share in self.labels.info.get("relabelled", {}).items()]
        return notes + ([f"{RELABELLED}: {', '.join(shares)}"] if shares else [])

    def sets(self, exchanges: Sequence[Sequence[Path]]) -> ReleasedSets:
        """Return what teaches of files, for each exchange some, with the labels that stand for theirs."""
        labels, kept = named(self.fair, LABEL) | self.labels.tensors, named(self.fair, KEPT)
        return ReleasedSets.of_files(
            exchanges, {name: rows.numpy() for name, rows in labels.items()}, {n: t.numpy() for n, t in kept.items()}
        )

    def recycling(self) -> tuple[dict[str, Row], dict[str, dict[str, float]]]:
        """Return by site how it came to its releases, and what they cost it."""
        recycling: dict[str, Row] = {}
        costs: dict[str, dict[str, float]] = {}
        for site, path in ((site, path) for exchange in self.files for site, path in exchange.items()):
            info = read_artifact(path).info
            cost = costs.setdefault(site, dict.fromkeys(COSTS, 0.0))
            for name in cost:
                cost[name] += info.get(name, 0)
            known = recycling.setdefault(site, dict(info.get("scores", {}), images=0))
            known["images"] += info["count"]
            known |= {name: info[name] for name in OF_MANIFEST if name in info}
        for site, share in self.labels.info.get("relabelled", {}).items():
            recycling[site]["relabelled"] = share
        return recycling, costs


class FromReleases(contestant.Contestant):
    """A contestant that learns from what the sites release."""

    needs = frozenset({"release"})

    def start(self) -> Callable[[], Outcome]:
        """Ask the sites for their releases, unless another contestant did; the rest is to learn from them."""
        releases, rounds = self.federation.releases, self.study.recycle.rounds
        logger.info("├── %s: %d exchange(s), %d regeneration round(s)", self.name, releases.exchanges, rounds)
        releases.ask()
        return lambda: self.outcome(self._released(releases.collect()))

    @property
    def learning(self) -> Options:
        """How releases teach: alike for all contestants of a study, as the options of ``fedkr`` say."""
        return read_dataclass(Options, self.study.strategy.options.get(LEADING, {}), f"strategy.options.{LEADING}")

    @abstractmethod
    def outcome(self, released: Released) -> Outcome:
        """Learn from the releases."""

    def student(self, released: Released) -> Artifact:
        """Train the central student on all that teaches, or read it where it was trained before."""
        sets = released.sets([list(exchange.values()) for exchange in released.teaching])
        config = for_union(self.study.student, sets.sites)
        return self.coordinator.stages.run(
            "student",
            self._key(released.teaching),
            lambda: train_student(config, sets, self.federation.job.seeded("student")),
        )

    def _released(self, files: Sequence[Mapping[str, Path]]) -> Released:
        judges = self._judges(files)
        quarantined = self._quarantined(judges)
        for site, why in quarantined.items():
            logger.warning("├── the release of %s is in quarantine: %s", site, why)
        teaching = [{site: path for site, path in each.items() if site not in quarantined} for each in files]
        if not any(teaching):
            why = "; ".join(f"{site}: {reason}" for site, reason in quarantined.items())
            raise StudyFailedError(
                f"every release is in quarantine ({why}); train the generators longer, or let them teach all the same "
                f"with strategy.options.{LEADING}.quarantine=false"
            )
        teaching = [each for each in teaching if each]
        return Released(files, teaching, quarantined, self._labels(judges, teaching), self._fair(judges, teaching))

    def _judges(self, files: Sequence[Mapping[str, Path]]) -> Judges:
        """Return the quick students of the sites' releases, none of which is trained before it is asked."""
        config, shape = self.study.student, card_shape(self.coordinator.card)

        def keep(site: str, train: Callable[[], Artifact]) -> Artifact:
            own = [{site: exchange[site]} for exchange in files if site in exchange]
            return self.coordinator.stages.run("judge", self._key(own), train)

        return Judges(files, config, shape, self.federation.job.seeded("quarantine"), keep)

    def _labels(self, judges: Judges, teaching: Sequence[Mapping[str, Path]]) -> Artifact:
        """Return the labels that stand for released ones; none where nobody else can say anything."""
        sites = sorted({site for exchange in teaching for site in exchange}, key=site_order)
        if self.learning.labels == RELEASED or len(sites) < LEAST_SITES:
            return Artifact()
        return self.coordinator.stages.run("labels", self._key(teaching), lambda: relabel(judges, sites))

    def _fair(self, judges: Judges, teaching: Sequence[Mapping[str, Path]]) -> Artifact:
        """Return what of the releases teaches: images that several share once, and of none far more than of others."""
        sites = {site for exchange in teaching for site in exchange}
        if not self.learning.quarantine or len(sites) < 2:
            return Artifact()
        files = {site: paths for site, paths in judges.files.items() if site in sites}
        fair = self.coordinator.stages.run("fair", self._key(teaching), lambda: fair_parts(files, judges.sharing))
        for note in fair.info["notes"]:
            logger.warning("├── %s", note)
        return fair

    def _quarantined(self, judges: Judges) -> dict[str, str]:
        """Return why releases must not teach, by site."""
        if not self.learning.quarantine:
            return {}
        # Imported here: whoever reads this contestant's options would load scikit-learn for it.
        from server.quarantine import judge_releases

        def judge() -> Artifact:
            """Judge the releases."""
            return Artifact({}, {"reasons": judge_releases(judges, guaranteed=self.study.privacy.guaranteed)})

        return dict(self.coordinator.stages.run("quarantine", self._key(judges.exchanges), judge).info["reasons"])

    def _key(self, files: Sequence[Mapping[str, Path]]) -> dict[str, Any]:
        # The name of a release's file tells it from one of other images.
        return {"study": self.study.identity(), "releases": [sorted(path.name for path in e.values()) for e in files]}
