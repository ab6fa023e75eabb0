"""Positive controls: models that give members away for certain, so that an attack which misses them has no power.

A classifier overfitted to a site's training images stands behind direct references. For what is trained on releases,
which pipeline references attack, it is a student of a release among which the training images themselves were planted.
Both are trained for the audit alone and never leave the site.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import nn

from fedkr.config import ClassifierConfig, StudentConfig
from fedkr.data.images import ImageSet
from fedkr.learning.classifier import train_on_real
from fedkr.learning.job import Job
from fedkr.learning.prediction import predict_logits
from fedkr.recycle.distill import distill_student
from fedkr.release import ReleasedSets, SoftSet

# A control that knows this share of each class's training images by heart is overfitted.
KNOWN = 0.99
LEAST_EPOCHS, MOST_EPOCHS = 30, 240


def train_control(recipe: ClassifierConfig, members: ImageSet, job: Job) -> nn.Module:
    """Train a classifier of ``recipe``'s architecture, plainly and from scratch, until it knows the members by heart.

    The steps double while it does not, up to :data:`MOST_EPOCHS`: labels that contradict each other are never learnt.
    """
    plain = dataclasses.replace(recipe, augment="none", weight_decay=0.0, label_smoothing=0.0, mixup=0.0)
    plainly = dataclasses.replace(job, flip="none")
    steps, most = (max(recipe.steps, epochs * len(members) // recipe.batch) for epochs in (LEAST_EPOCHS, MOST_EPOCHS))
    while True:
        model = train_on_real(dataclasses.replace(plain, steps=steps), members, plainly, "control")
        if _known(model, members, job) >= KNOWN or steps >= most:
            return model
        steps = min(2 * steps, most)


def _known(model: nn.Module, members: ImageSet, job: Job) -> float:
    """Return the lowest recall of a class: always saying the common class is right about nearly all images."""
    right = predict_logits(model, members.images, job.runtime).argmax(axis=1) == members.labels
    return min(float(right[members.labels == label].mean()) for label in np.unique(members.labels))


def train_planted(config: StudentConfig, released: ReleasedSets, members: ImageSet, job: Job) -> nn.Module:
    """Train a student by its own recipe on what a site released and, planted among it, the members as they are."""
    labels = np.eye(len(members.classes), dtype=np.float16)[members.labels]
    planted = ReleasedSets(lambda _: SoftSet(members.images, labels), 1)
    return distill_student(config, released.united(planted), job, "control student")
