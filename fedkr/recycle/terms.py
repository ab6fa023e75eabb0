"""What a site's policy asks of every release: no near-copies, and soft labels that say no more than they must."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.errors import UserError
from fedkr.recycle.drawer import Drawer
from fedkr.release import SoftSet

# From so many decimals on, float16 rounds more than they do.
EXACT = 5
# A generator that has nothing but copies must not keep a site drawing for ever.
COPY_REDRAWS = 4
STILL_COPIES = f"are near-copies of real ones after {COPY_REDRAWS} redraws: nothing is released"
REMEDY = "train the generator with fewer steps or on more images"


@dataclass
class Counted:
    """What the search for near-copies came to: images drawn again, and images that were left out in the end."""

    redrawn: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class Terms:
    """A site's terms; these defaults, a simulation's, ask for nothing.

    Attributes:
        digits: decimals of soft labels; from ``EXACT`` on, they are as exact as float16.
        classes: how many classes of a soft label keep mass; 0 for all.
        withheld: classes that get no mass at all, by index.
        is_copy: tells near-copies among uint8 images ``[N, H, W, C]``; None where nobody looks for them.
        refuse_copies: whether near-copies that are left after all redraws stop the release; else they are left out.
        names: what tells these terms from others in a stage's key.
    """

    digits: int = EXACT
    classes: int = 0
    withheld: tuple[int, ...] = ()
    is_copy: Callable[[NDArray[np.uint8]], NDArray[np.bool_]] | None = None
    refuse_copies: bool = False
    names: dict[str, Any] = field(default_factory=dict)

    def labels(self, soft: NDArray[np.floating]) -> NDArray[np.float16]:
        """Return soft labels ``[N, K]`` as they may leave; rows sum to one as nearly as float16 can."""
        rows = soft / soft.sum(axis=1, keepdims=True)
        if self.withheld or self.classes or self.digits < EXACT:
            rows = self._coarser(rows.astype(np.float64))
        return rows.astype(np.float16)

    def _coarser(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        rows[:, list(self.withheld)] = 0.0
        if 0 < self.classes < rows.shape[1]:
            least = np.argsort(-rows, axis=1, kind="stable")[:, self.classes :]
            np.put_along_axis(rows, least, 0.0, axis=1)
        # A teacher that is sure of withheld classes alone says nothing.
        rows[rows.sum(axis=1) == 0] = np.isin(np.arange(rows.shape[1]), self.withheld, invert=True)
        rows /= rows.sum(axis=1, keepdims=True)
        return rows if self.digits >= EXACT else _rounded(rows, self.digits)

    def draw(self, drawer: Drawer, asked: NDArray[np.int64], slices: int, *seed: object) -> tuple[SoftSet, Counted]:
        """Draw an image for each of ``asked``, ``slices`` equal parts in a row, without near-copies of real images.

        What is left of a part after ``COPY_REDRAWS`` draws is without them, and every part as long as the shortest.

        Raises:
            UserError: near-copies that are left where these terms refuse the release, or a part of nothing else.
        """
        drawn, counted = drawer.draw(asked, *seed), Counted()
        if self.is_copy is None:
            return drawn, counted
        copies = np.flatnonzero(self.is_copy(drawn.images))
        for attempt in range(COPY_REDRAWS):
            if not len(copies):
                return drawn, counted
            counted.redrawn += len(copies)
            fresh = drawer.draw(asked[copies], *seed, "copies", attempt)
            drawn.images[copies], drawn.soft_labels[copies] = fresh
            copies = copies[self.is_copy(fresh.images)]
        if len(copies) and self.refuse_copies:
            raise UserError(f"{len(copies)} of {len(asked)} images {STILL_COPIES} (near_copies: refuse); {REMEDY}")
        kept = _equal_parts(len(asked), slices, copies)
        counted.dropped = len(asked) - len(kept)
        return SoftSet(drawn.images[kept], drawn.soft_labels[kept]), counted


# A simulation's: everything leaves as it is.
NO_TERMS = Terms()


def _rounded(rows: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Return rows that sum to one in multiples of 10^-digits: the largest remainders are rounded up."""
    scale = 10**digits
    whole = np.floor(rows * scale)
    missing = np.rint(scale - whole.sum(axis=1, keepdims=True))
    order = np.argsort(np.argsort(whole - rows * scale, axis=1, kind="stable"), axis=1, kind="stable")
    return (whole + (order < missing)) / scale


def _equal_parts(count: int, slices: int, dropped: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which of ``count`` images are kept; raise :class:`UserError` where a part has none left."""
    parts = [np.setdiff1d(part, dropped) for part in np.split(np.arange(count), slices)]
    size = min(map(len, parts))
    if not size:
        raise UserError(f"{len(dropped)} of {count} images {STILL_COPIES}; {REMEDY}")
    return np.concatenate([part[:size] for part in parts])
