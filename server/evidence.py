"""Evidence against a release, from arrays alone: junk, labels that other sites contradict, and triggers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.model_selection import KFold

from fedkr.data.distances import Floats, small_pixels, squared_distances
from fedkr.release import SoftSet

# A class, or a release by which others are judged, is one from so many images on.
LEAST_IMAGES = 20
COMPONENTS = 40
# A standard deviation of a grey level is no content.
FLAT = 1 / 255
# Labels that nearly all name one class cannot be foretold better than by naming it (entropy in nats).
LEAST_ENTROPY = 0.3
# Parts of a release, each foretold by the others, and the images by which a relation can be told from chance.
FOLDS = 5
LEAST_RELATED = 80
# So much more of a class's mass on one other class than another site's student sees there is no doubt of a teacher's.
MOST_MISPLACED = 0.3
# Side of a trigger, in pixels; grey levels are compared in sixteenths.
TRIGGER = 3
LEVELS = 16

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """What of a release is judged.

    Attributes:
        images: uint8 ``[N, H, W, C]``.
        masses: float ``[N, K]``, soft labels.
    """

    images: NDArray[np.uint8]
    masses: NDArray[np.floating]

    @staticmethod
    def of(released: SoftSet) -> Judged:
        """Return a released set as it is judged."""
        return Judged(released.images, released.soft_labels.astype(np.float64))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The class with the most mass, int64 ``[N]``."""
        return self.masses.argmax(axis=1)

    @cached_property
    def pixels(self) -> Floats:
        """The images as float64 ``[N, d]`` in 0..1, large ones averaged down."""
        return small_pixels(self.images)

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

    @cached_property
    def entropy(self) -> float:
        """The entropy of the labels, in nats."""
        return _entropy(np.bincount(self.labels) / len(self.labels))

    def of_class(self, label: int) -> Flags:
        """Whether each image has a label."""
        return self.labels == label


@dataclass(frozen=True)
class Witness:
    """Another site, as far as it can speak of a release.

    Attributes:
        release: what it released.
        view: the images of the release that is judged, as its student labels them.
        known: which classes its student knows, bool ``[K]``.
        party: sites whose releases share images are one party and have one voice.
    """

    release: Judged
    view: Judged
    known: Flags
    party: str


def agreed(values: Sequence[tuple[str, float]]) -> float | None:
    """Return what two parties at least, and more than half of them, say or exceed; None of fewer than two parties.

    One alone proves nothing: its own site may be the bad one. ``values`` are of a witness's party and what it says; a
    party says the least of what its members say.
    """
    parties: dict[str, float] = {}
    for party, value in values:
        parties[party] = min(value, parties.get(party, value))
    if len(parties) < 2:
        return None
    return sorted(parties.values(), reverse=True)[max(2, len(parties) // 2 + 1) - 1]


def distinct_share(own: Judged) -> float:
    """Return the share of images that have content and are no repetition of another."""
    return len(np.unique(own.pixels[own.pixels.std(axis=1) > FLAT], axis=0)) / len(own.pixels)


def label_relation(own: Judged, rest: Judged | None = None) -> float | None:
    """Return how far images foretell their soft labels, beyond labels that are dealt at random: near 0 if not at all.

    Kernel ridge regression on principal components learns the masses of ``rest``, or of four fifths of the images at a
    time, and is tried on the others. Foretold and own masses are then compared by the sum of their products about
    their means, over its standard deviation for labels that are dealt to the N images and ``sqrt(N)``: for two classes
    a correlation, for more classes it may exceed 1. Images whose classes are hard to tell apart are still far from 0,
    where a classifier would do no better than to name the larger class. Of dealt labels the mean is 0 and the standard
    deviation ``1 / sqrt(N)`` (1.4 times that without ``rest``, where each pair of images counts twice). None of few
    images, and where labels nearly all name one class.
    """
    known = own if rest is None else rest
    if any(len(part.labels) < LEAST_RELATED or part.entropy < LEAST_ENTROPY for part in (own, known)):
        return None
    components = _components(known.pixels)
    rows = components.transform(own.pixels)
    if rest is not None:
        sums = [_foretold(components.transform(rest.pixels), rest.masses, rows, own.masses)]
    else:
        folds = KFold(FOLDS, shuffle=True, random_state=0).split(rows)
        sums = [_foretold(rows[a], own.masses[a], rows[b], own.masses[b]) for a, b in folds]
    total, variance = (sum(each) for each in zip(*sums, strict=True))
    return total / (variance * len(rows)) ** 0.5 if variance > 0 else 0.0


def _foretold(
    known: Floats, learned: NDArray[np.floating], rows: Floats, masses: NDArray[np.floating]
) -> tuple[float, float]:
    """Return the sum of products of foretold and own masses about their means, and its variance over all deals of them.

    Components ``[M, d]`` and masses ``[M, K]`` are learned from, ``[N, d]`` and ``[N, K]`` are tried.
    """
    distances = squared_distances(known, known)
    scale = float(np.median(distances)) or 1.0
    ridge = np.exp(-distances / scale) + np.eye(len(known))
    weights = np.linalg.solve(ridge, learned - learned.mean(axis=0))
    foretold = np.exp(-squared_distances(rows, known) / scale) @ weights
    foretold, own = foretold - foretold.mean(axis=0), masses - masses.mean(axis=0)
    # Of two lists of rows, both about their mean, that are matched at random (Hoeffding 1951).
    variance = float(np.sum((foretold.T @ foretold) * (own.T @ own))) / (len(own) - 1)
    return float(np.sum(foretold * own)), variance


def label_content(own: Judged) -> float | None:
    """Return which share of what soft labels could tell of single images they do tell: 0 where all rows are alike.

    It is the mutual information of image and class by the soft labels, over the entropy of their mean. None where
    labels nearly all name one class.
    """
    if own.entropy < LEAST_ENTROPY:
        return None
    all_images = _entropy(own.masses.mean(axis=0))
    return float(1 - np.mean([_entropy(row) for row in own.masses]) / all_images)


def _entropy(shares: NDArray[np.floating]) -> float:
    """Return an entropy in nats."""
    return -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())


def _components(pixels: Floats) -> PCA:
    return PCA(min(COMPONENTS, *pixels.shape), random_state=0).fit(pixels)


def strangeness(own: Judged, witnesses: Sequence[Witness]) -> float:
    """Return how much worse other sites' principal components rebuild these images than images of their own.

    It is what most other parties say (:func:`agreed`), so that a bad one among them decides nothing; 1 where fewer than
    two have enough images.
    """
    enough = [witness for witness in witnesses if len(witness.release.labels) >= 2 * LEAST_IMAGES]
    ratio = agreed([(witness.party, _strangeness_to(own, witness.release)) for witness in enough])
    return 1.0 if ratio is None else ratio


def _strangeness_to(own: Judged, other: Judged) -> float:
    """Return a ratio of median errors, on these images and on half of the other's; the other half gives components."""
    order = np.random.default_rng(0).permutation(len(other.labels))
    rest, parts = other.pixels[order[1::2]], _components(other.pixels[order[::2]])

    def error(pixels: Floats) -> float:
        rebuilt = parts.inverse_transform(parts.transform(pixels))
        return float(np.median(np.sqrt(np.square(pixels - rebuilt).mean(axis=1))))

    # No ratio of errors far below a grey level.
    return error(own.pixels) / (error(rest) + FLAT)


def contradicted_share(own: Judged, witnesses: Sequence[Witness]) -> float:
    """Return the share of images in classes that most students of other sites see as something else.

    That is the class with the most mass, or one that gets much more mass there than these students give it.
    """
    labels = [label for label in np.unique(own.labels) if own.of_class(label).sum() >= LEAST_IMAGES]
    contradicted = [own.of_class(label) for label in labels if _contradicted(own, label, witnesses)]
    return sum(int(images.sum()) for images in contradicted) / len(own.labels)


def _contradicted(own: Judged, label: int, witnesses: Sequence[Witness]) -> bool:
    images = own.of_class(label)
    others = [other for other in range(own.masses.shape[1]) if other != label]
    return _denied(images, label, witnesses) or any(_misplaced(own, images, (label, k), witnesses) for k in others)


def _misplaced(own: Judged, images: Flags, classes: tuple[int, int], witnesses: Sequence[Witness]) -> bool:
    """Whether images of the first class have much more mass on the second than students see who know one of them."""
    label, other = classes
    mass = own.masses[images, other].mean()
    knowing = [witness for witness in witnesses if witness.known[label] or witness.known[other]]
    excess = agreed([(witness.party, float(mass - witness.view.masses[images, other].mean())) for witness in knowing])
    return excess is not None and excess > MOST_MISPLACED


def trigger_share(own: Judged, witnesses: Sequence[Witness]) -> float:
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
            elsewhere = max(float((w.release.patches[:, place] == value).mean()) for w in witnesses)
            if elsewhere < 0.002 and (labels == labels[0]).mean() > 0.98 and _denied(held, labels[0], witnesses):
                found = max(found, float(held.mean()))
    return found


def _denied(images: Flags, label: int, witnesses: Sequence[Witness]) -> bool:
    """Whether most of the students that know a class (:func:`agreed`) see it in less than half of images."""
    knowing = [witness for witness in witnesses if witness.known[label]]
    missed = agreed([(w.party, float((w.view.labels[images] != label).mean())) for w in knowing])
    return missed is not None and missed > 0.5
