"""The audit of what a site released: attacks that see the released images and no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fedkr.audit.attacks.on_releases import (
    closest_distance_score,
    domias_kde_score,
    monte_carlo_score,
    pixels,
    principal_components,
)
from fedkr.audit.challenge import Challenge, candidates
from fedkr.audit.figures import AuditReport
from fedkr.audit.run import report_from_scores
from fedkr.audit.statistics.membership import Floats
from fedkr.audit.targets import RELEASE
from fedkr.config import AuditConfig
from fedkr.data.images import ImageSet
from fedkr.errors import UserError
from fedkr.release import Release
from fedkr.seeds import numpy_rng

# Of larger releases a random part this large is attacked, which keeps a site's audit within minutes.
MOST_RELEASED = 20_000
# Larger images are averaged down to this side: distances hardly change, and 20,000 of them fit into memory.
LARGEST_SIDE = 32
# As many as left near-copies with noise, other brightness or small shifts clearest on handwritten digits.
COMPONENTS = 32
# The components are fitted on at most so many images; more change them no further.
MOST_FITTED = 2_000
CHUNK = 1_024


def audit_release(
    releases: Sequence[Release],
    challenge: Challenge,
    population: ImageSet,
    *,
    site: str,
    config: AuditConfig,
    seed: int,
) -> AuditReport:
    """Attack all that a site released, every round together, with each attack of ``config.RELEASE_ATTACKS``.

    - ``distance-pixels``, ``distance-features``: distance to the closest released image (GAN-Leaks, Chen et al. 2020),
      in pixels and among principal components of unit variance;
    - ``monte-carlo``: share of released images nearby (Hilprecht et al. 2019), among those components;
    - ``domias``: density of the release over that of the population (van Breugel et al. 2023), likewise.

    The components are fitted on released images and population, never on the challenge. The attack named beforehand
    is ``distance-features``: a generator gives members away by near-copies of single images, which densities average
    out, and unit variance keeps brightness and contrast, which most images share, from drowning what is particular.

    Args:
        releases: what the site shared, one a round.
        challenge: the site's members, non-members and canaries.
        population: images of the same distribution that no model trained on (the site's val and test splits).
        site: whose release and challenge set.
        config: FPRs and resamples.
        seed: the study's.

    Returns:
        The report of target ``release``; :func:`~fedkr.audit.copies.check_copies` adds the copy check.

    Raises:
        UserError: releases of another image shape, or too few images.
    """
    try:
        released, _ = released_images(releases, challenge, site=site, seed=seed)
        scores = _scores(candidates(challenge).images, released, population.images, numpy_rng(seed, site, "components"))
        return report_from_scores(scores, challenge, target=RELEASE, site=site, config=config, seed=seed)
    except UserError as error:
        raise UserError(f"audit of {RELEASE} at {site}: {error}") from None


def released_images(
    releases: Sequence[Release], challenge: Challenge, *, site: str, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return at most ``MOST_RELEASED`` released images ``[n, H, W, C]`` and their indices in all of them, in order.

    Raises:
        UserError: no release, or one of another image shape than the challenge has.
    """
    if not releases:
        raise UserError("no release to attack; audit it after the site has released something")
    shape = challenge.members.images.shape[1:]
    for release in releases:
        if release.images.shape[1:] != shape:
            raise UserError(
                f"released images of shape {list(release.images.shape[1:])}, but the site's have {list(shape)}"
            )
    count = sum(len(release) for release in releases)
    chosen = np.sort(numpy_rng(seed, site, "released images").permutation(count)[:MOST_RELEASED])
    ends = np.cumsum([len(release) for release in releases])
    parts = [
        release.images[chosen[(chosen >= end - len(release)) & (chosen < end)] - (end - len(release))]
        for release, end in zip(releases, ends, strict=True)
    ]
    return np.concatenate(parts), chosen


def small_pixels(images: NDArray[np.uint8]) -> Floats:
    """Return float64 ``[N, d]`` in 0..1: pixels, averaged over blocks where a side is longer than ``LARGEST_SIDE``."""
    height, width = (min(side, LARGEST_SIDE) for side in images.shape[1:3])
    if (height, width) == images.shape[1:3]:
        return pixels(images)
    rows = np.empty((len(images), height * width * images.shape[3]))
    for start in range(0, len(images), CHUNK):
        block = torch.from_numpy(np.ascontiguousarray(images[start : start + CHUNK])).movedim(-1, 1).double() / 255
        small = torch.nn.functional.adaptive_avg_pool2d(block, (height, width))
        rows[start : start + CHUNK] = small.flatten(1).numpy()
    return rows


def _scores(
    images: NDArray[np.uint8], released: NDArray[np.uint8], population: NDArray[np.uint8], rng: np.random.Generator
) -> dict[str, Floats]:
    rows = [small_pixels(part) for part in (images, released, population)]
    fit_on = np.concatenate(rows[1:])
    fit_on = fit_on[rng.permutation(len(fit_on))[:MOST_FITTED]]
    features = principal_components(fit_on, rows, COMPONENTS)
    return {
        "distance-pixels": closest_distance_score(rows[0], rows[1]),
        "distance-features": closest_distance_score(features[0], features[1]),
        "monte-carlo": monte_carlo_score(features[0], features[1]),
        "domias": domias_kde_score(*features),
    }
