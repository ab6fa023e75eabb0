"""What leaves a site: synthetic images with soft labels, a small manifest, and the checks that both ends make."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from fedkr.errors import UserError
from fedkr.stages import Artifact, read_artifact, write_artifact

# float16 rounds each of up to some hundred probabilities by 0.05 %.
ROW_SUM_TOLERANCE = 0.01
MANIFEST_FIELDS = frozenset(
    {"site", "round", "slices", "count", "left_out", "knobs", "checkpoint", "scores", "recalls", "teacher"}
)


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
        """Read what :meth:`save` wrote."""
        return Release.from_artifact(read_artifact(path))


def check_release(
    release: Release, *, size: int, channels: int, classes: int, max_images: int | None = None, where: str = "release"
) -> None:
    """Raise :class:`UserError` unless a release is what the study expects.

    Args:
        release: what is to be checked.
        size: image side in pixels.
        channels: colour channels.
        classes: number of soft-label columns.
        max_images: cap on the number of images, None for no cap.
        where: begins each error line, e.g. ``site-0, round 1``.
    """
    images, labels = release.images, release.soft_labels
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, channels):
        raise UserError(
            f"{where}: images must be uint8 [N, {size}, {size}, {channels}], got {images.dtype} {list(images.shape)}"
        )
    if labels.dtype != np.float16 or labels.shape != (len(images), classes):
        raise UserError(
            f"{where}: soft labels must be float16 [{len(images)}, {classes}], got {labels.dtype} {list(labels.shape)}"
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
    if not isinstance(slices, int) or not 1 <= slices <= len(images) or len(images) % slices:
        raise UserError(f"{where}: manifest slices={slices!r} must divide the {len(images)} images evenly")


def read_slice(path: Path, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Read one slice of a saved release without reading the rest: images ``[n, H, W, C]`` and soft labels ``[n, K]``.

    ``index`` is taken modulo the number of slices that the release has.
    """
    with safe_open(path, framework="np") as handle:
        images, labels = handle.get_slice("images"), handle.get_slice("soft-labels")
        count = images.get_shape()[0]
        slices = slice_count(path)
        size = count // slices
        start = (index % slices) * size
        return images[start : start + size], labels[start : start + size]


def slice_count(path: Path) -> int:
    """Return into how many slices a saved release divides."""
    with safe_open(path, framework="np") as handle:
        return int(json.loads(handle.metadata()["info"]).get("slices", 1))
