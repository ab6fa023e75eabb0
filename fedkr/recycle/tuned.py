"""A classifier of real images as the comparison has it: a site's own, or the centralised one, tuned on val.

Learning rates are tried as the first steps of one full schedule, the best goes on to its end, and the evaluation that
is kept follows ``teacher.keep_by``: the rule by which weight sharing is tuned, too (:mod:`fedkr.config.protocol`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from fedkr.config import Allotment, StudentConfig, Study, TeacherConfig, allot
from fedkr.data.images import ImageSet, Shape
from fedkr.learning.classifier import ClassifierTraining, real_batches
from fedkr.learning.evaluation import measure_utility
from fedkr.learning.job import Job
from fedkr.learning.models import build_classifier
from fedkr.learning.training import DivergedError
from fedkr.recycle.search import DIVERGED, Score
from fedkr.recycle.teacher import train_and_keep
from fedkr.seeds import derive_seed
from fedkr.stages import Artifact

# What of a model's ``info`` says how it was tuned.
TUNING = ("lr", "step", "steps", "looks", "by_val")


def train_tuned(study: Study, train: ImageSet, val: ImageSet, job: Job, stage: str) -> Artifact:
    """Train the study's classifier on real images.

    Beside the curve, ``info`` holds ``lr`` and the kept ``step``, which were chosen; ``steps`` taken in all settings,
    how many ``looks`` at val chose among settings, and whether val chose a setting or the step (``by_val``).
    """
    rates, given = learning_rates(study), own_allotment(study, len(val))
    config = dataclasses.replace(study.student, steps=given.schedule)
    tried = [_begun(dataclasses.replace(config, lr=lr), train, job) for lr in rates[: max(1, given.looks)]]
    order = list(range(len(tried)))
    if given.looks:
        scores = [_score(work, given.per_look, val, study.recycle.metric, stage) for work in tried]
        order.sort(key=lambda i: scores[i], reverse=True)
    best, kept = _first_kept(tried, order, val, keeping(study), stage)
    found = {
        "lr": rates[best],
        "steps": sum(work.training.step for work in tried),
        "looks": given.looks,
        "by_val": bool(given.looks) or kept.info["by_val"],
    }
    return Artifact(kept.tensors, kept.info | found)


def _first_kept(
    tried: list[ClassifierTraining], order: list[int], val: ImageSet, stopping: TeacherConfig, stage: str
) -> tuple[int, Artifact]:
    """Return the first of the trainings in ``order`` that does not diverge before it is evaluated, and what it keeps.

    What those before it took goes beyond what is allotted.
    """
    *others, last = order
    for index in others:
        with contextlib.suppress(DivergedError):
            return index, train_and_keep(tried[index], val, stopping, stage)
    return last, train_and_keep(tried[last], val, stopping, stage)


def learning_rates(study: Study) -> list[float]:
    """Return the learning rates to try, the recipe's own first."""
    return list(dict.fromkeys([study.student.lr, *study.strategy.lrs]))


def own_allotment(study: Study, val: int) -> Allotment:
    """Return what training on real images may do with so many ``val`` images."""
    return allot(study, study.strategy, len(learning_rates(study)), val)


def keeping(study: Study) -> TeacherConfig:
    """Return how the evaluation to keep is chosen: as the teacher's, but by ``recycle.metric`` in place of accuracy."""
    rule = study.teacher.keep_by
    return dataclasses.replace(study.teacher, keep_by=study.recycle.metric if rule == "accuracy" else rule)


def tuning_key(study: Study, val: int) -> dict[str, Any]:
    """Return what a tuned classifier depends on beside images, seed, student and teacher."""
    given = dataclasses.asdict(own_allotment(study, val))
    return given | {"rates": learning_rates(study), "metric": study.recycle.metric}


def _begun(config: StudentConfig, train: ImageSet, job: Job) -> ClassifierTraining:
    """Return an untrained classifier: of all learning rates from the same weights, on the same batches."""
    model = build_classifier(config, Shape.of(train), derive_seed(*job.seed))
    return ClassifierTraining(model, config, real_batches(train, config.batch, *job.seed), job)


def _score(work: ClassifierTraining, until: int, val: ImageSet, metric: str, stage: str) -> tuple[float, float]:
    try:
        work.advance(until, f"{stage}, lr {work.config.lr:g}")
    except DivergedError:
        return DIVERGED
    work.job.progress.finish(f"{stage}, lr {work.config.lr:g}")
    return Score.of(measure_utility(work.logits_as_met(val.images), val.labels, len(val.classes)), metric).order()
