"""The tail of the normal distribution without SciPy, which both apps start without."""

from __future__ import annotations

import math


def upper_tail(z: float) -> float:
    """Return the chance that a standard normal number is above ``z``, with its digits however small it is."""
    return math.erfc(z / math.sqrt(2)) / 2
