"""The shapes that data has in fedkr: a set of labelled images, planted canaries, and one site's four splits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedkr.config import CANARY_CHANNELS, CANARY_KINDS
from fedkr.errors import UserError


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    Attributes:
        images: uint8 ``[N, H, W, C]`` with C 1 or 3; may be memory-mapped.
        labels: int64 ``[N]``, indices into ``classes``.
        classes: the study's global class names.
        groups: int64 ``[N]`` (patients) or None; no split divides a group.

    Raises:
        UserError: shapes, dtypes or labels that do not fit together.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    groups: NDArray[np.int64] | None = field(default=None)

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[-1] not in (1, 3):
            raise UserError(f"images: expected [N, H, W, 1 or 3], got shape {list(self.images.shape)}")
        if self.images.dtype != np.uint8:
            raise UserError(f"images: expected dtype uint8 (0 to 255), got {self.images.dtype}")
        if self.labels.shape != (len(self.images),):
            raise UserError(f"labels: expected {len(self.images)}, one an image, got shape {list(self.labels.shape)}")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise UserError(
                f"labels: between {self.labels.min()} and {self.labels.max()}, "
                f"but the study has {len(self.classes)} classes (0 to {len(self.classes) - 1})"
            )
        if self.groups is not None and self.groups.shape != self.labels.shape:
            raise UserError(f"groups: expected {len(self.labels)}, one an image, got shape {list(self.groups.shape)}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """Number of colour channels, 1 or 3."""
        return int(self.images.shape[-1])

    @property
    def size(self) -> int:
        """Height (and width) in pixels."""
        return int(self.images.shape[1])

    def subset(self, indices: NDArray[np.integer]) -> ImageSet:
        """Return the images at ``indices``, in that order."""
        groups = None if self.groups is None else self.groups[indices]
        return ImageSet(self.images[indices], self.labels[indices], self.classes, groups)

    def class_counts(self) -> NDArray[np.int64]:
        """Return int64 ``[classes]``: how many images each class has."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    def patient_counts(self) -> NDArray[np.int64]:
        """Return int64 ``[classes]``: how many groups (patients) each class has; images where there are no groups."""
        if self.groups is None:
            return self.class_counts()
        pairs = np.unique(np.stack([self.labels, self.groups]), axis=1)
        return np.bincount(pairs[0], minlength=len(self.classes)).astype(np.int64)


@dataclass(frozen=True)
class Shape:
    """What a network has to know of its data: colour channels, side in pixels, classes (those without images too)."""

    channels: int
    size: int
    classes: int

    @staticmethod
    def of(data: ImageSet) -> Shape:
        """Return the shape of an image set."""
        return Shape(data.channels, data.size, len(data.classes))

    @staticmethod
    def of_soft(images: NDArray[np.uint8], soft_labels: NDArray[np.floating]) -> Shape:
        """Return the shape of uint8 images ``[N, H, W, C]`` with soft labels ``[N, K]``."""
        return Shape(images.shape[3], images.shape[1], soft_labels.shape[1])


@dataclass(frozen=True)
class CanarySet:
    """Images made to be memorised, each put into a site's training split, or left out, by its own fair coin.

    Attributes:
        images: uint8 ``[m, H, W, C]``, all of them, in an order that does not depend on the coins.
        labels: int64 ``[m]``, the labels they are trained under.
        included: bool ``[m]``, the coins.
        kinds: int64 ``[m]``, indices into ``config.CANARY_KINDS``.
        groups: int64 ``[m]``, a new group each, where the site has groups; else None.
        companions: how many images of the training split stand right before the canaries, in it without a coin:
            those that near-duplicates were made from (with groups: all of their groups). Twice in the training data,
            they are no typical members.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    included: NDArray[np.bool_]
    kinds: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None
    companions: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: NDArray[np.integer]) -> CanarySet:
        """Return the canaries at ``indices``, in that order; no companions, which belong to a whole training split."""
        groups = None if self.groups is None else self.groups[indices]
        images, labels = self.images[indices], self.labels[indices]
        return CanarySet(images, labels, self.included[indices], self.kinds[indices], groups)

    def of_channel(self, channel: str) -> NDArray[np.bool_]:
        """Return bool ``[m]``: which canaries show what leaks through a channel of ``config.CANARY_CHANNELS``."""
        return np.isin(self.kinds, [CANARY_KINDS.index(kind) for kind in CANARY_CHANNELS[channel]])

    @property
    def planted(self) -> int:
        """How many images at the end of the training split are canaries or their companions."""
        return self.companions + int(self.included.sum())


@dataclass(frozen=True)
class SiteData:
    """One site's private images.

    Attributes:
        train: what everything trains on; planted canaries come last in it.
        val: chooses checkpoints, knobs and learning rates.
        test: the site's own test figures.
        holdout: the audit's non-members, never touched by training or selection.
        canaries: what was planted at the end of ``train``, and what its coins left out; None for no canaries.
        rare: classes, by index, that the site keeps to itself: none of their images is in train, val or holdout.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet
    holdout: ImageSet
    canaries: CanarySet | None = None
    rare: tuple[int, ...] = ()

    @property
    def members(self) -> ImageSet:
        """The audit's members: the training split without planted canaries and their companions."""
        if self.canaries is None:
            return self.train
        return self.train.subset(np.arange(len(self.train) - self.canaries.planted))


def joined(parts: Sequence[ImageSet]) -> ImageSet:
    """Return several sets as one, in the given order; it has groups only if all of them do."""
    groups = [part.groups for part in parts if part.groups is not None]
    return ImageSet(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        parts[0].classes,
        np.concatenate(groups) if len(groups) == len(parts) else None,
    )


def content_digest(data: ImageSet) -> str:
    """Return 64 hex digits of images, labels, classes and groups, so that a stage is never reused for other data."""
    digest = hashlib.sha256(repr((data.images.shape, data.classes)).encode())
    for array in (data.images, data.labels, *(() if data.groups is None else (data.groups,))):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def image_digests(images: NDArray[np.uint8]) -> list[bytes]:
    """Return a digest of each image's bytes: equal images, and only those, share one."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images]
