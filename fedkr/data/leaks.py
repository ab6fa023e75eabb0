"""Images and patients that are on both sides of a test: counted, told, and taken out of the pool where asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkr.data.images import ImageSet, SiteData, image_digests
from fedkr.errors import few

# Images of each side whose distances are computed together.
BLOCK = 256
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Leaks:
    """What pool and test set have in common.

    Attributes:
        images: how many test images equal one of the pool, bit by bit.
        near: how many test images are at most ``within`` from one of the pool, the equal ones among them; None where
            nobody looked.
        within: root mean square of the differences of two images' pixels, in grey levels of 0 to 255.
        patients: how many patients have images in both; None where one of them has no patient ids.
        removed: how many images were taken out of the pool for it; None where it was not asked for.
        test_images: size of the test set.
        two_classes: how many images of both equal one of another class.
    """

    images: int
    near: int | None
    within: float
    patients: int | None
    removed: int | None
    test_images: int
    two_classes: int = 0

    def warnings(self) -> list[str]:
        """Return a line for what both have in common, and one for images of two classes; none where there is nothing.

        Readers of any figure on the test set are to see them.
        """
        told = f"{self.two_classes} images equal one of another class, so that no model can tell their classes apart"
        return [*self._common(), *([told] if self.two_classes else [])]

    def _common(self) -> list[str]:
        found = [f"{self.images} equal an image of the pool"] if self.images else []
        if self.near is not None and self.near > self.images:
            found.append(f"{self.near} are within {self.within:g} grey levels (root mean square) of one")
        what = [f"of {self.test_images} test images {' and '.join(found)}"] if found else []
        if self.patients:
            are = "patient of the test set is" if self.patients == 1 else "patients of the test set are"
            what.append(f"{self.patients} {are} in the pool too")
        if not what:
            return []
        if self.removed is None:
            remedy = "figures on it flatter every model; data.remove_leaks=true takes such images out of the pool"
        else:
            remedy = f"data.remove_leaks took {self.removed} images out of the pool for it"
        return [f"{'; '.join(what)}: {remedy}"]


def find_leaks(pool: ImageSet, test: ImageSet, within: float = 0.0) -> tuple[Leaks, Bools]:
    """Compare a pool with a test set; return what they have in common, and bool ``[pool]``: the images concerned.

    Args:
        pool: what sites train and select on.
        test: images of the same shape.
        within: see :class:`Leaks`; 0 for equal images only.
    """
    seen, tested = image_digests(pool.images), image_digests(test.images)
    both = set(seen) & set(tested)
    concerned = np.array([digest in both for digest in seen], dtype=bool)
    near = None
    if within:
        near_pool, near_test = _near(pool.images, test.images, within)
        concerned |= near_pool
        near = int(near_test.sum())
    patients = None
    if pool.groups is not None and test.groups is not None:
        shared = np.intersect1d(pool.groups, test.groups)
        concerned |= np.isin(pool.groups, shared)
        patients = len(shared)
    equal = sum(digest in both for digest in tested)
    return Leaks(
        equal, near, within, patients, None, len(test), _of_two_classes([(seen, pool), (tested, test)])
    ), concerned


def _of_two_classes(parts: Sequence[tuple[list[bytes], ImageSet]]) -> int:
    """Return how many images, given by their digests, have another class than one that equals them."""
    classes: dict[bytes, set[int]] = {}
    for digests, data in parts:
        for digest, label in zip(digests, data.labels.tolist(), strict=True):
            classes.setdefault(digest, set()).add(label)
    return sum(len(classes[digest]) > 1 for digests, _ in parts for digest in digests)


def shared_own_tests(sites: Mapping[str, SiteData]) -> list[str]:
    """Return a line for the sites whose own test images equal, bit by bit, one that a site trains or selects on.

    ``sites`` are all whose images can be compared here: those of a simulation, or one hospital.
    """
    seen = {
        digest for data in sites.values() for part in (data.train, data.val) for digest in image_digests(part.images)
    }
    counts = {name: sum(digest in seen for digest in image_digests(data.test.images)) for name, data in sites.items()}
    told = [f"{count} of {len(sites[name].test)} at {name}" for name, count in counts.items() if count]
    what = "own test images equal an image that a site trains or selects on, which flatters the figures on them"
    return [f"{what}: {few(told)}"] if told else []


def _near(pool: NDArray[np.uint8], test: NDArray[np.uint8], within: float) -> tuple[Bools, Bools]:
    """Return bool ``[pool]`` and ``[test]``: which images have one of the other side within that distance."""
    limit = within**2 * test[0].size
    near_pool, near_test = np.zeros(len(pool), bool), np.zeros(len(test), bool)
    for at, rows in _blocks(test):
        for start, columns in _blocks(pool):
            # Whole numbers below 2**53: exact, so that the limit is what it says.
            squared = (rows**2).sum(1)[:, None] + (columns**2).sum(1) - 2 * rows @ columns.T
            close = squared <= limit
            near_test[at : at + len(rows)] |= close.any(1)
            near_pool[start : start + len(columns)] |= close.any(0)
    return near_pool, near_test


def _blocks(images: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for start in range(0, len(images), BLOCK):
        yield start, images[start : start + BLOCK].reshape(-1, images[0].size).astype(np.float64)
