"""LiRA, the likelihood-ratio attack (Carlini et al. 2022, "Membership Inference Attacks From First Principles").

The signal is the logit-scaled confidence of the true label, ``phi = log(p_y / (1 - p_y))``. For every image, reference
models trained with it and without it give one Gaussian each; several augmented queries count as independent. Scores are
float64 ``[N]``, higher for likelier members.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.attacks.observed import Bools, Floats, Observed
from fedkr.audit.attacks.thresholds import log_odds

# Two references that agree to the last digit must not make an image infinitely likely.
LEAST_STD = 1e-6


def logit_scaled_confidence(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Floats:
    """Return ``phi`` float64 ``[..., N]`` for logits ``[..., N, K]`` and labels ``[N]`` (section VI-A)."""
    odds = log_odds(logits.reshape(-1, logits.shape[-1])).reshape(logits.shape)
    return odds[..., np.arange(len(labels)), labels]


def lira_online(seen: Observed, *, fixed_variance: bool = False) -> Floats:
    """Return the log likelihood ratio ``log N(phi; in) - log N(phi; out)``, summed over queries (Algorithm 1).

    With ``fixed_variance`` (few references) all images share one variance a query, pooled within images; then one
    reference with and one without each image are enough, else two of each: fewer are a :class:`UserError`.
    """
    least = 1 if fixed_variance else 2
    seen.require(inside=least, outside=least)
    inside, outside = seen.membership, ~seen.membership
    std_in, std_out = (_std(seen, mask, fixed_variance) for mask in (inside, outside))
    log_in = _log_density(seen.target, seen.mean(inside), _borrowed(std_in, std_out))
    log_out = _log_density(seen.target, seen.mean(outside), _borrowed(std_out, std_in))
    return (log_in - log_out).sum(1)


def lira_offline(seen: Observed, *, fixed_variance: bool = False) -> Floats:
    """Return the one-sided test of section VI-B as a z-score, from references trained without the image only.

    ``Lambda = 1 - Pr[Z > phi]`` with ``Z`` the Gaussian of the out-references is ``Phi(z)`` with
    ``z = (phi - mean) / std``: z ranks as Lambda does and does not saturate at 1. Queries are averaged.

    Raises:
        UserError: an image with too few references.
    """
    seen.require(inside=0, outside=1 if fixed_variance else 2)
    outside = ~seen.membership
    std = _std(seen, outside, fixed_variance)
    return ((seen.target - seen.mean(outside)) / _borrowed(std, std)).mean(1)


def _log_density(target: Floats, mean: Floats, std: Floats) -> Floats:
    """Return ``[N, A]`` log densities under Gaussians."""
    return -0.5 * ((target - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)


def _std(seen: Observed, mask: Bools, fixed_variance: bool) -> Floats:
    """Return unbiased standard deviations ``[N, A]``, or ``[1, A]`` pooled within images (NaN from one an image)."""
    squares = seen.squares(mask)
    freedom = np.maximum(mask.sum(0) - 1, 0)[:, None]
    if fixed_variance:
        squares, freedom = squares.sum(0, keepdims=True), freedom.sum(0, keepdims=True)
    variance = np.where(freedom > 0, squares / np.maximum(freedom, 1), np.nan)
    return np.maximum(np.sqrt(variance), LEAST_STD)


def _borrowed(own: Floats, other: Floats) -> Floats:
    """Fill a pooled deviation that one reference an image cannot give with the other side's, or 1 if neither can."""
    return np.nan_to_num(np.where(np.isnan(own), other, own), nan=1.0)
