"""Each of M pipelines plays the audited one, and all others are its references: of each, the half is known.

Images that the others trained on all, or not at all, have no score: NaN stands in their place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.calibrated import calibrated, fused
from fedkr.audit.attacks.observed import Bools, Floats, Observed
from fedkr.audit.attacks.with_references import Answers, ReferenceSignals, reference_attack_score
from fedkr.config import CALIBRATED_ATTACKS, FUSED_ATTACK

# Signals of the fused attack, and that of the classifier alone.
FUSED, CLASSIFIER = [0, len(CALIBRATED_ATTACKS)], len(CALIBRATED_ATTACKS)
OF_CLASSIFIER = "classifier"
Labels = NDArray[np.int64]


def release_attacks(signals: Floats, membership: Bools, labels: Labels, target: int) -> dict[str, Floats]:
    """Return the scores float64 ``[N]`` of each attack on the release of the pipeline ``target``.

    Args:
        signals: ``[M, N, 4]``: those of the nearest released images, and what a student of the release says.
        membership: ``[M, N]``, who trained on which image.
        labels: ``[N]``.
        target: 0 to M - 1.
    """
    rest, known = _references(membership, target)
    seen = Observed(signals[target][known], signals[rest][:, known], membership[rest][:, known])
    pair = Observed(seen.target[:, FUSED], seen.references[:, :, FUSED], seen.membership)
    by_signal = calibrated(seen, labels[known])
    found = {name: by_signal[:, index] for index, name in enumerate(CALIBRATED_ATTACKS)}
    found |= {OF_CLASSIFIER: by_signal[:, CLASSIFIER], FUSED_ATTACK: fused(pair, labels[known])}
    return {name: _spread_out(scores, known) for name, scores in found.items()}


def distance_scores(nearness: Floats, membership: Bools, target: int) -> Floats:
    """Return float64 ``[N]``: how near the release of ``target`` lies to each image, less how near the others do.

    Args:
        nearness: ``[M, N]``, higher for nearer.
        membership: ``[M, N]``, who trained on which image.
        target: 0 to M - 1.
    """
    rest, known = _references(membership, target)
    seen = Observed(nearness[target][known, None], nearness[rest][:, known, None], membership[rest][:, known])
    # Every image has references of both kinds, so that its class is not asked for.
    return _spread_out(calibrated(seen, np.zeros(int(known.sum()), np.int64))[:, 0], known)


def rmia_scores(
    logits: NDArray[np.float32],
    labels: Labels,
    population: NDArray[np.float32],
    about: Labels,
    membership: Bools,
    target: int,
) -> Floats:
    """Return the scores float64 ``[N]`` of RMIA on the classifier ``target`` of M, all others being its references.

    Args:
        logits: float32 ``[M, N, K]`` on the candidates.
        labels: ``[N]``.
        population: float32 ``[M, Z, K]`` on images that no pipeline trained on.
        about: ``[Z]``, their labels.
        membership: ``[M, N]``.
        target: 0 to M - 1.
    """
    rest, known = _references(membership, target)
    inside = membership[rest][:, known]
    signals = ReferenceSignals("pipeline", logits[rest][:, None, known], population[rest][:, None], inside, others=True)
    own = Answers(logits[target][None, known], labels[known]), Answers(population[target][None], about)
    return _spread_out(reference_attack_score("rmia", *own, signals, 1.0), known)


def _references(membership: Bools, target: int) -> tuple[Bools, Bools]:
    """Return which pipelines are references ``[M]``, and which images have some of both kinds ``[N]``."""
    rest = np.arange(len(membership)) != target
    return rest, membership[rest].any(0) & ~membership[rest].all(0)


def _spread_out(scores: Floats, known: Bools) -> Floats:
    found = np.full(len(known), np.nan)
    found[known] = scores
    return found
