"""What a release with a guarantee can teach: the classifier that the distributions make that it is drawn from.

Bayes' rule on the noisy counts, means and covariances of each class, in the components of an image that they are of: of
images drawn from them no classifier is surer, though of real ones another may be. It trains nothing, so that it shows
within seconds what bounds the accuracy: components, images, or noise. :mod:`simulations.evidence.dp` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.data.images import ImageSet, Shape
from fedkr.data.registry import load_source
from fedkr.generators.moments.components import Components
from fedkr.generators.moments.statistics import Moments, Units, measure
from fedkr.privacy.accountant import mu_of
from fedkr.seeds import numpy_rng
from server.composition import compose_study

Floats = NDArray[np.float64]
DELTA = 1e-5
WITHOUT = "none"


def bayes(moments: Moments, values: Floats) -> NDArray[np.int64]:
    """Return the likeliest class of components ``[N, D]``, int64 ``[N]``, each class a normal distribution."""
    scores = []
    for count, mean, covariance in zip(moments.counts, moments.means, moments.covariances, strict=True):
        factor = np.linalg.cholesky(covariance)
        whitened = np.linalg.solve(factor, (values - mean).T)
        scores.append(np.log(count) - np.log(np.diag(factor)).sum() - (whitened**2).sum(axis=0) / 2)
    return np.argmax(scores, axis=0)


def drawn_from(train: ImageSet, test: ImageSet, components: int, epsilon: str, seed: int) -> float:
    """Return the accuracy on ``test`` of Bayes' rule on what is measured of ``train`` with an epsilon, or without."""
    basis = Components(Shape.of(train), min(components, train.size**2))
    mu = None if epsilon == WITHOUT else mu_of(float(epsilon), DELTA)
    units = Units.of(basis.of_images(train.images), train.labels, len(train.classes), train.groups)
    moments = measure(units, basis.longest, mu, f"{seed}".encode())
    return float((bayes(moments, basis.of_images(test.images)) == test.labels).mean())


def evidence(given: Mapping[str, str], overrides: list[str]) -> dict[str, Any]:
    """Return a row of accuracies, one a seed, for each dataset, number of images, of components, and epsilon."""
    rows = []
    for dataset, count in product(given["drawn"].split(","), map(int, given["images"].split(","))):
        source = load_source(compose_study([f"dataset={dataset}", *overrides]).data)
        for components, epsilon in product(map(int, given["components"].split(",")), given["epsilons"].split(",")):
            found = []
            for seed in map(int, given["seeds"].split(",")):
                chosen = numpy_rng(seed, "images").permutation(len(source.pool))[:count]
                found.append(drawn_from(source.pool.subset(chosen), source.test, components, epsilon, seed))
            of = {"dataset": dataset, "images": len(chosen), "components": components, "epsilon": epsilon}
            rows.append(of | {"accuracy": found})
            print(of, [round(100 * value, 1) for value in found], flush=True)
    return {"drawn": given["drawn"], "seeds": given["seeds"], "rows": rows}
