"""RMIA, the pairwise likelihood-ratio attack (Zarifzadeh, Liu & Shokri 2024, ICML).

An image x is compared with many population images z that no model trained on:

    ``LR(x, z) = (Pr(x | model) / Pr(x)) / (Pr(z | model) / Pr(z))``,  ``score(x) = share of z with LR(x, z) >= gamma``

All inputs are probabilities of the true label, between 0 and 1, in the shapes of
``fedkr.audit.attacks.observed``, and for the population ``[Z, A]`` and ``[M, Z, A]``. The population must be
disjoint from the challenge set. Several augmented queries are averaged. Scores are float64 ``[N]``, higher meaning
"more like a member".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedkr.audit.attacks.observed import Bools, Floats, check_references, masked_mean
from fedkr.audit.statistics.membership import auc
from fedkr.errors import UserError

# Below this a probability is a rounding error of the softmax; it keeps the logarithm finite.
LEAST = 1e-300


def rmia_online(
    target: Floats,
    references: Floats,
    membership: Bools,
    population_target: Floats,
    population_references: Floats,
    *,
    gamma: float = 1.0,
) -> Floats:
    """Return RMIA scores with ``Pr(x)`` the mean of references trained with and without x, in equal parts.

    Raises:
        UserError: shapes that do not fit, values that are no probabilities, or an image without a reference of each.
    """
    check_references(target, references, membership, least_in=1, least_out=1)
    prior = (masked_mean(references, membership) + masked_mean(references, ~membership)) / 2
    population_prior = _population_mean(target, references, population_target, population_references)
    return _pairwise(_log_ratio(target, prior), _log_ratio(population_target, population_prior), gamma)


def rmia_offline(
    target: Floats,
    references: Floats,
    membership: Bools,
    population_target: Floats,
    population_references: Floats,
    *,
    a: float,
    gamma: float = 1.0,
) -> Floats:
    """Return RMIA scores from references trained without the image only; one such reference an image is enough.

    ``Pr(x) = ((1 + a) Pr_out(x) + (1 - a)) / 2`` for images and population alike: training on x is taken to lift its
    probability linearly, to ``a Pr_out(x) + 1 - a``.

    Args:
        target: ``[N, A]``.
        references: ``[M, N, A]``.
        membership: bool ``[M, N]``; models trained on an image are passed over for it.
        population_target: ``[Z, A]``.
        population_references: ``[M, Z, A]``.
        a: between 0 (references that memorise) and 1 (training changes nothing); see :func:`choose_offline_a`.
        gamma: least ratio that counts as evidence, 1 or more.

    Raises:
        UserError: shapes that do not fit, values that are no probabilities, or an image without an out-reference.
    """
    if not 0 <= a <= 1:
        raise UserError(f"a={a}: RMIA's offline scaling lies between 0 and 1")
    check_references(target, references, membership, least_in=0, least_out=1)
    prior = _offline_prior(masked_mean(references, ~membership), a)
    population_mean = _population_mean(target, references, population_target, population_references)
    population_ratio = _log_ratio(population_target, _offline_prior(population_mean, a))
    return _pairwise(_log_ratio(target, prior), population_ratio, gamma)


def choose_offline_a(
    references: Floats,
    membership: Bools,
    population_references: Floats,
    candidates: Sequence[float] = tuple(np.linspace(0, 1, 11)),
) -> float:
    """Return the candidate ``a`` with the best AUC when the first reference plays the target, the others attack it.

    Its membership is known, so the choice never touches the audited model's challenge labels. Images that all the
    others trained on are passed over.

    Raises:
        UserError: fewer than two references, or none of the images left on one side.
    """
    if len(references) < 2:
        raise UserError(f"reference models: {len(references)}, but choosing RMIA's a takes 2; train more")
    usable = (~membership[1:]).any(0)
    inside, others = membership[0, usable], membership[1:, usable]
    if inside.all() or not inside.any():
        raise UserError("reference models: the first has its members or its non-members in all the others; train more")
    target, rest = references[0, usable], references[1:, usable]
    population = population_references[0], population_references[1:]
    scores = [rmia_offline(target, rest, others, *population, a=float(a)) for a in candidates]
    return float(candidates[int(np.argmax([auc(score[inside], score[~inside]) for score in scores]))])


def _offline_prior(out: Floats, a: float) -> Floats:
    return ((1 + a) * out + (1 - a)) / 2


def _population_mean(
    target: Floats, references: Floats, population_target: Floats, population_references: Floats
) -> Floats:
    expected = (len(references), len(population_target), target.shape[1])
    if population_target.shape != expected[1:] or population_references.shape != expected or not len(population_target):
        raise UserError(
            f"population scores: expected [Z, {expected[2]}] and [{expected[0]}, Z, {expected[2]}], "
            f"got {list(population_target.shape)} and {list(population_references.shape)}"
        )
    return population_references.mean(0)


def _log_ratio(probability: Floats, prior: Floats) -> Floats:
    for values in (probability, prior):
        if not ((values >= 0) & (values <= 1)).all():
            raise UserError("RMIA: expected probabilities of the true label, between 0 and 1")
    return np.log(np.maximum(probability, LEAST)) - np.log(np.maximum(prior, LEAST))


def _pairwise(image: Floats, population: Floats, gamma: float) -> Floats:
    """Return ``[N]``: the share of population images whose log ratio lies ``log gamma`` or more below the image's."""
    if not gamma >= 1:
        raise UserError(f"gamma={gamma}: RMIA's threshold is 1 or more")
    wins = [
        np.searchsorted(np.sort(population[:, query]), image[:, query] - np.log(gamma), side="right")
        for query in range(image.shape[1])
    ]
    return np.mean(wins, axis=0) / len(population)
