"""Copies of real images behind what anyone can undo: contrast, brightness, inversion, mirrors, quarter turns, a shift.

An image is a direction here: what is left of its pixels without their mean and without the mean image of a class, at
length one. ``a * image + b * mean + c`` has the direction of the image for all a, b, c, or the opposite one, so that
neither a gain and offset nor a blend with the class's mean hides a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedkr.audit.attacks.observed import Bools
from fedkr.audit.radii import KEPT, squared_radii
from fedkr.data.distances import CHUNK, LARGEST_SIDE, Floats
from fedkr.data.images import ImageSet

# Averaged down further than for distances of pixels: many ways to look at an image, and noise counts less.
SIDE = 16
# Of the cosine in float32: what is no further apart is one image.
EQUAL = 1e-5


class AlteredCopies:
    """Finds images that are real ones but for gain, offset, class mean, mirrors, quarter turns or a shift by a pixel.

    Distances are chords between directions, the least over all ways to look at an image; radii are taken from real
    images looked at in the same ways.
    """

    def __init__(self, real: ImageSet) -> None:
        self.real = real

    def __call__(self, images: NDArray[np.uint8]) -> Bools:
        """Return bool ``[N]`` for uint8 images ``[N, H, W, C]`` of the real ones' shape."""
        found = [(self._squared(part) <= self._squared_radii).any(dim=1) for part in _parts(images)]
        return torch.cat(found).numpy()

    def _squared(self, images: NDArray[np.uint8]) -> Tensor:
        """Return float32 ``[N, M]``: the squared chord of each image to each real one, the least of all its views."""
        seen = torch.stack([_rows(view) for view in _views(images)])
        squared = torch.empty(len(images), len(self.real))
        for members, basis, directions in self._classes:
            cosines = _directions(seen.flatten(0, 1), basis) @ directions.T
            squared[:, members] = 2 - 2 * cosines.abs().unflatten(0, seen.shape[:2]).amax(dim=0)
        return squared.clamp_min(0)

    @cached_property
    def _classes(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each class: its images' indices, what their directions leave out, and the directions."""
        rows = torch.cat([_rows(_small(part)) for part in _parts(self.real.images)])
        found = []
        for label in np.unique(self.real.labels):
            members = torch.from_numpy(np.flatnonzero(self.real.labels == label))
            # A class of one image would be its own mean.
            basis = _basis(rows[members if len(members) > 1 else slice(None)].mean(dim=0), self.real.channels)
            found.append((members, basis, _directions(rows[members], basis)))
        return found

    @cached_property
    def _squared_radii(self) -> Tensor:
        kept = torch.full((KEPT, len(self.real)), torch.inf)
        for start, part in zip(range(0, len(self.real), CHUNK), _parts(self.real.images), strict=True):
            kept = torch.cat([kept, self._to_others(start, part)]).topk(KEPT, dim=0, largest=False).values
        closest: Floats = kept.sort(dim=0).values.sqrt().T.double().numpy()
        return torch.from_numpy(squared_radii(closest, self.real.labels)).float()

    def _to_others(self, start: int, part: NDArray[np.uint8]) -> Tensor:
        squared, own = self._squared(part), slice(start, start + len(part))
        squared[squared <= EQUAL] = torch.inf
        squared[:, own].fill_diagonal_(torch.inf)
        if (groups := self.real.groups) is not None:
            squared[torch.from_numpy(groups[own, None] == groups[None])] = torch.inf
        return squared


def _parts(images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]


def _small(images: NDArray[np.uint8]) -> Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1).float() / 255
    return _averaged(pixels, LARGEST_SIDE)


def _averaged(pixels: Tensor, most: int) -> Tensor:
    height, width = (min(side, most) for side in pixels.shape[2:])
    return pixels if pixels.shape[2:] == (height, width) else functional.adaptive_avg_pool2d(pixels, (height, width))


def _rows(pixels: Tensor) -> Tensor:
    return _averaged(pixels, SIDE).flatten(1)


def _views(images: NDArray[np.uint8]) -> Iterator[Tensor]:
    """Yield images ``[N, C, H, W]`` in all ways to look at them: mirrored, turned, or else shifted by a pixel."""
    small = _small(images)
    # A transposed image that is not square fits no other.
    for turned in (small, small.transpose(2, 3)) if images.shape[1] == images.shape[2] else (small,):
        yield from (turned, turned.flip(3), turned.flip(2), turned.flip(2, 3))
    height, width = small.shape[2:]
    padded = functional.pad(small, (1, 1, 1, 1), mode="replicate")
    for top in range(3):
        yield from (padded[:, :, top : top + height, left : left + width] for left in range(3) if (top, left) != (1, 1))


def _basis(mean: Tensor, channels: int) -> Tensor:
    """Return orthonormal columns ``[d, channels + 1]`` that span each channel's offset and the mean image."""
    offsets = torch.eye(channels).repeat_interleave(len(mean) // channels, dim=0)
    return torch.linalg.qr(torch.cat([offsets, mean[:, None]], dim=1)).Q


def _directions(rows: Tensor, basis: Tensor) -> Tensor:
    left = rows - (rows @ basis) @ basis.T
    # What is flat has no direction: rounding alone would give it one.
    length = left.norm(dim=1, keepdim=True)
    return torch.where(length > 1e-4, left / length.clamp_min(1e-4), 0.0)
