"""Where a statement about a growing number stops to hold, by halving."""

from __future__ import annotations

from collections.abc import Callable


def largest(holds: Callable[[float], bool], most: float, tolerance: float) -> float:
    """Return the largest number from 0 to ``most``, less ``tolerance`` at most, at which a statement holds; 0 if none.

    ``holds`` is true up to that number and false from there on.
    """
    low, high = 0.0, most
    if not holds(low):
        return low
    while high - low > tolerance:
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
