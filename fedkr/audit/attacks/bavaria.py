"""BaVarIA, the likelihood ratio of LiRA under priors learnt from all images (Brännvall 2026, arXiv 2603.11799).

With few reference models LiRA's variance of a single image is a guess. Here mean and variance of each side (references
trained with the image, and without it) have a normal-inverse-gamma prior, so that the target's signal follows a
Student-t distribution with as many degrees of freedom as the references and the prior give together: the paper's
BaVarIA-t. The prior's parameters are ours, by empirical Bayes: the variances' by the moments of their logarithms
(Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3), the means' by the variance between images. What training on an image does
to its signal varies less than the signal does, so the prior mean with an image is its mean without it plus what all
images gain.

The signal is LiRA's, the logit-scaled confidence; scores are float64 ``[N]``, higher for likelier members.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from fedkr.audit.attacks.observed import Bools, Floats, Observed

LEAST_VARIANCE = 1e-12
# Where the images' variances differ no more than samples of one variance do, this stands for infinity.
MOST_FREEDOM = 1e4
# Of the prior mean, in references: as little and as much as counts.
LEAST_WEIGHT, MOST_WEIGHT = 1e-3, 1e4


def bavaria(seen: Observed) -> Floats:
    """Return the mean log ratio of the target's densities among models with and without each image.

    Raises:
        UserError: an image with fewer than two references of either side.
    """
    seen.require(inside=2, outside=2)
    inside, outside = _Side.of(seen, seen.membership), _Side.of(seen, ~seen.membership)
    without = outside.predictive(_overall_mean(outside))
    gained = without.center + (inside.mean - without.center).mean(0)
    return (inside.predictive(gained).log_density(seen.target) - without.log_density(seen.target)).mean(1)


def bavaria_offline(seen: Observed) -> Floats:
    """Return how far the target's signal lies above what models without the image say, as a mean normal score.

    Raises:
        UserError: an image with fewer than two references trained without it.
    """
    seen.require(inside=0, outside=2)
    outside = _Side.of(seen, ~seen.membership)
    return outside.predictive(_overall_mean(outside)).normal_score(seen.target).mean(1)


@dataclass(frozen=True)
class _Predictive:
    """What a further model would say of each image: Student-t distributions ``[N, A]``."""

    freedom: Floats
    center: Floats
    scale: Floats

    def log_density(self, target: Floats) -> Floats:
        density: Floats = scipy.stats.t.logpdf(target, self.freedom, self.center, self.scale)
        return density

    def normal_score(self, target: Floats) -> Floats:
        """Return the normal quantile of the lower tail, in whichever tail keeps its digits."""
        distance = (target - self.center) / self.scale
        score: Floats = scipy.stats.norm.isf(scipy.stats.t.sf(np.abs(distance), self.freedom))
        # Further out than float64 resolves a tail the distance itself goes on ordering images.
        return np.sign(distance) * np.where(np.isfinite(score), score, np.abs(distance))


@dataclass(frozen=True)
class _Side:
    """References of one side: how many an image ``[N, 1]``, their means and sums of squares ``[N, A]``."""

    count: NDArray[np.int64]
    mean: Floats
    squares: Floats

    @staticmethod
    def of(seen: Observed, mask: Bools) -> _Side:
        return _Side(mask.sum(0)[:, None], seen.mean(mask), seen.squares(mask))

    def predictive(self, prior_mean: Floats) -> _Predictive:
        """Return the posterior predictive distribution (Murphy 2007, "Conjugate Bayesian analysis", section 6)."""
        freedom, variance = self._variance_prior()
        weight = self._mean_weight(prior_mean)
        after = weight + self.count
        center = (weight * prior_mean + self.count * self.mean) / after
        between = weight * self.count / after * (self.mean - prior_mean) ** 2
        total = freedom + self.count
        scale = (freedom * variance + self.squares + between) / total * (after + 1) / after
        return _Predictive(np.broadcast_to(total, center.shape), center, np.sqrt(scale))

    def _variance_prior(self) -> tuple[Floats, Floats]:
        """Return degrees of freedom and variance ``[1, A]`` of the variances' scaled inverse chi-square prior."""
        own = (self.count - 1).astype(np.float64)
        logs = np.log(np.maximum(self.squares / own, LEAST_VARIANCE))
        logs = logs - scipy.special.digamma(own / 2) + np.log(own / 2)
        excess = logs.var(0, keepdims=True) - scipy.special.polygamma(1, own / 2).mean(0, keepdims=True)
        freedom = np.array([[2 * _inverse_trigamma(value) for value in excess[0]]])
        variance = np.exp(logs.mean(0, keepdims=True) + scipy.special.digamma(freedom / 2) - np.log(freedom / 2))
        return freedom, variance

    def _mean_weight(self, prior_mean: Floats) -> Floats:
        """Return how many references the prior mean counts for, ``[1, A]``: within over between variance of images."""
        within = (self.squares.sum(0) / (self.count - 1).sum(0)).clip(LEAST_VARIANCE)
        between = ((self.mean - prior_mean) ** 2).mean(0) - (within / self.count).mean(0)
        return (within / np.maximum(between, LEAST_VARIANCE)).clip(LEAST_WEIGHT, MOST_WEIGHT)[None]


def _overall_mean(side: _Side) -> Floats:
    return np.broadcast_to(side.mean.mean(0, keepdims=True), side.mean.shape)


def _inverse_trigamma(value: float) -> float:
    """Return x with ``trigamma(x) = value``, by Newton's steps (Smyth 2004); a bound where there is none."""
    most = MOST_FREEDOM / 2
    if value <= float(scipy.special.polygamma(1, most)):
        return most
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(scipy.special.polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(scipy.special.polygamma(2, x))
        x += step
        if -step / x < 1e-8:
            break
    return x
