"""What a site's policy asks of every release: no near-copies, and soft labels that say no more than they must."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.data.images import ImageSet
from fedkr.errors import UserError
from fedkr.recycle.drawer import Drawer
from fedkr.release import SoftSet

# From so many decimals on, float16 rounds more than they do.
EXACT = 5
# A generator that has nothing but copies must not keep a site drawing for ever: so many redraws at most, and so many
# times the release's images.
MOST_REDRAWS, MOST_TIMES = 64, 4
# Where a policy refuses what a few redraws do not clean.
FEW_REDRAWS = 4


@dataclass
class Counted:
    """What the search for near-copies came to: how many images were drawn again, in how many redraws."""

    redrawn: int = 0
    redraws: int = 0


@dataclass(frozen=True)
class Terms:
    """A site's terms; these defaults, a simulation's, ask for nothing.

    Attributes:
        digits: decimals of soft labels; from ``EXACT`` on, they are as exact as float16.
        classes: how many classes of a soft label keep mass; 0 for all.
        withheld: classes that get no mass at all, by index.
        is_copy: tells near-copies among uint8 images ``[N, H, W, C]``; None where nobody looks for them.
        refuse_copies: whether near-copies that are left after ``FEW_REDRAWS`` stop the release; else it takes
            ``MOST_REDRAWS``, or ``MOST_TIMES`` as many images drawn again as the release has.
        least: units of each class, patients or images, that a release with a guarantee takes.
        train: the training images that a release with a guarantee measures, rare classes included, which its noisy
            counts leave out; None where those are the training split's, which all else is taught by.
        secret: returns what the site's secret makes of a name, the same each time and known to nobody else: noise comes
            from it. None where noise may come from the study's seed, so that a run can be repeated: whoever knows the
            study can then take it out, which a simulation may allow and a hospital must not.
        names: what tells these terms from others in a stage's key.
    """

    digits: int = EXACT
    classes: int = 0
    withheld: tuple[int, ...] = ()
    is_copy: Callable[[NDArray[np.uint8]], NDArray[np.bool_]] | None = None
    refuse_copies: bool = False
    least: int = 1
    train: ImageSet | None = None
    secret: Callable[[str], str] | None = None
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

    def draw(self, drawer: Drawer, asked: NDArray[np.int64], *seed: object) -> tuple[SoftSet, Counted]:
        """Draw an image for each of ``asked``, none of them a near-copy of a real image.

        As many images leave as were asked for, or none: a shorter release would tell its receiver how many were copies,
        and of which classes.

        Raises:
            UserError: near-copies that are left after all redraws.
        """
        drawn, counted = drawer.draw(asked, *seed), Counted()
        if self.is_copy is None:
            return drawn, counted
        copies = np.flatnonzero(self.is_copy(drawn.images))
        while len(copies) and self._goes_on(counted, len(asked)):
            fresh = drawer.draw(asked[copies], *seed, "copies", counted.redraws)
            counted = Counted(counted.redrawn + len(copies), counted.redraws + 1)
            drawn.images[copies], drawn.soft_labels[copies] = fresh
            copies = copies[self.is_copy(fresh.images)]
        if len(copies):
            policy = "refuse" if self.refuse_copies else "redraw"
            raise UserError(
                f"{len(copies)} of {len(asked)} images are near-copies of real ones after {counted.redraws} redraws: "
                f"nothing is released (near_copies: {policy}); train the generator with fewer steps or on more images"
            )
        return drawn, counted

    def _goes_on(self, counted: Counted, count: int) -> bool:
        if self.refuse_copies:
            return counted.redraws < FEW_REDRAWS
        return counted.redraws < MOST_REDRAWS and counted.redrawn < MOST_TIMES * count


# A simulation's: everything leaves as it is.
NO_TERMS = Terms()


def _rounded(rows: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Return rows that sum to one in multiples of 10^-digits: the largest remainders are rounded up."""
    scale = 10**digits
    whole = np.floor(rows * scale)
    missing = np.rint(scale - whole.sum(axis=1, keepdims=True))
    order = np.argsort(np.argsort(whole - rows * scale, axis=1, kind="stable"), axis=1, kind="stable")
    return (whole + (order < missing)) / scale
