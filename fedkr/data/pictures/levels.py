"""Values of more than 8 bits as grey levels from 0 to 255, by a rule that the dataset's options state."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkr.config import DataConfig
from fedkr.data.pictures.frame import Frame, UnreadableError
from fedkr.errors import UserError

# Values are scaled in floating point, so many at a time: a large picture is not held in eight bytes a pixel.
BLOCK = 1 << 20
HIGHEST = 65_535
# Values of 16 bits of which none reaches a quarter of the range were made with fewer bits.
LEAST_TOP = 1 << 14


class NoRuleError(UnreadableError):
    """Values that neither their type nor an option says the range of."""


def range_option(low: float, high: float) -> str:
    """Return the option that maps values from ``low`` to ``high``; for a single value with 0 as its other end."""
    if low == high:
        low, high = min(low, 0), max(high, 0)
    return f"data.range=[{low:.15g},{high:.15g}]"


@dataclass
class Brightest:
    """The greatest value of pictures of which only the upper 8 of 16 bits are taken."""

    pictures: int = 0
    top: int = 0

    def add(self, top: int | None, pictures: int = 1) -> None:
        """Count pictures with what :class:`Frame` has of them."""
        if top is not None:
            self.pictures += pictures
            self.top = max(self.top, top)

    @property
    def dark(self) -> bool:
        """Whether there are pictures, and they would be almost black."""
        return self.pictures > 0 and self.top < LEAST_TOP

    def check(self, where: str) -> None:
        """Raise :class:`UserError` for pictures that would be almost black."""
        if self.dark:
            full = (1 << self.top.bit_length()) - 1 or 1
            raise UserError(
                f"{where}: the brightest pixel of {self.pictures} image(s) of 16 bits is {self.top} of {HIGHEST}, so "
                f"they would be almost black; set data.range=[0,{full}], or [0,{HIGHEST}] if that is meant"
            )


def levels(values: NDArray[np.generic], config: DataConfig) -> Frame:
    """Return values ``[H, W]`` of any number type as grey levels; but for ``data.scale=image``, of any other shape too.

    ``data.range`` gives the values that become 0 and 255; ``data.scale=image`` takes the picture's own least and
    greatest value; else whole numbers are 16 bits, of which the upper 8 count, and floating-point ones from 0 to 1.

    Raises:
        UnreadableError: values that are not numbers; :class:`NoRuleError` for those outside their type's own range.
    """
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UnreadableError("holds NaN or infinite values")
    if config.range:
        return Frame(scaled(values, config.range[0], config.range[1]))
    if config.scale == "image":
        return Frame(scaled(values, low, high))
    if values.dtype == np.uint8:
        return Frame(values.astype(np.uint8))
    whole = np.issubdtype(values.dtype, np.integer)
    if low < 0 or high > (HIGHEST if whole else 1):
        raise NoRuleError(f"values from {low:g} to {high:g}; set {range_option(low, high)} or data.scale=image")
    return Frame((values.astype(np.uint16) >> 8).astype(np.uint8), int(high)) if whole else Frame(scaled(values, 0, 1))


def scaled(values: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    """Return uint8 of the same shape: ``low`` and below become 0, ``high`` and above 255, rounded in between."""
    found = np.zeros(values.shape, np.uint8)
    if high > low:
        for part, into in zip(_blocks(values), _blocks(found), strict=True):
            into[:] = np.rint((part.astype(np.float64).clip(low, high) - low) * 255 / (high - low))
    return found


def _blocks(array: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
    rows = max(1, BLOCK // max(1, math.prod(array.shape[1:])))
    return (array[start : start + rows] for start in range(0, len(array), rows))
