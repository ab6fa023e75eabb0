"""The central Student: trained on the union of what the sites released, a fresh slice of it every few epochs."""

from __future__ import annotations

import time

from fedkr.config import StudentConfig
from fedkr.learning.job import Job
from fedkr.recycle.distill import distill_student
from fedkr.release import ReleasedSets
from fedkr.stages import Artifact, model_tensors


def train_student(config: StudentConfig, sets: ReleasedSets, job: Job, stage: str = "student") -> Artifact:
    """Train a student on released sets; ``info`` holds the ``seconds`` and ``steps`` that it took."""
    started = time.perf_counter()
    model = distill_student(config, sets, job, stage)
    return Artifact(model_tensors(model), {"seconds": time.perf_counter() - started, "steps": config.steps})
