"""RMIA, the pairwise likelihood-ratio attack (Zarifzadeh, Liu & Shokri 2024, ICML).

An image x is compared with many population images z that no model trained on:

    ``LR(x, z) = (Pr(x | model) / Pr(x)) / (Pr(z | model) / Pr(z))``,  ``score(x) = share of z with LR(x, z) >= gamma``

The signal is the probability of the true label, between 0 and 1. The population must be disjoint from the challenge
set. Several augmented queries are averaged, and ties of that share broken by the image's own ratio. Scores are float64
``[N]``, higher meaning "more like a member".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedkr.audit.attacks.observed import Floats, Observed
from fedkr.audit.statistics.membership import auc
from fedkr.errors import UserError

# Below this a probability is a rounding error of the softmax; it keeps the logarithm finite.
LEAST = 1e-300


@dataclass(frozen=True)
class Population:
    """The same signal as in :class:`Observed` of Z images that no model trained on.

    Attributes:
        target: float ``[Z, A]``.
        references: float ``[M, Z, A]``.
    """

    target: Floats
    references: Floats


def rmia_online(seen: Observed, population: Population, *, gamma: float = 1.0) -> Floats:
    """Return RMIA scores with ``Pr(x)`` the mean of references trained with and without x, in equal parts.

    An image without a reference of each, shapes that do not fit and values that are no probabilities are a UserError.
    """
    seen.require(inside=1, outside=1)
    prior = (seen.mean(seen.membership) + seen.mean(~seen.membership)) / 2
    return _pairwise(
        _log_ratio(seen.target, prior), _log_ratio(population.target, _population_mean(seen, population)), gamma
    )


def rmia_offline(seen: Observed, population: Population, *, a: float, gamma: float = 1.0) -> Floats:
    """Return RMIA scores from references trained without the image only; one such reference an image is enough.

    ``Pr(x) = ((1 + a) Pr_out(x) + (1 - a)) / 2`` for images and population alike: training on x is taken to lift its
    probability linearly, to ``a Pr_out(x) + 1 - a``, with ``a`` between 0 (references that memorise) and 1 (training
    changes nothing; see :func:`choose_offline_a`). Models trained on an image are passed over for it; ``gamma`` is the
    least ratio that counts as evidence, 1 or more.

    Raises:
        UserError: shapes that do not fit, values that are no probabilities, or an image without an out-reference.
    """
    if not 0 <= a <= 1:
        raise UserError(f"a={a}: RMIA's offline scaling lies between 0 and 1")
    seen.require(inside=0, outside=1)
    prior = _offline_prior(seen.mean(~seen.membership), a)
    population_ratio = _log_ratio(population.target, _offline_prior(_population_mean(seen, population), a))
    return _pairwise(_log_ratio(seen.target, prior), population_ratio, gamma)


def choose_offline_a(
    seen: Observed, population: Population, candidates: Sequence[float] = tuple(np.linspace(0, 1, 11))
) -> float:
    """Return the candidate ``a`` with the best AUC when the first reference plays the target, the others attack it.

    Its membership is known, so the choice never touches the audited model's challenge labels; neither ``target`` is
    read. Images that all the others trained on are passed over. Fewer than two references, or no image left on one
    side, are a :class:`UserError`.
    """
    references, membership = seen.references, seen.membership
    if len(references) < 2:
        raise UserError(f"reference models: {len(references)}, but choosing RMIA's a takes 2; train more")
    usable = (~membership[1:]).any(0)
    inside = membership[0, usable]
    if inside.all() or not inside.any():
        raise UserError("reference models: the first has its members or its non-members in all the others; train more")
    first = Observed(references[0, usable], references[1:, usable], membership[1:, usable])
    others = Population(population.references[0], population.references[1:])
    scores = [rmia_offline(first, others, a=float(a)) for a in candidates]
    return float(candidates[int(np.argmax([auc(score[inside], score[~inside]) for score in scores]))])


def _offline_prior(out: Floats, a: float) -> Floats:
    return ((1 + a) * out + (1 - a)) / 2


def _population_mean(seen: Observed, population: Population) -> Floats:
    models, _, queries = seen.references.shape
    expected = (models, len(population.target), queries)
    if population.target.shape != expected[1:] or population.references.shape != expected or not len(population.target):
        raise UserError(
            f"population scores: expected [Z, {queries}] and [{models}, Z, {queries}], "
            f"got {list(population.target.shape)} and {list(population.references.shape)}"
        )
    return population.references.mean(0)


def _log_ratio(probability: Floats, prior: Floats) -> Floats:
    for values in (probability, prior):
        if not ((values >= 0) & (values <= 1)).all():
            raise UserError("RMIA: expected probabilities of the true label, between 0 and 1")
    return np.log(np.maximum(probability, LEAST)) - np.log(np.maximum(prior, LEAST))


def _pairwise(image: Floats, population: Floats, gamma: float) -> Floats:
    """Return ``[N]``, between 0 and 1: the share of population images whose log ratio is ``log gamma`` or more lower.

    The share has as few levels as the population has images, so that many images tie. Their own log ratios, averaged
    over the queries and bent into one step of the share, decide between them and change no other order.
    """
    if not gamma >= 1:
        raise UserError(f"gamma={gamma}: RMIA's threshold is 1 or more")
    queries, count = image.shape[1], len(population)
    wins = [
        np.searchsorted(np.sort(population[:, query]), image[:, query] - np.log(gamma), side="right")
        for query in range(queries)
    ]
    part = 0.5 + np.arctan(image.mean(1)) / np.pi
    score: Floats = (np.sum(wins, axis=0) + part) / (queries * count + 1)
    return score
