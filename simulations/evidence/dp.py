"""Whether the guarantee is kept: how large an epsilon the strongest test of the mechanism shows, beside the one stated.

Run as ``python -m simulations.evidence.dp out=FILE runs=20 draws=600``. A run answers the queries of a small site so
many times with, and as often without, one image that is as far from the others as any can be. The tester knows all
other images, the noise's scale and both exact answers, and sums the log-likelihood ratio of each query given the
answers before it: no test of the mechanism is stronger. It calls the image in where the ratio is above 1. From the
limits of its two error rates (Clopper & Pearson 1934, 99.9 %) follows the least mu, and so the least epsilon, that a
mechanism of Gaussian noise with such errors has (Nasr et al. 2023). Beside it the same with a tenth of the noise's
variance: what a mistake in the accountant would look like. Covariances are asked for in both ways that there are: in
one query, and in two where a class has many images.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from fedkr.audit.statistics.fdp import epsilon_of_mu
from fedkr.data.components import Components
from fedkr.data.images import Shape
from fedkr.environment import provenance
from fedkr.generators.moments.statistics import (
    BY_CLASS,
    CENTRE,
    CLASSES,
    CLIP,
    OF_BY_CLASS,
    OF_CENTRE,
    OF_CLASSES,
    OF_POOLED,
    OF_SPREAD,
    POOLED,
    SPREAD,
    Query,
    Units,
    ask_by_class,
    ask_centre,
    ask_classes,
    ask_pooled,
    ask_spread,
    beside,
    whitened,
)
from fedkr.privacy.accountant import mu_of
from fedkr.seeds import derive_seed, numpy_rng
from simulations.evidence.stated_epsilon import publish

Floats = NDArray[np.float64]
EPSILONS, DELTA, CONFIDENCE = (2.0, 8.0), 1e-5, 0.999
IMAGES, SIDE, KINDS = 20, 4, 2
# Of the control: noise of a variance so many times too small.
BROKEN = 10.0


class Watched(Query):
    """A query whose answer is drawn from the images with or without the one, and whose likelihood ratio is kept.

    ``other`` are the totals of the neighbouring images: those that the answer is not drawn from.
    """

    def __init__(self, mu: float, parts: Mapping[str, float], seed: bytes, other: Mapping[str, Floats]) -> None:
        super().__init__(mu, parts, seed)
        self.other, self.log_ratio = other, 0.0

    def answer(self, part: str, limit: float, total: Floats) -> Floats:
        """Return the noisy sum; add the log-likelihood of this ``total`` over the other's."""
        return self._watched(part, limit, total, super().answer(part, limit, total))

    def answer_symmetric(self, part: str, limit: float, total: Floats) -> Floats:
        """Return the noisy symmetric matrices, likewise."""
        return self._watched(part, limit, total, super().answer_symmetric(part, limit, total))

    def _watched(self, part: str, limit: float, total: Floats, answer: Floats) -> Floats:
        scale = self.noise_in(part, limit)
        own, other = (((answer - mean) ** 2).sum() / scale**2 / 2 for mean in (total, self.other[part]))
        self.log_ratio += float(other - own)
        return answer


class Totals(Query):
    """A query that keeps the exact totals, and answers with them."""

    def __init__(self, parts: Mapping[str, float]) -> None:
        super().__init__(None, parts, b"")
        self.totals: dict[str, Floats] = {}

    def answer(self, part: str, limit: float, total: Floats) -> Floats:
        """Keep and return the total."""
        self.totals[part] = total
        return total

    answer_symmetric = answer


def log_ratio(drawn: Units, other: Units, longest: float, mu: float, seed: bytes, apart: bool = False) -> float:
    """Return the log-likelihood ratio of ``drawn`` against ``other`` of one draw of all answers from ``drawn``.

    The queries run as :func:`fedkr.generators.moments.statistics.measure` has them; ``apart`` is whether covariances
    take two.
    """
    total = 0.0
    sides: tuple[Units, ...] = (drawn, other)

    def ask(name: str, share: float, parts: Mapping[str, float], question: Callable[[Units, Query], Any]) -> Any:
        nonlocal total
        exact = Totals(parts)
        question(sides[1], exact)
        watched = Watched(mu * math.sqrt(share), parts, seed + name.encode(), exact.totals)
        found = question(sides[0], watched)
        total += watched.log_ratio
        return found

    centre, length = ask("centre", CENTRE, OF_CENTRE, lambda units, query: ask_centre(units, longest, query))
    sides = tuple(Units(side.values - centre, side.classes, side.weights) for side in sides)
    classes = ask("classes", CLASSES, OF_CLASSES, lambda units, query: ask_classes(units, CLIP * length, query))
    sides = tuple(beside(side, classes.means) for side in sides)
    if not apart:
        ask("spread", SPREAD, OF_SPREAD, lambda units, query: ask_spread(units, classes, query))
        return total
    axes = ask("pooled", POOLED, OF_POOLED, lambda units, query: ask_pooled(units, classes, query))
    sides = tuple(whitened(side, axes) for side in sides)
    ask("by class", BY_CLASS, OF_BY_CLASS, lambda units, query: ask_by_class(units, axes, classes, query))
    return total


def site(seed: int) -> tuple[Units, Units, float]:
    """Return the images of a small site with the canary, without it, and the longest that an image can be.

    The others are dim; the canary is bright and striped: no image is longer, and it is clipped wherever that can be.
    """
    rng, shape = numpy_rng(seed, "site"), Shape(1, SIDE, KINDS)
    images = rng.integers(0, 60, (IMAGES + 1, SIDE, SIDE, 1)).astype(np.uint8)
    images[0] = np.where(np.arange(SIDE) % 4 == 0, 0, 255)[None, :, None]
    labels = np.arange(IMAGES + 1) % KINDS
    basis = Components(shape, SIDE**2)
    values = basis.of_images(images)
    with_canary = Units.of(values, labels, KINDS, None)
    return with_canary, Units.of(values[1:], labels[1:], KINDS, None), basis.longest


def scores(mu: float, draws: int, seed: int, apart: bool = False) -> tuple[Floats, Floats]:
    """Return the log-likelihood ratio for the canary of so many draws with it, and of as many without."""
    with_canary, without, longest = site(seed)
    present, absent = [], []
    for draw in range(draws):
        key = derive_seed(seed, "noise", draw).to_bytes(8, "big")
        present.append(log_ratio(with_canary, without, longest, mu, key + b"in", apart))
        absent.append(-log_ratio(without, with_canary, longest, mu, key + b"out", apart))
    return np.array(present), np.array(absent)


def epsilon_shown(present: Floats, absent: Floats, delta: float = DELTA) -> float:
    """Return the lower bound on epsilon that log-likelihood ratios ``[n]`` with the canary and ``[m]`` without show."""
    level = (1 - CONFIDENCE) / 2
    hits, alarms = int((present > 0).sum()), int((absent > 0).sum())
    least = scipy.stats.beta.ppf(level, hits, len(present) - hits + 1) if hits else 0.0
    most = scipy.stats.beta.ppf(1 - level, alarms + 1, len(absent) - alarms) if alarms < len(absent) else 1.0
    mu = float(scipy.stats.norm.ppf(least) - scipy.stats.norm.ppf(most))
    return epsilon_of_mu(mu, delta) if mu > 0 else 0.0


def evidence(runs: int, draws: int) -> dict[str, Any]:
    """Return, for each stated epsilon and each way to ask, the bounds of all runs and those of the control."""
    rows = []
    for epsilon, apart in itertools.product(EPSILONS, (False, True)):
        mu = mu_of(epsilon, DELTA)
        shown = [epsilon_shown(*scores(mu, draws, run, apart)) for run in range(runs)]
        broken = [epsilon_shown(*scores(mu * math.sqrt(BROKEN), draws, run, apart)) for run in range(runs)]
        queries = 4 if apart else 3
        rows.append({"epsilon": epsilon, "mu": mu, "queries": queries, "shown": shown, "with_too_little_noise": broken})
    settings = {"runs": runs, "draws": draws, "delta": DELTA, "confidence": CONFIDENCE}
    return settings | {"images": IMAGES, "broken": BROKEN, "rows": rows, **provenance()}


def main(arguments: list[str]) -> None:
    """Write the result and print a line for each epsilon."""
    publish(arguments, evidence, "{queries} queries", "a tenth of the noise's variance")


if __name__ == "__main__":
    main(sys.argv[1:])
