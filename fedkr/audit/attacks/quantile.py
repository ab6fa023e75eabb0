"""The quantile attack: what would the model say of such an image, had it not trained on it? (Bertran et al. 2023)

No reference model is trained. A regression learns, on images that the model did not train on, what its confidence in
the true class is and how far it varies, by what the image shows; a member's confidence lies above that. It is the
paper's Gaussian variant with a linear regression, as a site has hundreds of such images and not the paper's tens of
thousands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedkr.audit.attacks.observed import Floats
from fedkr.data.distances import COMPONENTS, MOST_FITTED, principal_components, small_pixels
from fedkr.data.images import ImageSet

PENALTIES = tuple(float(penalty) for penalty in np.logspace(-1, 5, 13))
# So many images for each principal component that the regression is told of.
IMAGES_A_COMPONENT = 5
# Fewer tell nothing of what to expect; the confidence itself is then the score.
LEAST_POPULATION = 10
# Of a squared residual: an image on which the regression happens to be exact tells little of how far others vary.
LEAST_SQUARE = 1e-6


@dataclass(frozen=True)
class Confidences:
    """Images and the model's confidence in their true class.

    Attributes:
        images: N images, with labels.
        odds: float64 ``[N]``, the logit-scaled confidence.
    """

    images: ImageSet
    odds: Floats


@dataclass(frozen=True)
class Described:
    """What the regression is told of images, the same for every model: places among principal components, and classes.

    Attributes:
        population: float64 ``[Z, d]``.
        candidates: float64 ``[N, d]``.
    """

    population: Floats
    candidates: Floats


Describe = Callable[[ImageSet, ImageSet], Described]


def describe_images(population: ImageSet, candidates: ImageSet) -> Described:
    """Describe Z images of the population and N candidates; the components are those of the population."""
    known, asked = (np.eye(len(population.classes))[part.labels] for part in (population, candidates))
    rows = [small_pixels(part.images) for part in (population, candidates)]
    if (rows[0] == rows[0][0]).all():
        return Described(known, asked)
    count = min(COMPONENTS, len(population) // IMAGES_A_COMPONENT)
    places = principal_components(rows[0][:: -(-len(rows[0]) // MOST_FITTED)], rows, count)
    return Described(np.concatenate([places[0], known], axis=1), np.concatenate([places[1], asked], axis=1))


def quantile_score(candidates: Confidences, population: Confidences, describe: Describe = describe_images) -> Floats:
    """Return by how many standard deviations each candidate's confidence exceeds what is expected, float64 ``[N]``.

    No model trained on the ``population``, and none of it is among the candidates. Of fewer than
    :data:`LEAST_POPULATION` images nothing is learnt, and the confidence is the score. Describing images takes longer
    than the rest: who attacks several models hands a ``describe`` that remembers what :func:`describe_images` said.
    """
    if len(population.images) < LEAST_POPULATION:
        return candidates.odds
    # Imported here: every process of a site would load scikit-learn for it.
    from sklearn.linear_model import RidgeCV

    described = describe(population.images, candidates.images)
    known, asked = described.population, described.candidates
    center = RidgeCV(PENALTIES, store_cv_results=True).fit(known, population.odds)
    # Squared residuals of each image by the regression without it: those of the fit itself are too small.
    squares = center.cv_results_[:, PENALTIES.index(float(center.alpha_))]
    spread = RidgeCV(PENALTIES).fit(known, np.log(squares + LEAST_SQUARE))
    score: Floats = (candidates.odds - center.predict(asked)) / np.exp(spread.predict(asked) / 2)
    return score
