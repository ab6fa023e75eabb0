"""Evidence against a release, from arrays alone: copies, junk, labels that other sites contradict, and triggers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from fedkr.release import SoftSet

# So many images of a release are judged, drawn by a fixed seed, and a class from so many images on.
MOST_IMAGES = 1000
LEAST_IMAGES = 20
COMPONENTS = 40
# A standard deviation of a grey level is no content.
FLAT = 1.0
# Labels that nearly all name one class cannot be foretold better than by naming it (entropy in nats).
LEAST_ENTROPY = 0.3
# Side of a trigger, in pixels; grey levels are compared in sixteenths.
TRIGGER = 3
LEVELS = 16

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """What of a release is judged.

    Attributes:
        images: uint8 ``[N, H, W, C]``.
        labels: int64 ``[N]``, the class with the most mass.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @staticmethod
    def of(released: SoftSet) -> Judged:
        """Draw what is judged of a released set."""
        order = np.random.default_rng(0).permutation(len(released.images))
        kept = np.sort(order[:MOST_IMAGES])
        return Judged(released.images[kept], released.soft_labels[kept].argmax(axis=1))

    @property
    def pixels(self) -> NDArray[np.float32]:
        """The images as float32 ``[N, D]``, in grey levels."""
        return self.images.reshape(len(self.images), -1).astype(np.float32)

    def of_class(self, label: int) -> Flags:
        """Whether each image has a label."""
        return self.labels == label


def distinct_share(own: Judged) -> float:
    """Return the share of images that have content and are no repetition of another."""
    pixels = own.pixels
    return len(np.unique(pixels[pixels.std(axis=1) > FLAT], axis=0)) / len(pixels)


def copied_share(own: Judged, other: Judged) -> float:
    """Return the share of images that lie on an image of another release, some noise aside.

    To lie on one is to be nearer than a twentieth of the median distance between nearest images of that release.
    """
    among = cdist(other.pixels, other.pixels)
    np.fill_diagonal(among, np.inf)
    usual = float(np.median(among.min(axis=1)))
    return float((cdist(own.pixels, other.pixels).min(axis=1) <= usual / 20).mean())


def label_skill(own: Judged) -> float | None:
    """Return by which share images foretell their labels better than the labels' frequencies do.

    A logistic regression on principal components is fitted to each half and tried on the other, by log loss: 1 is
    certainty, 0 and less no skill. None where labels nearly all name one class.
    """
    classes, counts = np.unique(own.labels, return_counts=True)
    kept = np.isin(own.labels, classes[counts >= LEAST_IMAGES])
    labels, shares = own.labels[kept], counts[counts >= LEAST_IMAGES] / max(1, kept.sum())
    entropy = -float((shares * np.log(shares)).sum())
    if entropy < LEAST_ENTROPY:
        return None
    found = PCA(COMPONENTS, random_state=0).fit_transform(own.pixels[kept]) if kept.sum() > COMPONENTS else None
    if found is None or found.shape[1] < 2:
        return None
    found /= found.std() + 1e-9
    half = np.random.default_rng(0).permutation(len(found)) % 2 == 0
    losses = [_loss_on_rest(found, labels, part) for part in (half, ~half)]
    return 1 - float(np.mean(losses)) / entropy


def _loss_on_rest(features: NDArray[np.floating], labels: NDArray[np.int64], part: Flags) -> float:
    model = LogisticRegression(C=0.3, max_iter=300).fit(features[part], labels[part])
    classes = np.unique(labels)
    likely = np.full((int((~part).sum()), len(classes)), 1e-3)
    likely[:, np.searchsorted(classes, model.classes_)] += model.predict_proba(features[~part])
    return float(log_loss(labels[~part], likely / likely.sum(axis=1, keepdims=True), labels=classes))


def strangeness(own: Judged, others: Sequence[Judged]) -> float:
    """Return how much worse other sites' principal components rebuild these images than images of their own.

    It is the median over the other sites, so that a bad one among them decides nothing.
    """
    return float(np.median([_strangeness_to(own, other) for other in others]))


def _strangeness_to(own: Judged, other: Judged) -> float:
    """Return a ratio of median errors, on these images and on half of the other's; the other half gives components."""
    order = np.random.default_rng(0).permutation(len(other.labels))
    known, rest = other.pixels[order[::2]], other.pixels[order[1::2]]
    parts = PCA(min(COMPONENTS, len(known), known.shape[1]), random_state=0).fit(known)

    def error(pixels: NDArray[np.float32]) -> float:
        rebuilt = parts.inverse_transform(parts.transform(pixels))
        return float(np.median(np.sqrt(np.square(pixels - rebuilt).mean(axis=1))))

    return error(own.pixels) / (error(rest) + 1.0)


def contradicted_share(own: Judged, views: Sequence[Judged], known: Sequence[Flags]) -> float:
    """Return the share of images in classes that most students of other sites see as something else.

    Args:
        own: the release.
        views: the same images as each other site's student labels them.
        known: for each of these students which classes it knows, bool ``[K]``; two at least must contradict.
    """
    contradicted = 0
    for label in np.unique(own.labels):
        mine = own.of_class(label)
        agreements = [(v.labels[mine] == label).mean() for v, k in zip(views, known, strict=True) if k[label]]
        against = sum(agreement < 0.5 for agreement in agreements)
        if mine.sum() >= LEAST_IMAGES and against >= 2 and against > len(agreements) / 2:
            contradicted += int(mine.sum())
    return contradicted / len(own.labels)


def trigger_share(own: Judged, others: Sequence[Judged], views: Sequence[Judged], known: Sequence[Flags]) -> float:
    """Return the share of images that hold one small patch at one place which decides their label.

    Such a patch is in no other release at that place, all images that hold it have one label, and students who know
    that class see something else in most of them.
    """
    mine, theirs = _patches(own.images), [_patches(other.images) for other in others]
    least = max(LEAST_IMAGES // 2, len(own.labels) // 50)
    found = 0.0
    for place in range(mine.shape[1]):
        values, counts = np.unique(mine[:, place], return_counts=True)
        for value in values[(counts >= least)]:
            held = mine[:, place] == value
            labels = own.labels[held]
            elsewhere = max(float((other[:, place] == value).mean()) for other in theirs)
            if elsewhere < 0.002 and (labels == labels[0]).mean() > 0.98 and _doubted(held, labels[0], views, known):
                found = max(found, float(held.mean()))
    return found


def _doubted(held: Flags, label: int, views: Sequence[Judged], known: Sequence[Flags]) -> bool:
    seen = [float((v.labels[held] == label).mean()) for v, k in zip(views, known, strict=True) if k[label]]
    return bool(seen) and float(np.median(seen)) < 0.5


def _patches(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return a number for the content of each patch, int64 ``[N, places]``; equal content has equal numbers."""
    levels = (images // (256 // LEVELS)).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(levels, (TRIGGER, TRIGGER), axis=(1, 2))
    flat = windows.reshape(len(images), windows.shape[1] * windows.shape[2], -1)
    factors = np.random.default_rng(0).integers(1, 2**40, flat.shape[2]) | 1
    return flat @ factors
