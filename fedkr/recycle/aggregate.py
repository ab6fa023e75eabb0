"""Dynamic Dataset Aggregation (FedKR): which of the other sites' releases a site trains with beside its own images.

The paper does not publish its rule; this is a reconstruction: forward selection by what each release adds on real
images of the site's own that the judged classifier did not train on, its own training images always in. Where val is
small, train and val together are judged by cross-validation; where both are, nothing is chosen, since a choice by a
handful of images is chance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from fedkr.config import Study
from fedkr.data.images import ImageSet, SiteData, joined
from fedkr.data.stratify import deal
from fedkr.documents import FOLDED, TOO_FEW, VAL
from fedkr.learning.job import Job
from fedkr.learning.prediction import predict_logits
from fedkr.recycle.distill import distill_student
from fedkr.release import ReleasedSets, SoftSet
from fedkr.seeds import numpy_rng

# A val split of fewer images does not judge alone, and train and val together of fewer judge nothing.
LEAST_VAL = 200
LEAST_JUDGED = 60
FOLDS = 3

Errors = NDArray[np.float64]
Names = tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """How a classifier does on the judged images.

    Attributes:
        errors: float64 ``[N]``, 1 for an image that it gets wrong and 0 for the others.
        loss: mean Brier score (squared distance of the class probabilities from the truth, 0 to 2). It orders choices
            of equal accuracy and decides nothing: images without any content lower it too, by making a classifier
            less sure.
    """

    errors: Errors
    loss: float = 0.0

    @staticmethod
    def of(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Verdict:
        """Return the verdict on float ``logits [N, K]`` of images with int ``labels [N]``."""
        shares = scipy.special.softmax(logits.astype(np.float64), axis=1)
        loss = np.square(shares - np.eye(logits.shape[1])[labels]).sum(axis=1).mean()
        return Verdict((logits.argmax(axis=1) != labels).astype(np.float64), float(loss))

    @property
    def accuracy(self) -> float:
        """The share of images that it gets right."""
        return float((self.errors == 0).mean())

    def beats(self, other: Verdict) -> bool:
        """Whether it gets more of the same images right, by more than one standard error of the difference."""
        gains = other.errors - self.errors
        return bool(gains.mean() > gains.std(ddof=1) / math.sqrt(len(gains)))


@dataclass(frozen=True)
class Choice:
    """What a site chose, and why.

    Attributes:
        how: one of ``fedkr.documents.CHOSEN_BY``.
        judged: how many images the choice rests on, 0 for none.
        own: accuracy on them of training on the site's own images alone; None where nothing was judged.
        alone: the same of training with one other site's release too, by that site.
        chosen: whose releases the site trains with, in the order in which they were taken.
    """

    how: str
    judged: int = 0
    own: float | None = None
    alone: Mapping[str, float] = dataclasses.field(default_factory=dict)
    chosen: Names = ()


def forward_selection(names: Iterable[str], judge: Callable[[Names], Verdict]) -> tuple[Names, dict[Names, Verdict]]:
    """Choose among ``names``: one after the other is taken in, the best on its own first, if it adds to those before.

    With n names ``judge`` trains at most 2 n times. One that adds nothing is left out, of equals the first is tried
    first.

    Returns:
        The chosen, and the verdicts on all that was tried, the empty choice first.
    """
    tried: dict[Names, Verdict] = {(): judge(())}
    tried |= {(name,): judge((name,)) for name in names}
    order = sorted([key for key in tried if key], key=lambda key: (tried[key].errors.sum(), tried[key].loss))
    chosen: Names = ()
    for key in order:
        wider = (*chosen, *key)
        if wider not in tried:
            tried[wider] = judge(wider)
        if tried[wider].beats(tried[chosen]):
            chosen = wider
    return chosen, tried


def with_real(real: ImageSet, offered: Mapping[str, ReleasedSets], chosen: Sequence[str]) -> ReleasedSets:
    """Return what a site trains on: its own real images in every round, and a slice of each chosen release."""
    own = SoftSet(real.images, np.eye(len(real.classes), dtype=np.float32)[real.labels])
    sets = [offered[name] for name in chosen]
    rounds = max((len(each) for each in sets), default=1)
    return ReleasedSets(lambda index: SoftSet.union([own, *(each(index) for each in sets)]), rounds)


class Aggregation:
    """One site's choice among the releases that it was offered.

    Args:
        study: its student's recipe trains every judged classifier, for ``recycle.search_steps`` steps.
        data: the site's splits; canaries in train take no part in the choice, test and holdout are never read.
        offered: the other sites' releases, by site.
        job: where it computes; its seed is that of all trainings.
    """

    def __init__(self, study: Study, data: SiteData, offered: Mapping[str, ReleasedSets], job: Job) -> None:
        self.offered, self.job = offered, job
        # The site's own images are sharp, and its own model sees them so.
        self.config = dataclasses.replace(study.student, steps=study.recycle.search_steps, components=0)
        self.how, self.folds = judged_folds(data, job)

    def choose(self, keep: Callable[[Names, Callable[[], Verdict]], Verdict]) -> Choice:
        """Return the choice; ``keep`` returns what a tried choice comes to, which it may have from before."""
        if not self.folds or not self.offered:
            return Choice(self.how)
        names = list(self.offered)
        chosen, tried = forward_selection(names, lambda key: keep(key, lambda: self.judge(key)))
        alone = {name: tried[(name,)].accuracy for name in names}
        return Choice(self.how, len(tried[()].errors), tried[()].accuracy, alone, chosen)

    def judge(self, chosen: Names) -> Verdict:
        """Train on the site's own images and these releases, and return the verdict on images that were left out."""
        logits, labels = [], []
        for number, (train, judged) in enumerate(self.folds):
            stage = f"choosing {' + '.join(['own', *chosen])}, part {number + 1} of {len(self.folds)}"
            # All with the same seed, so that only the choice differs.
            job = self.job.seeded("fold", number)
            model = distill_student(self.config, with_real(train, self.offered, chosen), job, stage)
            logits.append(predict_logits(model, judged.images, job.runtime))
            labels.append(judged.labels)
        return Verdict.of(np.concatenate(logits), np.concatenate(labels))


def judged_folds(data: SiteData, job: Job) -> tuple[str, list[tuple[ImageSet, ImageSet]]]:
    """Return how a site's choice is made, and the pairs of images that train and images that judge.

    No patient is on both sides of a pair.
    """
    if len(data.val) >= LEAST_VAL:
        return VAL, [(data.members, data.val)]
    pool = joined([data.members, data.val])
    if len(pool) < LEAST_JUDGED:
        return TOO_FEW, []
    rng = numpy_rng(*job.seed, "folds")
    parts = deal(pool.labels, [1 / FOLDS] * FOLDS, rng, pool.groups, least=0)
    everything = np.arange(len(pool))
    return FOLDED, [(pool.subset(np.setdiff1d(everything, part)), pool.subset(part)) for part in parts]
