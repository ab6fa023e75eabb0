"""The central Student: trained on the union of what the sites released, a fresh slice of it every few epochs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from fedkr.config import Study
from fedkr.learning.training import Runtime
from fedkr.progress import Progress
from fedkr.recycle.distill import distill_student
from fedkr.recycle.drawing import SoftSet
from fedkr.release import read_slice
from fedkr.stages import Artifact, model_tensors


class ReleasePool:
    """The released sets of all sites, read slice by slice from their files: memory holds one slice of the union.

    Args:
        rounds: for each exchange, the sites' release files.
    """

    def __init__(self, rounds: list[list[Path]]) -> None:
        self.rounds = rounds

    def draw(self, index: int) -> SoftSet:
        """Return the union of slice ``index``: uint8 images ``[N, H, W, C]`` and soft labels ``[N, K]``.

        With several exchanges the index runs over the exchanges first, then over the slices within each.
        """
        files = self.rounds[index % len(self.rounds)]
        parts = [read_slice(path, index // len(self.rounds)) for path in files]
        return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def train_student(study: Study, pool: ReleasePool, runtime: Runtime, progress: Progress) -> Artifact:
    """Train the student on the pooled releases; ``info`` holds the seconds that it took."""
    started = time.perf_counter()
    model = distill_student(
        study.student,
        pool.draw,
        flip=study.data.flip,
        runtime=runtime,
        seed=(study.seed, "server", "student"),
        progress=progress,
        stage="student",
    )
    return Artifact(model_tensors(model), {"seconds": time.perf_counter() - started})
