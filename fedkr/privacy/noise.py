"""Gaussian noise that only the holder of a seed can compute again: a stream of SHAKE-256 through the normal quantile.

Where the seed is a secret, nobody who knows all images but one, and so part of the noise, can tell the rest of it.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

# The largest such number is still below 1 in float64.
BITS = 52


def seed_bytes(*parts: object) -> bytes:
    """Return the seed of a stream that depends on every part and nothing else."""
    return "\x1f".join(map(str, parts)).encode()


def gaussian(seed: bytes, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return standard normal float64 numbers of a shape, the same for the same ``seed``."""
    # Imported here: both apps start without it.
    from scipy.special import ndtri

    return ndtri(uniform(seed, math.prod(shape))).reshape(shape)


def uniform(seed: bytes, count: int) -> NDArray[np.float64]:
    """Return ``count`` float64 numbers between 0 and 1, neither of them included, the same for the same ``seed``."""
    drawn = np.frombuffer(hashlib.shake_256(seed).digest(8 * count), "<u8") >> np.uint64(64 - BITS)
    return (drawn.astype(np.float64) + 0.5) / 2.0**BITS


def symmetric_gaussian(seed: bytes, count: int, side: int) -> NDArray[np.float64]:
    """Return ``count`` symmetric matrices ``[count, side, side]`` of noise, standard normal in every direction.

    A symmetric matrix has ``side (side + 1) / 2`` coordinates in which the Frobenius norm is the L2 norm: those on the
    diagonal, and the others times the square root of two.
    """
    rows, columns = np.triu_indices(side)
    drawn = gaussian(seed, (count, len(rows))) / np.where(rows == columns, 1.0, math.sqrt(2))
    matrices = np.zeros((count, side, side))
    matrices[:, rows, columns] = drawn
    matrices[:, columns, rows] = drawn
    return matrices
