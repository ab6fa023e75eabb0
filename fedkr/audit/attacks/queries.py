"""The augmented queries of the reference attacks: mirrored and shifted views of every image, always the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from fedkr.errors import UserError

Images = NDArray[np.uint8]
# Of one pixel, in rows and columns; along the axes first, as diagonal shifts lose the most of an image.
SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))
MIRRORS = {
    "none": ((False, False),),
    "horizontal": ((False, False), (False, True)),
    "both": ((False, False), (False, True), (True, False), (True, True)),
}


@dataclass(frozen=True)
class Queries:
    """How many views of an image an attack asks about: the image, its mirror images, then one-pixel shifts of all.

    The 18 queries of Carlini et al. 2022 are nine shifts of an image and of its mirror image; edges are repeated.

    Attributes:
        count: at most nine for each mirror image that ``flip`` allows.
        flip: ``none``, ``horizontal`` or ``both``: which mirror images are as real as the original.

    Raises:
        UserError: more queries than there are views, none, or an unknown ``flip``.
    """

    count: int = 1
    flip: str = "none"

    def __post_init__(self) -> None:
        if self.flip not in MIRRORS:
            raise UserError(f"data.flip={self.flip!r}: one of: {', '.join(MIRRORS)}")
        most = len(SHIFTS) * len(MIRRORS[self.flip])
        if not 1 <= self.count <= most:
            raise UserError(f"audit.queries={self.count}: between 1 and {most} with data.flip={self.flip}")

    def views(self, images: Images) -> Iterator[Images]:
        """Yield ``count`` views uint8 ``[N, H, W, C]`` of uint8 ``images [N, H, W, C]``."""
        every = ((mirror, shift) for shift in SHIFTS for mirror in MIRRORS[self.flip])
        return (_shifted(_mirrored(images, *mirror), *shift) for mirror, shift in islice(every, self.count))


def _mirrored(images: Images, vertical: bool, horizontal: bool) -> Images:
    return images[:, :: -1 if vertical else 1, :: -1 if horizontal else 1]


def _shifted(images: Images, down: int, right: int) -> Images:
    if not (down or right):
        return np.ascontiguousarray(images)
    rows, columns = np.arange(images.shape[1]) - down, np.arange(images.shape[2]) - right
    rows, columns = rows.clip(0, len(rows) - 1), columns.clip(0, len(columns) - 1)
    return images[:, rows[:, None], columns[None, :]]
