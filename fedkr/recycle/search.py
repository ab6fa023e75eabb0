"""Checkpoint Optimisation and Tuning: each candidate is scored by the CAS of a student, on the site's val split only.

CAS (Classification Accuracy Score, Ravuri & Vinyals 2019) is the accuracy on real images of a classifier trained on
synthetic ones. The student here is short and is trained with soft labels, as in GKD. Candidates can be halved as
their students train (successive halving, Jamieson & Talwalkar 2016), so that the search costs less than it looks at.
With ``recycle.leakage_weight`` a candidate is also judged by what its images give away of the training images.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fedkr.config import RecycleConfig, Study, may_choose
from fedkr.data.images import ImageSet, Shape
from fedkr.generators.base import Generator, Knobs
from fedkr.learning.classifier import ClassifierTraining
from fedkr.learning.evaluation import Utility, measure_utility
from fedkr.learning.job import Job
from fedkr.learning.models import build_student
from fedkr.progress import SilentProgress
from fedkr.recycle.distill import regenerated_batches
from fedkr.recycle.drawer import Drawer, Labeller
from fedkr.recycle.leakage import LeakageGauge
from fedkr.release import SoftSet
from fedkr.seeds import derive_seed, numpy_rng

LEAST_FOR_RECALL = 5
# The AUC of who guesses.
GUESSING = 0.5


@dataclass(frozen=True)
class Score:
    """A candidate's figure on val.

    Attributes:
        value: what is compared, higher is better.
        tie: for ties, the negative loss.
        auc: for the collapse check.
        recalls: of each class, for the report; None for a class with few val images, whose recall would tell of
            single ones.
        metric: what ``value`` is: ``accuracy`` or ``auc``.
        leakage: what the candidate's images give away (:class:`~fedkr.recycle.leakage.LeakageGauge`); None where
            nobody asked.
        weight: what a point of ``leakage`` above guessing costs, in points of ``value``.
    """

    value: float
    tie: float
    auc: float | None = None
    recalls: tuple[float | None, ...] = ()
    metric: str = "accuracy"
    leakage: float | None = None
    weight: float = 0.0

    @staticmethod
    def of(utility: Utility, metric: str) -> Score:
        """Read the score that ``recycle.metric`` names; accuracy where val has one class only."""
        recalls = tuple(utility.recalls(LEAST_FOR_RECALL))
        if metric == "auc" and utility.auc is not None:
            return Score(utility.auc, -utility.loss, utility.auc, recalls, metric)
        return Score(utility.accuracy, -utility.loss, utility.auc, recalls)

    def as_row(self) -> dict[str, float]:
        """Return the score as the report has it."""
        row = {"score": self.value, "loss": -self.tie}
        return row if self.leakage is None else row | {"leakage": self.leakage}

    @property
    def net(self) -> float:
        """The value less what leakage costs. Whatever the weight, the best lies on the front of both (Pareto)."""
        return self.value if self.leakage is None else self.value - self.weight * max(0.0, self.leakage - GUESSING)

    def order(self) -> tuple[float, float]:
        """Return the key to compare by."""
        return self.net, self.tie


# In standard errors: what images teach less than others is then no luck of a few val images.
CLEARLY = 2.0
# In the order of scores, that of a training whose loss is not finite.
DIVERGED = (-math.inf, -math.inf)


def halve(trials: Sequence[StudentTrial], steps: int, rungs: int, spare_last: bool = False) -> list[tuple[Score, int]]:
    """Train all trials a little, the better half twice as far, and so on; return each one's last score and step.

    Scores are compared ``rungs`` times (1 trains every trial to the end), the last ones at ``steps``. With
    ``spare_last`` the last trial is trained to the end whatever its score.
    """
    results: dict[int, tuple[Score, int]] = {}
    alive, spared = list(range(len(trials))), {len(trials) - 1} if spare_last else set()
    for rung in range(rungs):
        until = max(1, math.ceil(steps / 2 ** (rungs - 1 - rung)))
        for index in alive:
            results[index] = trials[index].advance(until), until
        alive.sort(key=lambda index: results[index][0].order(), reverse=True)
        # The last comparison is between two at least, wherever there are two.
        alive = sorted(spared.union(alive[: max(2, math.ceil(len(alive) / 2))]))
    return [results[index] for index in range(len(trials))]


def best_of(results: Sequence[tuple[Score, int]]) -> int:
    """Return the index of the best score among those trained the furthest; the first of equals."""
    furthest = max(steps for _, steps in results)
    finalists = [index for index, (_, steps) in enumerate(results) if steps == furthest]
    return max(finalists, key=lambda index: results[index][0].order())


def choose_checkpoint(results: Sequence[tuple[Score, int]], tolerance: float, labels: np.ndarray) -> int:
    """Return the index of the checkpoint to go on with, among those trained the furthest.

    Short students on small val splits are noisy judges. With a tolerance a lower score speaks against a later
    checkpoint only where it is more than noise: of diffusion models the later one is nearly always the better. (The
    one-standard-error rule of Breiman et al. 1984 has the same scale and the other direction.) What a longer
    training memorises, the audit has to tell. Checkpoints come in the order of their steps. ``tolerance`` is in
    standard errors of the best score (0 takes the best), on images with int ``labels [N]``.
    """
    best = best_of(results)
    if not tolerance:
        return best
    score, furthest = results[best]
    least = score.net - tolerance * standard_error(score, labels)
    return max(i for i, (other, steps) in enumerate(results) if steps == furthest and other.net >= least)


def shortfall(score: Score, real: Score, labels: np.ndarray) -> dict[str, Any]:
    """Return by how much less the chosen candidate teaches than as many real images, of scores on int ``labels [N]``.

    All there are where these are fewer. It favours the candidate, which is the best of several on the same val images.
    That is the real images' ``score``, by how much the candidate's is ``less``, and whether that is more than
    ``CLEARLY`` standard errors of both (``clear``).
    """
    less = real.value - score.value
    error = math.hypot(standard_error(score, labels), standard_error(real, labels))
    return {"score": real.value, "less": less, "clear": int(less > CLEARLY * error)}


def standard_error(score: Score, labels: np.ndarray) -> float:
    """Return the standard error of a score on int ``labels [N]``; never 0, as a share of 1 on few images is luck too.

    That of a share for accuracy. For AUC that of chance (with several classes the mean over them), shrunk as a
    share's is away from one half: near enough for a tolerance.
    """
    share = (score.value * len(labels) + 1) / (len(labels) + 2)
    spread = math.sqrt(share * (1 - share))
    return 2 * spread * chance_auc(labels)[1] if score.metric == "auc" else spread / math.sqrt(len(labels))


class StudentTrial:
    """A short GKD student on what one candidate draws; scored on ``judge``, with what the images give away."""

    def __init__(
        self, work: ClassifierTraining, judge: ImageSet, recycle: RecycleConfig, stage: str, leakage: float | None
    ) -> None:
        self.work, self.judge, self.recycle, self.stage, self.leakage = work, judge, recycle, stage, leakage

    def advance(self, until: int) -> Score:
        """Train the student up to step ``until`` and return its score on the judge's images."""
        self.work.advance(until, self.stage)
        self.work.job.progress.finish(self.stage)
        utility = measure_utility(
            self.work.logits_as_met(self.judge.images), self.judge.labels, len(self.judge.classes)
        )
        score = Score.of(utility, self.recycle.metric)
        return dataclasses.replace(score, leakage=self.leakage, weight=self.recycle.leakage_weight)


class CandidateScorer:
    """Makes trials of generator checkpoints and knobs: all with the same noise, so that only the candidate differs.

    The site's training images ``train`` give the class shares; ``judge``, its val split, are the images that students
    are scored on; ``labeller`` is the teacher, ``doubted`` as the :class:`~fedkr.recycle.drawer.Drawer` has it.
    """

    def __init__(
        self, study: Study, train: ImageSet, judge: ImageSet, labeller: Labeller, job: Job, doubted: frozenset[int]
    ) -> None:
        self.study, self.train, self.judge, self.labeller, self.job = study, train, judge, labeller, job
        self.doubted = doubted
        recycle = study.recycle
        self.count = min(recycle.search_images, max(study.student.batch, round(recycle.ratio * len(train))))

    @cached_property
    def gauge(self) -> LeakageGauge | None:
        """What tells how much a candidate gives away; None where that counts for nothing, or nothing is chosen."""
        if not self.study.recycle.leakage_weight or not may_choose(len(self.judge)):
            return None
        # A class that the generator never saw has no members.
        kept = np.flatnonzero(self.train.class_counts() >= self.study.recycle.min_class_count)
        train, judge = (side.subset(np.flatnonzero(np.isin(side.labels, kept))) for side in (self.train, self.judge))
        return LeakageGauge(train, judge, numpy_rng(*self.job.seed, "leakage")) if len(judge) else None

    def trial(self, generator: Generator, knobs: Knobs, stage: str) -> StudentTrial:
        """Return the untrained trial of a loaded generator with ``knobs``."""
        quiet = dataclasses.replace(self.job, progress=SilentProgress())
        drawer = Drawer(
            generator, knobs, self.train.class_counts(), self.study.recycle, self.labeller, quiet, self.doubted
        )
        soft = drawer.draw(drawer.classes(self.count, numpy_rng(*self.job.seed, "labels")), "search")
        return self._student_of(soft, stage, None if self.gauge is None else self.gauge(soft.images))

    def of_real_images(self) -> Score:
        """Return the score of what candidates are compared with: as many real images, labelled by the teacher too."""
        chosen = numpy_rng(*self.job.seed, "real").permutation(len(self.train))[: self.count]
        images = self.train.images[np.sort(chosen)]
        soft = SoftSet(images, self.labeller(images, *self.job.seed, "real"))
        return self._student_of(soft, "real images", None).advance(self.study.recycle.search_steps)

    def _student_of(self, soft: SoftSet, stage: str, leakage: float | None) -> StudentTrial:
        recycle, job = self.study.recycle, self.job.seeded("search")
        config = dataclasses.replace(self.study.student, steps=recycle.search_steps)
        work = ClassifierTraining(
            build_student(config, Shape.of(self.train), derive_seed(*job.seed)),
            config,
            regenerated_batches(lambda _: soft, config.regenerate_every, config.batch, *job.seed),
            job,
        )
        return StudentTrial(work, self.judge, recycle, stage, leakage)


def chance_auc(labels: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of the AUC of a classifier that knows nothing, on int ``labels [N]``.

    The deviation is that of the Mann-Whitney statistic without ties, the mean over one-against-rest comparisons.
    """
    counts = np.bincount(labels)
    total = len(labels)
    pairs = [n * (total - n) for n in counts if 0 < n < total]
    return 0.5, float(np.mean([math.sqrt((total + 1) / (12 * p)) for p in pairs])) if pairs else 0.5
