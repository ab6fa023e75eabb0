"""How covariances are to be asked for under a guarantee: the classifier that the answers make, by either form.

Run as ``python -m simulations.evidence.dp_queries out=FILE datasets=bloodmnist,digits images=500,1000 components=24,48
epsilons=4,10 seeds=0,1,2 data.root=DIR``. Bayes' rule on the noisy counts, means and covariances of each class: of
images drawn from them no classifier is surer, though of real ones a student may be. It trains nothing. ``moved`` is
what :func:`fedkr.generators.moments.statistics.told_apart` compares with its bound, by the true numbers of images.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.data.components import Components
from fedkr.data.images import ImageSet, Shape
from fedkr.data.registry import load_source
from fedkr.disk import write_json
from fedkr.environment import provenance
from fedkr.generators.moments.gaussians import largest_of
from fedkr.generators.moments.statistics import BY_CLASS, CLIP, Moments, Units, measure
from fedkr.privacy.accountant import mu_of
from fedkr.seeds import numpy_rng
from server.composition import compose_study

Floats = NDArray[np.float64]
DELTA = 1e-5
FORMS = {"three": 0.0, "four": math.inf}


def bayes(moments: Moments, values: Floats) -> NDArray[np.int64]:
    """Return the likeliest class of components ``[N, D]``, int64 ``[N]``, of classes that are equally common."""
    scores = []
    for mean, covariance in zip(moments.means, moments.covariances, strict=True):
        factor = np.linalg.cholesky(covariance)
        whitened = np.linalg.solve(factor, (values - mean).T)
        scores.append(-np.log(np.diag(factor)).sum() - (whitened**2).sum(axis=0) / 2)
    return np.argmax(scores, axis=0)


def row(train: ImageSet, test: ImageSet, components: int, epsilon: float, seeds: list[int]) -> dict[str, Any]:
    """Return the accuracies on ``test`` of Bayes' rule on what is measured of ``train``, by form one a seed."""
    basis, mu = Components(Shape.of(train), min(components, train.size**2)), mu_of(epsilon, DELTA)
    units = Units.of(basis.of_images(train.images), train.labels, len(train.classes), train.groups)
    values, found = basis.of_images(test.images), dict[str, Any]()
    for form, most_moved in FORMS.items():
        answers = (measure(units, basis.longest, mu, f"{seed}".encode(), most_moved) for seed in seeds)
        found[form] = [float((bayes(moments, values) == test.labels).mean()) for moments in answers]
    noise = CLIP**2 * basis.size / (mu * math.sqrt(BY_CLASS)) * len(train.classes) / units.weights.sum()
    return found | {"moved": largest_of(float(noise), basis.size)}


def evidence(given: Mapping[str, str], overrides: list[str]) -> dict[str, Any]:
    """Return a row for each dataset, number of images, of components, and epsilon."""
    rows, seeds = list[dict[str, Any]](), [int(seed) for seed in given["seeds"].split(",")]
    for dataset, count in product(given["datasets"].split(","), map(int, given["images"].split(","))):
        source = load_source(compose_study([f"dataset={dataset}", *overrides]).data)
        if count > len(source.pool):
            continue
        train = source.pool.subset(numpy_rng(seeds[0], "images").permutation(len(source.pool))[:count])
        for components, epsilon in product(map(int, given["components"].split(",")), given["epsilons"].split(",")):
            of = {"dataset": dataset, "images": len(train), "components": components, "epsilon": float(epsilon)}
            rows.append(of | row(train, source.test, components, float(epsilon), seeds))
            shown = " ".join(f"{form} {100 * statistics.fmean(rows[-1][form]):.1f}" for form in FORMS)
            print(*of.values(), f"moved {rows[-1]['moved']:.2f}: {shown}", flush=True)
    return {"seeds": seeds, "delta": DELTA, "rows": rows, **provenance()}


def main(arguments: list[str]) -> None:
    """Write the result; print a line for each row."""
    own = ("out", "datasets", "images", "components", "epsilons", "seeds")
    pairs = [argument.split("=", 1) for argument in arguments]
    given = {name: value for name, value in pairs if name in own}
    found = evidence(given, [f"{name}={value}" for name, value in pairs if name not in own])
    write_json(Path(given["out"]), found)


if __name__ == "__main__":
    main(sys.argv[1:])
