"""The challenge set: the images that an attack has to tell apart, members (trained on) and non-members (held out)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from fedkr.data.images import CanarySet, ImageSet, SiteData, image_digests, joined
from fedkr.errors import UserError


@dataclass(frozen=True)
class Challenge:
    """Members and non-members of a site.

    Attributes:
        members, nonmembers: natural images only.
        duplicates: how many images of both sides were removed because the other side has the same.
        canaries: planted images, some trained on and some not; they are no part of the natural challenge.
        elsewhere: how many images of both sides were removed because another site trains on the same.
    """

    members: ImageSet
    nonmembers: ImageSet
    duplicates: int
    canaries: CanarySet | None = None
    elsewhere: int = 0

    @property
    def sides(self) -> tuple[ImageSet, ImageSet]:
        """Members and non-members, in the order in which they are candidates."""
        return self.members, self.nonmembers

    @property
    def natural(self) -> int:
        """Number of both, which come first among the candidates."""
        return len(self.members) + len(self.nonmembers)

    @property
    def size(self) -> int:
        """Number of all candidates, canaries among them."""
        return self.natural + (0 if self.canaries is None else len(self.canaries))

    @property
    def smaller_side(self) -> int:
        """Number of members or of non-members, whichever are fewer."""
        return min(map(len, self.sides))

    def kept(self, counted: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
        """Return which members, non-members and canaries ``counted``, bool ``[N]``, names; no image is copied.

        Raises:
            UserError: a side that is left without images.
        """
        ends = np.cumsum([len(self.members), len(self.nonmembers)])
        kept = [np.flatnonzero(part) for part in np.split(counted, ends)]
        if not (len(kept[0]) and len(kept[1])):
            raise UserError(
                f"{len(kept[0])} members and {len(kept[1])} held-out images count: the others are of classes that no "
                "generator was taught, or another site trains on the same; lower recycle.min_class_count"
            )
        return kept

    def narrowed(self, counted: NDArray[np.bool_], elsewhere: int = 0) -> Challenge:
        """Return the challenge of those candidates alone that ``counted``, bool ``[N]``, names: a copy of their images.

        ``elsewhere`` says how many natural images are not among them because another site trains on the same.

        Raises:
            UserError: a side that is left without images.
        """
        if counted.all():
            return self
        kept = self.kept(counted)
        canaries = None if self.canaries is None else self.canaries.subset(kept[2])
        return Challenge(
            self.members.subset(kept[0]), self.nonmembers.subset(kept[1]), self.duplicates, canaries, elsewhere
        )


def site_challenge(data: SiteData) -> Challenge:
    """Return a site's challenge set by :func:`build_challenge`, the canaries in train set apart from its members."""
    return dataclasses.replace(build_challenge(data.members, data.holdout), canaries=data.canaries)


def build_challenge(train: ImageSet, holdout: ImageSet) -> Challenge:
    """Return the challenge set of a training split without canaries against a holdout, without exact duplicates.

    An image whose bytes occur on both sides is a member and a non-member at once, so all its copies are removed
    (whatever their labels) and counted. A group (patient) on both sides, or a side with no image left, is a
    :class:`UserError`.
    """
    if train.groups is not None and holdout.groups is not None:
        shared = np.intersect1d(train.groups, holdout.groups)
        if len(shared):
            raise UserError(
                f"audit: group {shared[0]} has images both in train and in holdout ({len(shared)} such groups); "
                "split by whole groups"
            )
    members, nonmembers = image_digests(train.images), image_digests(holdout.images)
    both = set(members) & set(nonmembers)
    kept = [np.flatnonzero([digest not in both for digest in side]) for side in (members, nonmembers)]
    for name, indices in zip(("train", "holdout"), kept, strict=True):
        if not len(indices):
            raise UserError(f"audit: the {name} split has no image that the other lacks; give the site more images")
    duplicates = len(members) + len(nonmembers) - len(kept[0]) - len(kept[1])
    return Challenge(train.subset(kept[0]), holdout.subset(kept[1]), duplicates)


def candidates(challenge: Challenge) -> ImageSet:
    """Return all that a reference model may train on: members, non-members, then canaries (included or not)."""
    if (planted := challenge.canaries) is None:
        return joined(challenge.sides)
    return joined(
        [*challenge.sides, ImageSet(planted.images, planted.labels, challenge.members.classes, planted.groups)]
    )


def inseparable(images: ImageSet) -> NDArray[np.intp]:
    """Return int ``[N]``, numbered by first appearance: which images only go together into a reference model's half.

    Images of a group (patient) and copies of an image do, also along a chain of both: a model that saw the one knows
    of the other.
    """
    copies = np.unique(image_digests(images.images), return_inverse=True)[1]
    groups = copies if images.groups is None else np.unique(images.groups, return_inverse=True)[1]
    # An edge of a graph for each image, from its group to its content.
    nodes = int(groups.max(initial=-1)) + 1, int(copies.max(initial=-1)) + 1
    edges = scipy.sparse.coo_array((np.ones(len(images)), (groups, nodes[0] + copies)), shape=(sum(nodes), sum(nodes)))
    found = scipy.sparse.csgraph.connected_components(edges, directed=False)[1][groups]
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(unit, len(numbers)) for unit in found.tolist()], dtype=np.intp)


def site_population(data: SiteData, challenge: Challenge) -> ImageSet:
    """Return RMIA's population: what of val and test, which no model trained on, :func:`population_of` leaves."""
    lacking = "audit: val and test hold only copies of train and holdout; give the site more images"
    return population_of([data.val, data.test], challenge, lacking)


def population_of(parts: Sequence[ImageSet], challenge: Challenge, lacking: str) -> ImageSet:
    """Return several sets as one, without copies of a candidate; raise ``lacking`` where no image is left."""
    pool, taken = joined(parts), set(image_digests(candidates(challenge).images))
    kept = np.flatnonzero([digest not in taken for digest in image_digests(pool.images)])
    if not len(kept):
        raise UserError(lacking)
    return pool.subset(kept)
