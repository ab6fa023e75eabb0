"""A site's real and synthetic images side by side, as one picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BACKGROUND = 255
GAP = 2


@dataclass(frozen=True)
class SiteSamples:
    """A few images of one site for the report.

    Attributes:
        classes: the study's class names.
        real: uint8 ``[N, H, W, C]`` with C 1 or 3, or None where private images must not be shown.
        real_labels: int ``[N]``, or None with ``real``.
        synthetic: uint8 ``[M, H, W, C]``.
        synthetic_labels: int ``[M]``.
    """

    classes: list[str]
    real: NDArray[np.uint8] | None
    real_labels: NDArray[np.integer] | None
    synthetic: NDArray[np.uint8]
    synthetic_labels: NDArray[np.integer]

    @property
    def halves(self) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.integer]]]:
        """Images and labels: ``synthetic``, and ``real`` where they may be shown."""
        halves = {"synthetic": (self.synthetic, self.synthetic_labels)}
        if self.real is not None and self.real_labels is not None:
            halves["real"] = (self.real, self.real_labels)
        return halves


def tile_grid(
    images: NDArray[np.uint8], labels: NDArray[np.integer], rows: list[int], columns: int, tile: int
) -> NDArray[np.uint8]:
    """Return uint8 ``[len(rows) * tile, columns * tile, 3]``: the first ``columns`` images of each class in ``rows``.

    A class with fewer images leaves its other tiles white.
    """
    canvas = np.full((len(rows) * tile, columns * tile, 3), BACKGROUND, np.uint8)
    for row, label in enumerate(rows):
        for column, index in enumerate(np.flatnonzero(np.asarray(labels) == label)[:columns]):
            top, left = row * tile, column * tile
            drawn = fit(images[index], tile - GAP)
            canvas[top : top + tile - GAP, left : left + tile - GAP] = drawn
    return canvas


def fit(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return ``image`` (``[H, W, 1 or 3]``) as uint8 ``[side, side, 3]``; enlarged pixels stay squares."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    enlarged = side >= max(picture.size)
    return np.asarray(picture.resize((side, side), Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS))


def shown_classes(samples: SiteSamples, limit: int) -> list[int]:
    """Return at most ``limit`` class indices, those that the site has synthetic or real images of first."""
    count = len(samples.classes)
    held = np.isin(np.arange(count), np.concatenate([labels for _, labels in samples.halves.values()]))
    chosen = [*np.flatnonzero(held), *np.flatnonzero(~held)][:limit]
    return sorted(int(index) for index in chosen)
