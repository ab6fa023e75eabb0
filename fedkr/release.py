"""What leaves a site, a release, and what students learn from: the releases' sets in turn; the checks of both ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fedkr.config.reading import brief
from fedkr.data.images import Shape
from fedkr.documents import DOCUMENTS
from fedkr.errors import UserError
from fedkr.fingerprint import array_digest, fingerprint
from fedkr.stages import Artifact, read_artifact, read_info, write_artifact

# float16 rounds each of up to some hundred probabilities by 0.05 %.
ROW_SUM_TOLERANCE = 0.01
MANIFEST_FIELDS = frozenset(DOCUMENTS["manifest"].model_fields)


class SoftSet(NamedTuple):
    """Synthetic images uint8 ``[N, H, W, C]`` with their soft labels, floating ``[N, K]``."""

    images: NDArray[np.uint8]
    soft_labels: NDArray[np.floating]

    @staticmethod
    def union(parts: Sequence[SoftSet]) -> SoftSet:
        """Return several sets as one, in the given order."""
        return SoftSet(*(np.concatenate([part[i] for part in parts]) for i in (0, 1)))


@dataclass(frozen=True)
class Release:
    """One site's shared set.

    Attributes:
        images: uint8 ``[N, H, W, C]``, synthetic.
        soft_labels: float16 ``[N, K]``, rows sum to one.
        manifest: JSON-able; its fields are those of ``MANIFEST_FIELDS``. ``slices`` says into how many equal
            consecutive parts the images divide, one for each regeneration round of the student.
    """

    images: NDArray[np.uint8]
    soft_labels: NDArray[np.float16]
    manifest: dict[str, Any]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def slices(self) -> int:
        """How many equal parts there are, one for each regeneration round."""
        return int(self.manifest.get("slices", 1))

    def slice(self, index: int) -> SoftSet:
        """Return one part; ``index`` is taken modulo their number."""
        size = len(self) // self.slices
        start = (index % self.slices) * size
        return SoftSet(self.images[start : start + size], self.soft_labels[start : start + size])

    def as_artifact(self) -> Artifact:
        """Return the release as tensors and a document."""
        tensors = {"images": torch.from_numpy(self.images), "soft-labels": torch.from_numpy(self.soft_labels)}
        return Artifact(tensors, self.manifest)

    @staticmethod
    def from_artifact(artifact: Artifact) -> Release:
        """Read a release from :meth:`as_artifact`'s form."""
        return Release(artifact.tensors["images"].numpy(), artifact.tensors["soft-labels"].numpy(), artifact.info)

    def save(self, path: Path) -> None:
        """Write the release as safetensors, atomically."""
        write_artifact(path, self.as_artifact())

    @staticmethod
    def load(path: Path) -> Release:
        """Read what :meth:`save` wrote; raise :class:`UserError` for a file that is none."""
        with open_release(path):
            return Release.from_artifact(read_artifact(path))


class ReleasedSets:
    """Soft-labelled sets in the order in which a student turns to them, one a regeneration round; then again.

    ``read`` gives the set of round 0, 1, ..., up to ``count``; they are of so many ``sites``.
    """

    def __init__(self, read: Callable[[int], SoftSet], count: int, sites: int = 1) -> None:
        self.read, self.count, self.sites = read, count, sites

    def __len__(self) -> int:
        return self.count

    def __call__(self, index: int) -> SoftSet:
        """Return the set of round ``index``, from the first again after the last."""
        return self.read(index % self.count)

    @staticmethod
    def of_files(
        exchanges: Sequence[Sequence[Path]],
        labels: Mapping[str, NDArray[np.floating]] | None = None,
        kept: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> ReleasedSets:
        """Return the unions of saved releases, over the exchanges first, then over the slices of each.

        For each exchange there are the sites' release files. Memory holds one set of the union at a time. ``labels``
        ``[N, K]`` stand for those of a release by its file's name, where there are any, and ``kept`` ``[N]`` says which
        of its images are in the sets, where that is not all.
        """
        slices, other, some = max(slice_count(path) for path in exchanges[0]), labels or {}, kept or {}

        def part(path: Path, index: int) -> SoftSet:
            """Return what of one slice of a release is in the sets."""
            images, released = read_slice(path, index)
            start = index % slice_count(path) * len(images)
            here = slice(start, start + len(images))
            found = SoftSet(images, other[path.name][here] if path.name in other else released)
            if path.name not in some:
                return found
            left = some[path.name][here]
            return SoftSet(found.images[left], found.soft_labels[left])

        def read(index: int) -> SoftSet:
            files = exchanges[index % len(exchanges)]
            return SoftSet.union([part(path, index // len(exchanges)) for path in files])

        return ReleasedSets(read, len(exchanges) * slices, max(map(len, exchanges)))

    @staticmethod
    def of_releases(releases: Sequence[Release]) -> ReleasedSets:
        """Return one site's releases, one an exchange, slice by slice, over the exchanges first."""
        exchanges = len(releases)
        return ReleasedSets(
            lambda index: releases[index % exchanges].slice(index // exchanges), exchanges * releases[0].slices
        )

    @staticmethod
    def of_arrays(
        images: NDArray[np.uint8], soft_labels: NDArray[np.floating], sizes: Sequence[int], sites: int = 1
    ) -> ReleasedSets:
        """Return sets that lie one after the other in two arrays (:meth:`arrays`)."""
        starts = np.cumsum([0, *sizes])

        def read(index: int) -> SoftSet:
            part = slice(starts[index], starts[index + 1])
            return SoftSet(images[part], soft_labels[part])

        return ReleasedSets(read, len(sizes), sites)

    def arrays(self) -> tuple[SoftSet, list[int]]:
        """Return all sets one after the other, soft labels as float16, and how many images each has."""
        sets = [self(index) for index in range(self.count)]
        images, labels = SoftSet.union(sets)
        return SoftSet(images, labels.astype(np.float16, copy=False)), [len(part.images) for part in sets]

    def united(self, other: ReleasedSets | None) -> ReleasedSets:
        """Return the unions of both sides' sets, round by round."""
        if other is None:
            return self
        return ReleasedSets(
            lambda index: SoftSet.union([self(index), other(index)]),
            max(self.count, other.count),
            self.sites + other.sites,
        )

    def digest(self) -> str:
        """Return what names these sets in a stage's key."""
        arrays = array_digest(array for index in range(self.count) for array in self(index))
        return fingerprint([self.sites, arrays])

    def as_artifact(self) -> Artifact:
        """Return the sets as a stage keeps them."""
        (images, labels), sizes = self.arrays()
        tensors = {"images": torch.from_numpy(images), "soft-labels": torch.from_numpy(labels)}
        return Artifact(tensors, {"sizes": sizes, "sites": self.sites})

    @staticmethod
    def from_artifact(artifact: Artifact) -> ReleasedSets:
        """Read what :meth:`as_artifact` made."""
        images, labels = artifact.tensors["images"].numpy(), artifact.tensors["soft-labels"].numpy()
        return ReleasedSets.of_arrays(images, labels, artifact.info["sizes"], artifact.info["sites"])


def check_release(release: Release, shape: Shape, max_images: int | None = None, where: str = "release") -> None:
    """Raise :class:`UserError` unless a release is what the study expects; ``where`` begins the error line.

    ``shape`` is that of the study's images; its classes are the columns of the soft labels.
    """
    images, labels, size = release.images, release.soft_labels, shape.size
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, shape.channels):
        raise UserError(
            f"{where}: images must be uint8 [N, {size}, {size}, {shape.channels}], "
            f"got {images.dtype} {list(images.shape)}"
        )
    if labels.dtype != np.float16 or labels.shape != (len(images), shape.classes):
        raise UserError(
            f"{where}: soft labels must be float16 [{len(images)}, {shape.classes}], "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    if not len(images):
        raise UserError(f"{where}: holds no images")
    if max_images is not None and len(images) > max_images:
        raise UserError(f"{where}: {len(images)} images, more than the cap of {max_images}")
    rows = labels.astype(np.float32)
    if not np.isfinite(rows).all() or (rows < 0).any():
        raise UserError(f"{where}: soft labels must be finite and not negative")
    worst = float(np.abs(rows.sum(axis=1) - 1).max())
    if worst > ROW_SUM_TOLERANCE:
        raise UserError(f"{where}: soft-label rows must sum to one, one is off by {worst:.3g}")
    unknown = set(release.manifest) - MANIFEST_FIELDS
    if unknown:
        raise UserError(f"{where}: manifest field {sorted(unknown)[0]!r} is not among {sorted(MANIFEST_FIELDS)}")
    slices = release.manifest.get("slices", 1)
    if type(slices) is not int or not 1 <= slices <= len(images) or len(images) % slices:
        raise UserError(f"{where}: manifest slices={slices!r} must divide the {len(images)} images evenly")


def read_slice(path: Path, index: int) -> SoftSet:
    """Read one slice of a saved release without reading the rest; raise :class:`UserError` for a file that is none.

    ``index`` is taken modulo the number of slices that the release has.
    """
    with open_release(path) as (images, labels, slices):
        size = images.get_shape()[0] // slices
        start = (index % slices) * size
        return SoftSet(images[start : start + size], labels[start : start + size])


def slice_count(path: Path) -> int:
    """Return into how many slices a saved release divides; raise :class:`UserError` for a file that is none."""
    with open_release(path) as (_, _, slices):
        return slices


def image_count(path: Path) -> int:
    """Return how many images a saved release has; raise :class:`UserError` for a file that is none."""
    with open_release(path) as (images, _, _):
        return int(images.get_shape()[0])


@contextlib.contextmanager
def open_release(path: Path) -> Iterator[tuple[Any, Any, int]]:
    """Open a saved release and check its shape; yield images and soft labels, unread, and how many slices they have.

    Raises:
        UserError: the file is missing or damaged, or holds something else than a release.
    """
    try:
        with safe_open(path, framework="np") as handle:
            images, labels = handle.get_slice("images"), handle.get_slice("soft-labels")
            (shape, columns), slices = (images.get_shape(), labels.get_shape()), _slices(read_info(handle.metadata()))
            if (images.get_dtype(), len(shape), labels.get_dtype(), len(columns)) != ("U8", 4, "F16", 2):
                raise ValueError(f"{images.get_dtype()} {shape} and {labels.get_dtype()} {columns}")
            if shape[0] != columns[0] or not shape[0] or shape[0] % slices:
                raise ValueError(f"{shape[0]} images, {columns[0]} soft labels and {slices} slices")
            yield images, labels, slices
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable release ({brief(error)}); delete it to compute it again") from None


def _slices(manifest: dict[str, Any]) -> int:
    slices = manifest.get("slices", 1)
    if type(slices) is not int or slices < 1:
        raise ValueError(f"slices={brief(repr(slices))}")
    return slices
