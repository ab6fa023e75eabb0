"""``fedkr``: the sites share synthetic images with soft labels, never weights; the server trains a student on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fedkr.config import OneOf
from fedkr.errors import StudyFailedError
from fedkr.release import ReleasedSets
from fedkr.stages import Artifact, read_artifact
from server import contestant
from server.contestant import COSTS, Outcome, Row, Turn
from server.coordinator import card_shape, site_order
from server.judges import Judges
from server.labels import LABELS, RELEASED, relabel
from server.student import train_student
from server.targets import Target

logger = logging.getLogger("fedkr.server")

# What of a release's manifest the results keep.
OF_MANIFEST = ("left_out", "recalls", "teacher", "checkpoint", "knobs")
IN_QUARANTINE = "the release of {} is in quarantine, it taught no student"
RELABELLED = "labels by consensus of all sites: images of another class than their own teacher gave them"


@dataclass
class Options:
    """Options of the contestant.

    Attributes:
        quarantine: whether releases are judged before they teach (:mod:`server.quarantine`).
        labels: what the student learns of released images: ``released``, their site's soft labels as they came, or
            ``consensus`` of all sites' teachers (:mod:`server.consensus`).
    """

    quarantine: bool = True
    labels: Annotated[str, OneOf(*LABELS)] = RELEASED


class Contestant(contestant.Contestant):
    """The central student of all sites' releases."""

    needs = frozenset({"release"})
    Options = Options
    turn = Turn.FIRST

    def start(self) -> Callable[[], Outcome]:
        """Ask the sites for their releases; the rest is to collect them and to train the student."""
        releases, rounds = self.federation.releases, self.study.recycle.rounds
        logger.info("├── %s: %d exchange(s), %d regeneration round(s)", self.name, releases.exchanges, rounds)
        releases.ask()
        return lambda: self._outcome(releases.collect())

    def _outcome(self, files: Sequence[Mapping[str, Path]]) -> Outcome:
        judges = self._judges(files)
        quarantined = self._quarantined(judges)
        for site, why in quarantined.items():
            logger.warning("├── the release of %s is in quarantine: %s", site, why)
        teaching = [{site: path for site, path in each.items() if site not in quarantined} for each in files]
        if not any(teaching):
            why = "; ".join(f"{site}: {reason}" for site, reason in quarantined.items())
            raise StudyFailedError(
                f"every release is in quarantine ({why}); train the generators longer, or let them teach all the same "
                f"with strategy.options.{self.name}.quarantine=false"
            )
        teaching = [each for each in teaching if each]
        labels = self._labels(judges, teaching)
        student = self._student(teaching, labels)
        bytes_of_student = sum(t.numel() * t.element_size() for t in student.tensors.values())
        recycling, costs = self._recycling(files)
        for site, share in labels.info.get("relabelled", {}).items():
            recycling[site]["relabelled"] = share
        for cost in costs.values():
            cost["bytes_down"] += bytes_of_student
        return Outcome(
            costs=costs,
            seconds=student.info["seconds"] + labels.info.get("seconds", 0.0),
            model=Target("student", "student", self.name, model=student),
            leaves=[Target("teacher", "teacher", self.name)],
            releases=teaching,
            recycling=recycling,
            notes=[*(f"{IN_QUARANTINE.format(site)}: {why}" for site, why in quarantined.items()), *notes_on(labels)],
        )

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
        if self.options.labels == RELEASED or len(sites) < 2:
            return Artifact()
        return self.coordinator.stages.run("labels", self._key(teaching), lambda: relabel(judges, sites))

    def _quarantined(self, judges: Judges) -> dict[str, str]:
        """Return why releases must not teach, by site."""
        if not self.options.quarantine:
            return {}
        # Imported here: whoever reads this contestant's options would load scikit-learn for it.
        from server.quarantine import judge_releases

        def judge() -> Artifact:
            """Judge the releases."""
            return Artifact({}, {"reasons": judge_releases(judges)})

        return dict(self.coordinator.stages.run("quarantine", self._key(judges.exchanges), judge).info["reasons"])

    def _key(self, files: Sequence[Mapping[str, Path]]) -> dict[str, Any]:
        # The name of a release's file tells it from one of other images.
        return {"study": self.study.identity(), "releases": [sorted(path.name for path in e.values()) for e in files]}

    def _student(self, files: Sequence[Mapping[str, Path]], labels: Artifact) -> Artifact:
        """Train the student on everything released, or read it where it was trained before."""
        instead = {name: tensor.numpy() for name, tensor in labels.tensors.items()}
        sets = ReleasedSets.of_files([list(exchange.values()) for exchange in files], instead)
        return self.coordinator.stages.run(
            "student",
            self._key(files),
            lambda: train_student(self.study.student, sets, self.federation.job.seeded("student")),
        )

    @staticmethod
    def _recycling(files: Sequence[Mapping[str, Path]]) -> tuple[dict[str, Row], dict[str, dict[str, float]]]:
        """Return by site how it came to its releases, and what they cost it."""
        recycling: dict[str, Row] = {}
        costs: dict[str, dict[str, float]] = {}
        for site, path in ((site, path) for exchange in files for site, path in exchange.items()):
            info = read_artifact(path).info
            cost = costs.setdefault(site, dict.fromkeys(COSTS, 0.0))
            for name in cost:
                cost[name] += info.get(name, 0)
            known = recycling.setdefault(site, dict(info.get("scores", {}), images=0))
            known["images"] += info["count"]
            known |= {name: info[name] for name in OF_MANIFEST if name in info}
        return recycling, costs


def notes_on(labels: Artifact) -> list[str]:
    """Return what a reader must know of labels that are not those that were released."""
    shares = [f"{site} {share:.1%}" for site, share in labels.info.get("relabelled", {}).items()]
    return [f"{RELABELLED}: {', '.join(shares)}"] if shares else []
