"""The blind baseline: can members and non-members be distinguished by their images alone, without any model?

If they can, an attack on a model may read that difference instead of membership, and the audit is void.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

from fedkr.config import BLIND_LEVEL
from fedkr.data.images import ImageSet, image_digests
from fedkr.errors import UserError
from fedkr.seeds import numpy_rng

Floats = NDArray[np.float64]
FOLDS = 5
GRID = 8
FOURIER = 256
BLOCK = 4_000_000


@dataclass(frozen=True)
class BlindResult:
    """Cross-validated AUC of the blind classifier and the one-sided permutation p-value of its excess over chance."""

    auc: float
    p_value: float


def blind_baseline(members: ImageSet, nonmembers: ImageSet, seed: int, permutations: int = 2000) -> BlindResult:
    """Test whether a classifier that sees only images tells members from non-members.

    The classifier is a ridge regression on coarse pixels, simple statistics and random Fourier features of both
    (Rahimi & Recht 2007). Its cross-validated scores are linear in the membership labels, so that all permutations
    cost one matrix product. The permutations exchange images within a class, as the stratified split did, or whole
    groups; folds never divide a group and do not depend on membership, so the test is exact. Copies of an image, of
    which only those on one side are left in a challenge, change places together, with images of as many copies.

    The least p-value is 1 / (permutations + 1): how many Holm's correction takes to reject at all, the settings know
    (:func:`fedkr.config.least_permutations`). ``seed`` is that of folds, features and permutations.
    """
    if permutations < 1:
        raise UserError(f"permutations={permutations}: must be at least 1")
    rng = numpy_rng(seed, "audit", "blind")
    sides = members, nonmembers
    features = np.concatenate([image_features(side.images) for side in sides])
    classes = np.concatenate([side.labels for side in sides])
    membership = np.repeat([1.0, 0.0], [len(side) for side in sides])
    units, strata = exchangeable_units(sides, classes)
    classifier = RidgeFolds(random_fourier(features, rng), _folds(units, rng))
    observed = _aucs(classifier, membership[:, None])[0]
    exceeded, block = 0, max(1, BLOCK // len(membership))
    for start in range(0, permutations, block):
        count = min(block, permutations - start)
        labels = np.stack([permuted_membership(membership, units, strata, rng) for _ in range(count)], axis=1)
        exceeded += int((_aucs(classifier, labels) >= observed - 1e-12).sum())
    return BlindResult(float(observed), (1 + exceeded) / (1 + permutations))


def voided(p_values: Sequence[tuple[float, float]]) -> list[bool]:
    """Return at which sites one of their two p-values, by images and by class shares, is rejected among all (Holm)."""
    rejected = holm_reject([p_value for both in p_values for p_value in both])
    return [first or second for first, second in zip(rejected[::2], rejected[1::2], strict=True)]


def holm_reject(p_values: Sequence[float], level: float = BLIND_LEVEL) -> list[bool]:
    """Return which hypotheses Holm's step-down procedure rejects at a family-wise error of ``level``."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def image_features(images: NDArray[np.uint8]) -> Floats:
    """Return float64 ``[N, d]``: a coarse picture (8x8) and each channel's moments, quantiles and edge strengths."""
    blocks = [_block_features(images[start : start + 512]) for start in range(0, len(images), 512)]
    return np.concatenate(blocks).astype(np.float64)


def random_fourier(features: Floats, rng: np.random.Generator) -> Floats:
    """Return standardised features beside random Fourier features of them, each block of total variance about one."""
    spread = features.std(0)
    z = (features - features.mean(0)) / np.where(spread > 1e-6, spread, 1)
    width = max(1, z.shape[1])
    frequencies = rng.normal(0, 1 / np.sqrt(width), size=(width, FOURIER))
    waves = np.cos(z @ frequencies + rng.uniform(0, 2 * np.pi, FOURIER)) * np.sqrt(2 / FOURIER)
    return np.concatenate([z / np.sqrt(width), waves], axis=1)


class RidgeFolds:
    """Ridge regression of every fold on the others, as a linear map from labels to held-out scores.

    There is no intercept: a fold's share of members would leak into its score with the opposite sign.
    """

    def __init__(self, features: Floats, folds: NDArray[np.intp], penalty: float = 1.0) -> None:
        self.maps = []
        for fold in range(int(folds.max()) + 1):
            test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            centred = features[train] - features[train].mean(0)
            gram = centred.T @ centred + penalty * np.eye(features.shape[1])
            held_out = np.linalg.solve(gram, (features[test] - features[train].mean(0)).T).T
            self.maps.append((test, train, held_out, centred))

    def scores(self, labels: Floats) -> Floats:
        """Return the held-out scores ``[N, P]`` for label columns ``[N, P]``, rounded so that equal images tie."""
        scores = np.empty_like(labels)
        for test, train, held_out, centred in self.maps:
            scores[test] = held_out @ (centred.T @ labels[train])
        return scores.round(9)


def _block_features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    x = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255
    flat = x.flatten(2)
    levels = torch.quantile(flat, torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]), dim=2).permute(1, 2, 0)
    moments = torch.stack([flat.mean(2), flat.std(2)], dim=2)
    edges = torch.stack([x.diff(dim=dim).abs().mean((2, 3)) for dim in (2, 3)], dim=2)
    coarse = torch.nn.functional.adaptive_avg_pool2d(x, GRID)
    return torch.cat([part.flatten(1) for part in (coarse, moments, levels, edges)], dim=1).numpy()


def exchangeable_units(
    sides: tuple[ImageSet, ImageSet], classes: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Return each image's unit ``[N]`` (itself with its copies, or its group) and each unit's stratum.

    The stratum is one for all groups, and else the class and the number of copies.
    """
    groups = sides[0].groups, sides[1].groups
    if groups[0] is None or groups[1] is None:
        seen: dict[tuple[int, bytes], int] = {}
        names = [(side, digest) for side, part in enumerate(sides) for digest in image_digests(part.images)]
        units = np.array([seen.setdefault(name, len(seen)) for name in names])
        firsts, copies = np.unique(units, return_index=True, return_counts=True)[1:]
        return units, classes[firsts] * (1 + copies.max()) + copies
    units = np.unique(np.concatenate([groups[0], groups[1]]), return_inverse=True)[1]
    return units, np.zeros(int(units.max()) + 1, np.int64)


def _folds(units: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    count = int(units.max()) + 1
    return (rng.permutation(count) % min(FOLDS, count))[units]


def permuted_membership(
    membership: Floats, units: NDArray[np.intp], strata: NDArray[np.int64], rng: np.random.Generator
) -> Floats:
    """Return labels ``[N]`` of which the units of each stratum have changed places (:func:`exchangeable_units`)."""
    by_unit = np.empty(len(strata))
    by_unit[units] = membership
    # Sorting by (stratum, noise) lists every stratum in random order; without noise, in a fixed one.
    shuffled, fixed = np.lexsort((rng.random(len(strata)), strata)), np.argsort(strata, kind="stable")
    permuted = np.empty(len(strata))
    permuted[fixed] = by_unit[shuffled]
    return permuted[units]


def _aucs(classifier: RidgeFolds, labels: Floats) -> Floats:
    """Return ``[P]``: the AUC of the held-out scores against each label column (ties count half)."""
    ranks = scipy.stats.rankdata(classifier.scores(labels), axis=0)
    positives = labels.sum(0)
    wins = (ranks * labels).sum(0) - positives * (positives + 1) / 2
    return wins / (positives * (len(labels) - positives))
