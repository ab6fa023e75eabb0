"""The attacks by reference models, from logits to one score an image: LiRA, BaVarIA and RMIA in their variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import scipy
from numpy.typing import NDArray

from fedkr.audit.attacks.bavaria import bavaria, bavaria_offline
from fedkr.audit.attacks.lira import lira_offline, lira_online, logit_scaled_confidence
from fedkr.audit.attacks.observed import Bools, Floats, Observed
from fedkr.audit.attacks.queries import Queries
from fedkr.audit.attacks.rmia import Population, choose_offline_a, rmia_offline, rmia_online
from fedkr.config import REFERENCE_ATTACKS, nearest
from fedkr.data.images import ImageSet
from fedkr.errors import UserError

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]

OF_CONFIDENCE: dict[str, Callable[[Observed], Floats]] = {
    "lira-online": lira_online,
    "lira-online-fixed": partial(lira_online, fixed_variance=True),
    "lira-offline": lira_offline,
    "lira-offline-fixed": partial(lira_offline, fixed_variance=True),
    "bavaria": bavaria,
    "bavaria-offline": bavaria_offline,
}
# Weakest first: a pipeline shadow goes the whole way that the audited student went.
KINDS = ("direct", "pipeline")


class ReferenceModels(Protocol):
    """What an attack asks of M reference models."""

    @property
    def membership(self) -> Bools:
        """Bool ``[M, N]``: which candidates each model trained on."""

    def logits(self, images: NDArray[np.uint8]) -> Logits:
        """Return float32 ``[M, Q, K]`` for uint8 images ``[Q, H, W, C]``."""


@dataclass(frozen=True)
class ReferenceSignals:
    """What reference models answered; it names single images, so it never leaves the site.

    Attributes:
        kind: ``direct`` (classifiers on random halves) or ``pipeline`` (whole pipelines on random halves).
        logits: float32 ``[M, A, N, K]`` on A views of the candidates.
        population: float32 ``[M, A, Z, K]`` on the same views of the population.
        membership: bool ``[M, N]``.
        others: whether the references also trained on the other sites' releases.
    """

    kind: str
    logits: Logits
    population: Logits
    membership: Bools
    others: bool

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"reference models: kind {self.kind!r}; one of: {', '.join(KINDS)}")
        fits = self.logits.ndim == self.population.ndim == 4
        fits = fits and self.logits.shape[:2] + self.logits.shape[3:] == (
            self.population.shape[:2] + self.population.shape[3:]
        )
        if not fits or self.membership.shape != (self.logits.shape[0], self.logits.shape[2]):
            raise UserError(
                f"reference models: logits {list(self.logits.shape)}, on the population {list(self.population.shape)} "
                f"and membership {list(self.membership.shape)} do not fit together"
            )


@dataclass(frozen=True)
class Answers:
    """What the audited model answered on A views of N images.

    Attributes:
        logits: float ``[A, N, K]``.
        labels: int64 ``[N]``.
    """

    logits: Logits
    labels: Labels


def reference_signals(
    references: ReferenceModels, candidates: ImageSet, population: ImageSet, queries: Queries, kind: str, others: bool
) -> ReferenceSignals:
    """Ask reference models for all that the attacks need: a ``kind``, ``others`` as in :class:`ReferenceSignals`.

    The N candidates come in the order of the references' membership; neither the references nor the audited models
    trained on the Z images of the population.
    """
    logits, of_population = (
        np.stack([references.logits(view) for view in queries.views(data.images)], axis=1)
        for data in (candidates, population)
    )
    return ReferenceSignals(kind, logits, of_population, references.membership, others)


def reference_attack_score(
    name: str, target: Answers, population: Answers, signals: ReferenceSignals, gamma: float
) -> Floats:
    """Return the named attack's scores float64 ``[N]``, higher meaning "more like a member".

    LiRA and BaVarIA read the logit-scaled confidence, RMIA the probability of the true class. The ``a`` of
    ``rmia-offline`` is chosen with a reference model as the target, never on the audited model's challenge. ``gamma``
    is RMIA's threshold, 1 or more; ``target`` and ``population`` are the audited model's answers on the views that
    ``signals`` are of.

    Raises:
        UserError: an unknown attack, shapes that do not fit, logits that are not finite, or too few references.
    """
    if name not in REFERENCE_ATTACKS:
        raise UserError(f"audit.attacks={name!r}: no such attack{nearest(name, REFERENCE_ATTACKS)}")
    _check_shapes(target.logits, signals.logits, "candidates")
    _check_shapes(population.logits, signals.population, "population images")
    odds, references = _confidence(target.logits[None], target.labels)[0], _confidence(signals.logits, target.labels)
    if name in OF_CONFIDENCE:
        return OF_CONFIDENCE[name](Observed(odds, references, signals.membership))
    probability = scipy.special.expit
    seen = Observed(probability(odds), probability(references), signals.membership)
    others = Population(
        probability(_confidence(population.logits[None], population.labels)[0]),
        probability(_confidence(signals.population, population.labels)),
    )
    if name == "rmia":
        return rmia_online(seen, others, gamma=gamma)
    return rmia_offline(seen, others, a=choose_offline_a(seen, others), gamma=gamma)


def observed_confidence(target: Answers, signals: ReferenceSignals) -> Observed:
    """Return LiRA's signal of a model and its references, the mean over their views: one column."""
    _check_shapes(target.logits, signals.logits, "candidates")
    own = _confidence(target.logits[None], target.labels)[0]
    references = _confidence(signals.logits, target.labels)
    return Observed(own.mean(1, keepdims=True), references.mean(2, keepdims=True), signals.membership)


def _confidence(logits: Logits, labels: Labels) -> Floats:
    """Return the true class's log-odds float64 ``[M, N, A]`` of logits ``[M, A, N, K]``, one model at a time."""
    if not np.isfinite(logits).all():
        raise UserError("logits: not all finite, so a model diverged and cannot be audited; lower its learning rate")
    return np.stack([logit_scaled_confidence(model, labels).T for model in logits])


def _check_shapes(target: Logits, references: Logits, what: str) -> None:
    if target.shape != references.shape[1:]:
        raise UserError(
            f"reference models: answered on views, {what} and classes {list(references.shape[1:])}, "
            f"the audited model on {list(target.shape)}; ask both for the same"
        )
