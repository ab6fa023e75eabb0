"""``fedkr``: the sites share synthetic images with soft labels, never weights; the server trains a student on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkr.errors import StudyFailedError
from fedkr.release import ReleasedSets
from fedkr.stages import Artifact, read_artifact
from server import contestant
from server.contestant import COSTS, Outcome, Row, Turn
from server.coordinator import card_shape
from server.student import train_student
from server.targets import Target

logger = logging.getLogger("fedkr.server")

# What of a release's manifest the results keep.
OF_MANIFEST = ("left_out", "recalls", "teacher", "checkpoint", "knobs")


@dataclass
class Options:
    """Options of the contestant: whether releases are judged before they teach (:mod:`server.quarantine`)."""

    quarantine: bool = True


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
        quarantined = self._quarantined(files)
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
        student = self._student(teaching)
        bytes_of_student = sum(t.numel() * t.element_size() for t in student.tensors.values())
        recycling, costs = self._recycling(files)
        for cost in costs.values():
            cost["bytes_down"] += bytes_of_student
        return Outcome(
            costs=costs,
            seconds=student.info["seconds"],
            model=Target("student", "student", self.name, model=student),
            leaves=[Target("teacher", "teacher", self.name)],
            releases=teaching,
            recycling=recycling,
            notes=[
                f"the release of {site} is in quarantine, it taught no student: {w}" for site, w in quarantined.items()
            ],
        )

    def _quarantined(self, files: Sequence[Mapping[str, Path]]) -> dict[str, str]:
        """Return why releases must not teach, by site."""
        if not self.options.quarantine:
            return {}
        # Imported here: whoever reads this contestant's options would load scikit-learn for it.
        from server.quarantine import judge_releases

        shape, job = card_shape(self.coordinator.card), self.federation.job.seeded("quarantine")

        def judge() -> Artifact:
            """Judge the releases."""
            return Artifact({}, {"reasons": judge_releases(files, self.study.student, shape, job)})

        return dict(self.coordinator.stages.run("quarantine", self._key(files), judge).info["reasons"])

    def _key(self, files: Sequence[Mapping[str, Path]]) -> dict[str, Any]:
        # The name of a release's file tells it from one of other images.
        return {"study": self.study.identity(), "releases": [sorted(path.name for path in e.values()) for e in files]}

    def _student(self, files: Sequence[Mapping[str, Path]]) -> Artifact:
        """Train the student on everything released, or read it where it was trained before."""
        sets = ReleasedSets.of_files([list(exchange.values()) for exchange in files])
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
