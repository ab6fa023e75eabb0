"""``fedkr``: the sites share synthetic images with soft labels, never weights; the server trains a student on them."""

from __future__ import annotations

from server import from_releases
from server.contestant import Outcome, Turn
from server.from_releases import FromReleases, Released
from server.targets import Target


class Contestant(FromReleases):
    """The central student of all sites' releases."""

    Options = from_releases.Options
    turn = Turn.FIRST

    @property
    def learning(self) -> from_releases.Options:
        """See :attr:`server.from_releases.FromReleases.learning`: the options are this contestant's."""
        options: from_releases.Options = self.options
        return options

    def outcome(self, released: Released) -> Outcome:
        """Train the student."""
        student = self.student(released)
        bytes_of_student = sum(t.numel() * t.element_size() for t in student.tensors.values())
        recycling, costs = released.recycling()
        for cost in costs.values():
            cost["bytes_down"] += bytes_of_student
        return Outcome(
            costs=costs,
            seconds=student.info["seconds"] + released.seconds,
            model=Target("student", "student", self.name, model=student),
            leaves=[Target("teacher", "teacher", self.name)],
            releases=released.teaching,
            recycling=recycling,
            notes=released.notes,
        )
