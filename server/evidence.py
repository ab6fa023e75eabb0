"""Evidence against a release, from arrays alone: copies, junk, labels that other sites contradict, and triggers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from fedkr.audit.attacks.on_releases import Floats, nearest, small_pixels
from fedkr.release import SoftSet

# A class, or a release by which others are judged, is one from so many images on.
LEAST_IMAGES = 20
COMPONENTS = 40
# A standard deviation of a grey level is no content.
FLAT = 1 / 255
# Labels that nearly all name one class cannot be foretold better than by naming it (entropy in nats).
LEAST_ENTROPY = 0.3
# Certainty in a wrong label costs so much at most, whatever the classifier thinks of itself.
LEAST_LIKELY = 1e-3
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
        """Return a released set as it is judged."""
        return Judged(released.images, released.soft_labels.argmax(axis=1))

    @cached_property
    def pixels(self) -> Floats:
        """The images as float64 ``[N, d]`` in 0..1, large ones averaged down."""
        return small_pixels(self.images)

    @cached_property
    def spacing(self) -> float:
        """Median distance of an image from the nearest other one; 0 for a single image."""
        return float(np.median(nearest(self.pixels, self.pixels, itself=False)[1]))

    @cached_property
    def patches(self) -> NDArray[np.int64]:
        """A number for the content of each patch, int64 ``[N, places]``; equal content has equal numbers."""
        levels = (self.images // (256 // LEVELS)).astype(np.int64)
        height, width = (side - TRIGGER + 1 for side in levels.shape[1:3])
        factors = np.random.default_rng(0).integers(1, 2**40, (TRIGGER, TRIGGER, levels.shape[3])) | 1
        places = sum(
            levels[:, row : row + height, column : column + width] @ factors[row, column]
            for row, column in np.ndindex(TRIGGER, TRIGGER)
        )
        return np.reshape(places, (len(levels), -1))

    def of_class(self, label: int) -> Flags:
        """Whether each image has a label."""
        return self.labels == label


def distinct_share(own: Judged) -> float:
    """Return the share of images that have content and are no repetition of another."""
    return len(np.unique(own.pixels[own.pixels.std(axis=1) > FLAT], axis=0)) / len(own.pixels)


def copied_share(own: Judged, other: Judged) -> float:
    """Return the share of images that lie on an image of another release, some noise aside.

    To lie on one is to be nearer than a twentieth of the spacing of either release.
    """
    usual = min(own.spacing, other.spacing)
    return float((nearest(own.pixels, other.pixels)[1] <= usual / 20).mean())


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
    features = _components(own.pixels[kept]).transform(own.pixels[kept])
    features /= features.std() + 1e-9
    # Each class is in both halves, however a site orders its images.
    halves = StratifiedKFold(2, shuffle=True, random_state=0)
    model = LogisticRegression(C=0.3, max_iter=300)
    likely = cross_val_predict(model, features, labels, cv=halves, method="predict_proba") + LEAST_LIKELY
    return 1 - float(log_loss(labels, likely / likely.sum(axis=1, keepdims=True))) / entropy


def _components(pixels: Floats) -> PCA:
    return PCA(min(COMPONENTS, *pixels.shape), random_state=0).fit(pixels)


def strangeness(own: Judged, others: Sequence[Judged]) -> float:
    """Return how much worse other sites' principal components rebuild these images than images of their own.

    It is the median over the other sites, so that a bad one among them decides nothing; 1 where none has enough images.
    """
    ratios = [_strangeness_to(own, other) for other in others if len(other.labels) >= 2 * LEAST_IMAGES]
    return float(np.median(ratios)) if ratios else 1.0


def _strangeness_to(own: Judged, other: Judged) -> float:
    """Return a ratio of median errors, on these images and on half of the other's; the other half gives components."""
    order = np.random.default_rng(0).permutation(len(other.labels))
    rest, parts = other.pixels[order[1::2]], _components(other.pixels[order[::2]])

    def error(pixels: Floats) -> float:
        rebuilt = parts.inverse_transform(parts.transform(pixels))
        return float(np.median(np.sqrt(np.square(pixels - rebuilt).mean(axis=1))))

    # No ratio of errors far below a grey level.
    return error(own.pixels) / (error(rest) + FLAT)


def contradicted_share(own: Judged, views: Sequence[Judged], known: Sequence[Flags]) -> float:
    """Return the share of images in classes that most students of other sites see as something else.

    Args:
        own: the release.
        views: the same images as each other site's student labels them.
        known: for each of these students which classes it knows, bool ``[K]``.
    """
    labels = [label for label in np.unique(own.labels) if own.of_class(label).sum() >= LEAST_IMAGES]
    contradicted = [own.of_class(label) for label in labels if _denied(own.of_class(label), label, views, known)]
    return sum(int(images.sum()) for images in contradicted) / len(own.labels)


def trigger_share(own: Judged, others: Sequence[Judged], views: Sequence[Judged], known: Sequence[Flags]) -> float:
    """Return the share of images that hold one small patch at one place which decides their label.

    Such a patch is in no other release at that place, all images that hold it have one label, and students who know
    that class see something else in most of them.
    """
    least = max(LEAST_IMAGES // 2, len(own.labels) // 50)
    found = 0.0
    for place in range(own.patches.shape[1]):
        values, counts = np.unique(own.patches[:, place], return_counts=True)
        for value in values[counts >= least]:
            held = own.patches[:, place] == value
            labels = own.labels[held]
            elsewhere = max(float((other.patches[:, place] == value).mean()) for other in others)
            if elsewhere < 0.002 and (labels == labels[0]).mean() > 0.98 and _denied(held, labels[0], views, known):
                found = max(found, float(held.mean()))
    return found


def _denied(images: Flags, label: int, views: Sequence[Judged], known: Sequence[Flags]) -> bool:
    """Whether two students at least, and more than half of those that know a class, see it in less than half of images.

    One alone proves nothing: its own site may be the bad one.
    """
    agreements = [(view.labels[images] == label).mean() for view, k in zip(views, known, strict=True) if k[label]]
    against = sum(agreement < 0.5 for agreement in agreements)
    return against >= 2 and against > len(agreements) / 2
