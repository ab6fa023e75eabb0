"""Judges: a quick student of each site's releases, who says what it sees in the images of other sites."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedkr.config import StudentConfig
from fedkr.data.images import Shape
from fedkr.learning.job import Job
from fedkr.learning.models import load_classifier
from fedkr.learning.prediction import predict_logits
from fedkr.release import ReleasedSets
from fedkr.stages import Artifact
from server.sharing import sharing_sites
from server.student import train_student

JUDGE_STEPS = 150

Keep = Callable[[str, Callable[[], Artifact]], Artifact]


def keep_nothing(site: str, train: Callable[[], Artifact]) -> Artifact:
    """Train a site's student each time that it is asked for."""
    return train()


class Judges:
    """The sites' releases and a student of each, trained when it is first asked for, and once.

    Args:
        exchanges: for each exchange the sites' files.
        config: the study's student, trained for a few steps, and never behind class shares.
        shape: of images and classes.
        job: of these trainings.
        keep: gets a site and what trains its student; it may know the student from an earlier run.
    """

    def __init__(
        self,
        exchanges: Sequence[Mapping[str, Path]],
        config: StudentConfig,
        shape: Shape,
        job: Job,
        keep: Keep = keep_nothing,
    ) -> None:
        self.exchanges, self.shape, self.job, self.keep = exchanges, shape, job, keep
        # Behind class shares it would contradict rare classes less, and the bounds of the quarantine are of plain ones.
        self.config = dataclasses.replace(config, steps=min(config.steps, JUDGE_STEPS), logit_adjustment=0.0)
        self._students: dict[str, nn.Module] = {}

    @cached_property
    def files(self) -> dict[str, list[Path]]:
        """Each site's files, one an exchange."""
        files: dict[str, list[Path]] = {}
        for exchange in self.exchanges:
            for site, path in exchange.items():
                files.setdefault(site, []).append(path)
        return files

    @cached_property
    def sets(self) -> dict[str, ReleasedSets]:
        """Each site's released sets."""
        return {site: ReleasedSets.of_files([[path] for path in paths]) for site, paths in self.files.items()}

    @cached_property
    def sharing(self) -> list[tuple[str, str]]:
        """The pairs of sites that released the same images."""
        return sharing_sites(self.sets)

    def logits(self, site: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what a site's student sees, float32 ``[N, K]``, in uint8 images ``[N, H, W, C]``."""
        if site not in self._students:
            job = self.job.seeded("judge", site)
            kept = self.keep(site, lambda: train_student(self.config, self.sets[site], job, f"judge of {site}"))
            self._students[site] = load_classifier(self.config, self.shape, kept.tensors, self.job.runtime)
        return predict_logits(self._students[site], images, self.job.runtime)
