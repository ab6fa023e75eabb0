"""Checkpoint Optimisation and Tuning: each candidate is scored by the CAS of a student, on the site's val split only.

CAS (Classification Accuracy Score, Ravuri & Vinyals 2019) is the accuracy on real images of a classifier trained on
synthetic ones. The student here is short and is trained with soft labels, as in GKD.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from fedkr.config import Study
from fedkr.data.imageset import ImageSet, SiteData
from fedkr.evaluation import Utility, measure_utility
from fedkr.generators.base import Generator, Knobs
from fedkr.progress import Progress
from fedkr.recycle.distill import SoftSet, distill_student
from fedkr.recycle.teacher import SoftLabeller
from fedkr.training import Runtime, predict_logits


@dataclass(frozen=True)
class Score:
    """A candidate's figure on val (higher is better) and, for ties, its negative loss."""

    value: float
    tie: float

    @staticmethod
    def of(utility: Utility, metric: str) -> Score:
        """Read the score that ``recycle.metric`` names; accuracy where val has one class only."""
        value = utility.auc if metric == "auc" and utility.auc is not None else utility.accuracy
        return Score(value, -utility.loss)

    def as_row(self) -> dict[str, float]:
        """Return the score as the report has it."""
        return {"score": self.value, "loss": -self.tie}

    def order(self) -> tuple[float, float]:
        """Return the key to compare by."""
        return self.value, self.tie


def release_labels(train: ImageSet, count: int, balance: str, least: int, rng: np.random.Generator) -> np.ndarray:
    """Return int64 ``[count]``: the class of each image of a release, shuffled.

    Args:
        train: the site's training images, whose classes with fewer than ``least`` images are left out.
        count: how many images the release has.
        balance: ``histogram`` (as in ``train``), ``balanced``, or ``tempered`` (square roots of the counts).
        least: a class needs at least this many training images.
        rng: for the order.
    """
    counts = np.where(train.class_counts() >= least, train.class_counts(), 0).astype(float)
    weights = counts ** {"histogram": 1.0, "tempered": 0.5, "balanced": 0.0}[balance] * (counts > 0)
    exact = count * weights / weights.sum()
    whole = np.floor(exact).astype(int)
    # Largest remainders, ties by class number: no luck in who gets the last images.
    for k in np.argsort(-(exact - whole), kind="stable")[: count - whole.sum()]:
        whole[k] += 1
    return rng.permutation(np.repeat(np.arange(len(counts)), whole)).astype(np.int64)


class CandidateScorer:
    """Scores a generator checkpoint with given knobs by the CAS of a short GKD student on val."""

    def __init__(
        self,
        study: Study,
        data: SiteData,
        labeller: SoftLabeller,
        seed: tuple[object, ...],
        runtime: Runtime,
        progress: Progress,
    ) -> None:
        self.study, self.data, self.labeller, self.seed = study, data, labeller, seed
        self.runtime, self.progress = runtime, progress
        recycle = study.recycle
        count = min(recycle.search_images, max(study.student.batch, round(recycle.ratio * len(data.train))))
        rng = np.random.default_rng(0)
        self.labels = release_labels(data.train, count, recycle.balance, recycle.min_class_count, rng)

    def __call__(self, generator: Generator, knobs: Knobs, stage: str) -> Score:
        """Return the score; every candidate gets the same noise, so that only the candidate differs."""
        images = np.concatenate(list(generator.sample(self.labels, knobs, *self.seed, "search")))
        soft: SoftSet = (images, self.labeller(images, *self.seed, "search"))
        config = dataclasses.replace(self.study.student, steps=self.study.recycle.search_steps)
        student = distill_student(
            config,
            lambda _: soft,
            flip=self.study.data.flip,
            runtime=self.runtime,
            seed=(*self.seed, "search"),
            progress=self.progress,
            stage=stage,
        )
        val = self.data.val
        logits = predict_logits(student, val.images, self.runtime)
        return Score.of(measure_utility(logits, val.labels, len(val.classes)), self.study.recycle.metric)
