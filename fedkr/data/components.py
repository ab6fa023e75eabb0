"""Public components of an image: the lowest frequencies of its cosine transform, which depend on no image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedkr.data.images import Shape

# Of colour images: grey, red against blue, and green against both, each with this share of a grey image's components.
COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
COLOUR_SHARE = 0.5


@dataclass(frozen=True)
class Components:
    """The ``count`` lowest frequencies of images of a shape; of colour images, half as many in each colour axis.

    They are orthonormal: no image, its pixels taken as -1 to 1, is longer than :attr:`longest`.
    """

    shape: Shape
    count: int

    @property
    def longest(self) -> float:
        """The L2 norm that no image exceeds."""
        return math.sqrt(self.shape.size**2 * self.shape.channels)

    @cached_property
    def chosen(self) -> NDArray[np.int64]:
        """Which of the flattened coefficients ``[C, H, W]`` are kept, int64 ``[D]``."""
        side = self.shape.size
        rows, columns = np.indices((side, side))
        order = np.argsort((rows**2 + columns**2).ravel(), kind="stable")
        of_each = self.count if self.shape.channels == 1 else max(1, round(COLOUR_SHARE * self.count))
        lowest = order[:of_each]
        return np.concatenate([lowest + axis * side**2 for axis in range(self.shape.channels)]).astype(np.int64)

    @property
    def size(self) -> int:
        """D, how many components there are."""
        return len(self.chosen)

    def of_images(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return float64 ``[N, D]`` of uint8 images ``[N, H, W, C]``."""
        # Imported here: what never draws such images starts without it.
        from scipy.fft import dctn

        pixels = np.moveaxis(images.astype(np.float64) / 127.5 - 1, 3, 1)
        if self.shape.channels > 1:
            pixels = np.einsum("ac,nchw->nahw", COLOURS, pixels)
        return dctn(pixels, axes=(2, 3), norm="ortho").reshape(len(images), -1)[:, self.chosen]

    def to_images(self, values: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return uint8 ``[N, H, W, C]`` of components ``[N, D]``."""
        from scipy.fft import idctn

        side, channels = self.shape.size, self.shape.channels
        whole = np.zeros((len(values), channels * side**2))
        whole[:, self.chosen] = values
        pixels = idctn(whole.reshape(-1, channels, side, side), axes=(2, 3), norm="ortho")
        if channels > 1:
            pixels = np.einsum("ac,nahw->nchw", COLOURS, pixels)
        grey = np.clip(np.rint((pixels + 1) * 127.5), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(np.moveaxis(grey, 1, 3))
