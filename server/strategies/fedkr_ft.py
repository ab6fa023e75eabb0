"""``fedkr+ft``: the central student, which each site fine-tunes on its own images and keeps."""

from __future__ import annotations

from fedkr import wire
from server.contestant import Outcome
from server.from_releases import Released
from server.personal import Personalised


class Contestant(Personalised):
    """The mean over the sites' fine-tuned students."""

    message_type = wire.FINETUNE

    def outcome(self, released: Released) -> Outcome:
        """Train the student, or read it where ``fedkr`` trained it, and send it to the sites."""
        student = self.student(released)
        content = wire.request_content(self.coordinator.study_json, student.tensors, contestant=self.name)
        sites = self.coordinator.allowing("metrics")
        about = dict.fromkeys(sites, wire.weights_digest(student.tensors))
        answers = self.ask(dict.fromkeys(sites, lambda: content), about)
        return self.outcome_of(released, answers, seconds=student.info["seconds"] + released.seconds)
