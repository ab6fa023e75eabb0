"""The central Student: trained on the union of what the sites released, a fresh slice of it every few epochs."""

from __future__ import annotations

import time

from fedkr.config import Study
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.progress import Progress
from fedkr.recycle.distill import distill_student
from fedkr.release import ReleasedSets
from fedkr.stages import Artifact, model_tensors


def train_student(study: Study, sets: ReleasedSets, runtime: Runtime, progress: Progress) -> Artifact:
    """Train the student on the pooled releases; ``info`` holds the seconds that it took."""
    started = time.perf_counter()
    job = Job(runtime, progress, study.data.flip, (study.seed, "server", "student"))
    model = distill_student(study.student, sets, job, "student")
    return Artifact(model_tensors(model), {"seconds": time.perf_counter() - started})
