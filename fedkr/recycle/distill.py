"""Generative Knowledge Distillation: the Student learns soft labels on synthetic images drawn afresh as it trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import nn

from fedkr.config import StudentConfig
from fedkr.data.images import Shape
from fedkr.learning.batches import BatchOrder
from fedkr.learning.classifier import Batch, Batches, soft_counts, train_classifier
from fedkr.learning.job import Job
from fedkr.learning.models import build_student
from fedkr.release import SoftSet
from fedkr.seeds import derive_seed


def regenerated_batches(draw: Callable[[int], SoftSet], regenerate_every: int, batch: int, *seed: object) -> Batches:
    """Return the batches of synthetic sets, of each step's round; classes are counted in the first.

    ``draw`` gives the set of round 0, 1, ..., of which only the current one is kept. A set serves ``regenerate_every``
    epochs, counted by the size of the first; ``seed`` is that of the order.
    """

    def ordered(number: int) -> tuple[SoftSet, BatchOrder]:
        drawn = draw(number)
        return drawn, BatchOrder(len(drawn[0]), batch, *seed)

    held = {0: ordered(0)}
    counts, first = soft_counts(held[0][0][1]), held[0][1]

    def at(step: int) -> Batch:
        """Return the batch of a step, drawing its set when the set before is done with."""
        wanted = first.epoch(step) // regenerate_every
        if wanted not in held:
            held.clear()
            held[wanted] = ordered(wanted)
        # Sets may differ in size: a site can be lost between two exchanges.
        (images, labels), order = held[wanted]
        chosen = order.at(step)
        return images[chosen], labels[chosen]

    return Batches(at, counts)


def for_union(config: StudentConfig, sites: int) -> StudentConfig:
    """Return the recipe of a student of so many sites' releases, which takes ``config.steps`` for each of them.

    So it passes through their union as often as a student of one site through that site's.
    """
    return dataclasses.replace(config, steps=sites * config.steps)


def distill_student(config: StudentConfig, draw: Callable[[int], SoftSet], job: Job, stage: str) -> nn.Module:
    """Train a student on the synthetic sets that ``draw`` gives; return it in evaluation mode."""
    batches = regenerated_batches(draw, config.regenerate_every, config.batch, *job.seed)
    model = build_student(config, Shape.of_soft(*batches(0)), derive_seed(*job.seed))
    return train_classifier(model, config, batches, job, stage)
