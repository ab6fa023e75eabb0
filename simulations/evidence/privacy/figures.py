"""From what pipelines left to figures with intervals, and what tells a variant from another: arrays in, numbers out.

An interval is of a two-way bootstrap: pipelines and images are both drawn again, so that it holds for other halves and
other images of the same kind. A mean over M resampled pipelines spreads less than one over M pipelines, by a factor of
sqrt((M - 1) / M), which is made good. All variants share the draws, since they share halves and images: their
differences are paired.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from fedkr.audit.attacks.lira import logit_scaled_confidence
from fedkr.audit.attacks.observed import Bools, Floats
from fedkr.config import CALIBRATED_ATTACKS, FUSED_ATTACK
from fedkr.recycle.leakage import unexpected
from fedkr.resampling import LIMITS
from fedkr.roc import RocCounts
from fedkr.seeds import numpy_rng
from simulations.evidence.leave_one_out import release_attacks, rmia_scores
from simulations.evidence.privacy.answers import MODELS, STUDENT

FPR = 0.01
RESAMPLES = 1000
NOISE_DRAWS = 50
# By name: what each figure is, as a table has it.
RELEASE, FEATURES, RAW, FUSED = "release", "release_features", "release_raw", "fused"
# What ``recycle.leakage_weight`` lets the search count.
STATISTIC = "statistic"
# The release's, of classes of fewer images than so many at a pipeline, in the mean; of a pool with fewer than so many
# of them there is none, as a resample might hold no member or no other.
OF_RARE, RARE, LEAST_OF_RARE = "release_rare", 20, 80
Values = TypeVar("Values", Floats, NDArray[np.float32])
OF_RELEASE = {RELEASE: CALIBRATED_ATTACKS[0], FEATURES: CALIBRATED_ATTACKS[1], FUSED: FUSED_ATTACK}


@dataclass(frozen=True)
class Subject:
    """Who trained on what, and what is known of the images: the same for all variants.

    Attributes:
        membership: bool ``[M, N]``.
        surroundings: float64 ``[N, 3]`` (:func:`fedkr.recycle.leakage.surroundings`), of the pool.
        labels: int64 ``[N]``, of the pool.
        population, test: int64 ``[Z]`` and ``[T]``, labels.
    """

    membership: Bools
    surroundings: Floats
    labels: NDArray[np.int64]
    population: NDArray[np.int64]
    test: NDArray[np.int64]

    def of(self, pipelines: Sequence[int]) -> Subject:
        """Return the same with some of the pipelines only."""
        return Subject(self.membership[list(pipelines)], self.surroundings, self.labels, self.population, self.test)


@dataclass(frozen=True)
class Left:
    """What M pipelines of one variant left.

    Attributes:
        signals: float64 ``[M, N, 3]``; ``nearest``: float64 ``[M, N]``.
        logits: float32 ``[M, n, K]`` by model and set, as ``student.pool``.
    """

    signals: Floats
    nearest: Floats
    logits: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Figure:
    """A figure, the mean over so many pipelines, and its value in each resample ``[B]``."""

    value: float
    resampled: Floats
    pipelines: int

    @property
    def interval(self) -> tuple[float, float]:
        """The limits of its 95 % interval."""
        low, high = np.quantile(self.resampled, LIMITS)
        return float(low), float(high)

    def less(self, other: Figure) -> tuple[Figure, float]:
        """Return the difference from another figure of the same resamples, and its two-sided p-value.

        By Student's t, as few pipelines say little of how much they differ.
        """
        found = Figure(self.value - other.value, self.resampled - other.resampled, self.pipelines)
        error = float(found.resampled.std(ddof=1))
        return found, float(2 * student_t.sf(abs(found.value) / error, self.pipelines - 1)) if error > 0 else 1.0


class Resamples:
    """How often each pipeline, each image of the pool and each test image is drawn, the same for all figures."""

    def __init__(self, subject: Subject, count: int = RESAMPLES) -> None:
        pipelines, images = subject.membership.shape
        rng = numpy_rng("privacy", "resamples")
        self.images, self.test, self.pipelines = (_drawn(rng, count, n) for n in (images, len(subject.test), pipelines))

    def over_pipelines(self, once: Floats, values: Floats) -> Figure:
        """Return the figure of a value a pipeline ``[M]``, and of those in each resample of images ``[B, M]``."""
        weights = self.pipelines / self.pipelines.sum(1, keepdims=True)
        value, count = float(once.mean()), len(once)
        return Figure(value, value + ((values * weights).sum(1) - value) * np.sqrt(count / (count - 1)), count)


def _drawn(rng: np.random.Generator, count: int, n: int) -> Floats:
    return rng.multinomial(n, np.full(n, 1 / n), size=count).astype(np.float64)


def figures_of(left: Left, subject: Subject, drawn: Resamples) -> dict[str, Figure]:
    """Return all figures of a variant by name: AUCs and TPRs at 1 % FPR of attacks, accuracies on the test images."""
    found = attack_figures(left, subject, drawn, left)
    for model in MODELS:
        right = (left.logits[f"{model}.test"].argmax(2) == subject.test).astype(np.float64)
        values = drawn.test @ right.T / drawn.test.sum(1, keepdims=True)
        found[f"{model}_accuracy"] = drawn.over_pipelines(right.mean(1), values)
    return found


def attack_figures(left: Left, subject: Subject, drawn: Resamples, references: Left) -> dict[str, Figure]:
    """Return AUCs and TPRs at 1 % FPR of attacks on what a variant left, by the pipelines of ``references``.

    These may be of another variant: what is attacked is then told of by pipelines that were made in another way.
    """
    found = dict[str, Figure]()
    for name, scores in attack_scores(left, subject, references).items():
        found |= _figures_of_attack(name, scores, subject.membership, drawn)
    return found


def attack_scores(left: Left, subject: Subject, references: Left) -> dict[str, Floats]:
    """Return the scores float64 ``[M, N]`` of each attack, NaN for images that lack references."""
    found: dict[str, list[Floats]] = defaultdict(list)
    own, others = _signals(left, subject), _signals(references, subject)
    for target in range(len(subject.membership)):
        signals = _with_target(own, others, target)
        by_attack = release_attacks(signals, subject.membership, subject.labels, target)
        for name, attack in OF_RELEASE.items():
            found[name].append(by_attack[attack])
        for model in MODELS:
            pool, population = (
                _with_target(left.logits[f"{model}.{part}"], references.logits[f"{model}.{part}"], target)
                for part in ("pool", "population")
            )
            of = pool, subject.labels, population, subject.population
            found[model].append(rmia_scores(*of, subject.membership, target))
    # As if a pipeline's val held the other half of the pool.
    statistic = np.stack([unexpected(signal, subject.surroundings) for signal in left.signals[:, :, 0]])
    by_name = {name: np.stack(scores) for name, scores in found.items()} | {RAW: left.nearest, STATISTIC: statistic}
    rare = of_rare_classes(subject.labels)
    apart = LEAST_OF_RARE <= rare.sum() < len(rare)
    return by_name | ({OF_RARE: np.where(rare, by_name[RELEASE], np.nan)} if apart else {})


def of_rare_classes(labels: NDArray[np.int64]) -> Bools:
    """Return bool ``[N]``: whether an image of the pool, by its int64 ``labels [N]``, is of a rare class.

    That is by the whole pool, of which each pipeline has half, so that it is the same whichever pipelines are done.
    """
    return np.bincount(labels)[labels] / 2 < RARE


def _signals(left: Left, subject: Subject) -> Floats:
    """Return float64 ``[M, N, 4]``: those of the nearest released images, and what a student of the release says."""
    confidence = logit_scaled_confidence(left.logits[f"{STUDENT}.pool"], subject.labels)
    return np.concatenate([left.signals, confidence[..., None]], axis=2)


def _with_target(own: Values, others: Values, target: int) -> Values:
    """Return what the other pipelines left, with the target's own in its place."""
    found = others.copy()
    found[target] = own[target]
    return found


def _figures_of_attack(name: str, scores: Floats, membership: Bools, drawn: Resamples) -> dict[str, Figure]:
    once, aucs, tprs = [], [], []
    for own, inside in zip(scores, membership, strict=True):
        sides = [side & np.isfinite(own) for side in (inside, ~inside)]
        counts = RocCounts(*(own[side] for side in sides))
        single = np.ones((1, int(sides[0].sum()))), np.ones((1, int(sides[1].sum())))
        weights = drawn.images[:, sides[0]], drawn.images[:, sides[1]]
        once.append((counts.auc(*single)[0], counts.tpr(*single, [FPR])[0, 0]))
        aucs.append(counts.auc(*weights))
        tprs.append(counts.tpr(*weights, [FPR])[:, 0])
    auc, tpr = np.array(once).T
    return {
        f"{name}_auc": drawn.over_pipelines(auc, np.stack(aucs, axis=1)),
        f"{name}_tpr": drawn.over_pipelines(tpr, np.stack(tprs, axis=1)),
    }


def guessing_aucs(subject: Subject) -> dict[str, float]:
    """Return the mean AUC that attacks have by these halves where releases and models say nothing: not quite 0.5.

    An image is in as many halves as not, so that the references of a member are one fewer on its own side.
    """
    rng, found = numpy_rng("privacy", "noise"), list[float]()
    for _ in range(NOISE_DRAWS):
        noise = rng.normal(size=(*subject.membership.shape, len(CALIBRATED_ATTACKS) + 1))
        for target, inside in enumerate(subject.membership):
            scores = release_attacks(noise, subject.membership, subject.labels, target)[OF_RELEASE[RELEASE]]
            known = np.isfinite(scores)
            sides = RocCounts(scores[inside & known], scores[~inside & known])
            found.append(float(sides.auc(*(np.ones((1, int((side & known).sum()))) for side in (inside, ~inside)))[0]))
    return {"mean": float(np.mean(found)), "standard_error": float(np.std(found) / np.sqrt(len(found)))}
