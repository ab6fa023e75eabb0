"""How the network of ``edm`` follows from the side of the images: folding, levels, attention, padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional as F

from fedkr.errors import UserError
from fedkr.generators.edm.network import GROUPS

# From this side on images are folded into 2x2 blocks of channels.
FOLD_FROM = 14
LEAST_LEVELS = 2
# The side at the lowest level, before it is rounded up, is below this, and 6 at least where the least levels do not do.
LOWEST_BELOW = 12
# From this level on channels no longer grow.
LAST_GROWTH = 2
# 1024 channels times a factor of 64: more than memory holds, and a limit to what an exponent makes of an option.
MOST_CHANNELS = 2**16


@dataclass(frozen=True)
class Layout:
    """How images of one side are cut for the network.

    Attributes:
        size: height and width of the images in pixels.
        fold: side of the blocks of pixels that become channels; 1 for none.
        levels: of the network, each at half the side of the one before.
        attention: self-attention stands at the levels of at most this side.
    """

    size: int
    fold: int
    levels: int
    attention: int

    @property
    def side(self) -> int:
        """Height and width of the network's input in positions, which the levels divide."""
        unit = 2 ** (self.levels - 1)
        return -(-self.size // (self.fold * unit)) * unit

    def sides(self) -> list[int]:
        """Return the side at each level, the first one first."""
        return [self.side >> level for level in range(self.levels)]

    def attends(self) -> list[bool]:
        """Return of each level whether it has self-attention."""
        return [side <= self.attention for side in self.sides()]

    def channels(self, width: int, multiplier: int) -> Iterator[int]:
        """Yield the feature channels of each level: ``width``, times ``multiplier`` at each level up to the third."""
        for level in range(self.levels):
            yield width * multiplier ** min(level, LAST_GROWTH)

    def fold_in(self, images: Tensor) -> Tensor:
        """Return ``[N, C * fold^2, side, side]`` of images ``[N, C, H, W]``, whose last row and column are repeated.

        What is repeated follows from the image, so a network that draws it draws the images from their distribution.
        """
        more = self.side * self.fold - self.size
        if more:
            images = F.pad(images, (0, more, 0, more), mode="replicate")
        return F.pixel_unshuffle(images, self.fold) if self.fold > 1 else images

    def fold_out(self, folded: Tensor) -> Tensor:
        """Return the images ``[N, C, H, W]`` that :meth:`fold_in` makes ``folded`` of."""
        images = F.pixel_shuffle(folded, self.fold) if self.fold > 1 else folded
        return images[:, :, : self.size, : self.size]


def layout_for(size: int, levels: int = 0, attention: int = 0, where: str = "generator.options") -> Layout:
    """Return the layout for images of ``size`` pixels; 0 for ``levels`` or ``attention`` is by the side.

    By the side there are two levels without attention below 48 pixels, and from there on as many as bring the lowest
    one to a side of 6 to 12, with attention at that one. ``where`` names the options in errors.

    Raises:
        UserError: more levels than the side has halves.
    """
    fold = 2 if size >= FOLD_FROM else 1
    deepest = (size // fold).bit_length()
    chosen = levels or LEAST_LEVELS
    while not levels and size / (fold * 2 ** (chosen - 1)) >= LOWEST_BELOW:
        chosen += 1
    if chosen > deepest:
        if not levels:
            raise UserError(f"data.size={size}: the edm generator needs a side of 2 pixels or more")
        raise UserError(f"{where}.levels={levels}: images of {size} pixels fit {deepest} at most")
    plain = Layout(size, fold, chosen, attention)
    if attention or chosen <= LEAST_LEVELS:
        return plain
    return replace(plain, attention=plain.sides()[-1])


def check_channels(layout: Layout, width: int, multiplier: int, where: str) -> None:
    """Raise :class:`UserError`, which begins with ``where``, for a level with more channels than any memory holds.

    And for one of a single position whose first layer gets one channel a group: one value has no deviation.
    """
    channels = list(layout.channels(width, multiplier))
    if layout.sides()[-1] == 1 and channels[-2:][0] == GROUPS:
        raise UserError(
            f"{where}.width={width}: at {layout.levels} levels images of {layout.size} pixels end in one position,"
            f" which {GROUPS} channels in as many groups cannot be normalised at; {2 * GROUPS} or more, or fewer levels"
        )
    most = max(channels)
    if most > MOST_CHANNELS:
        raise UserError(
            f"{where}.multiplier={multiplier}: makes {most} channels of width={width}; {MOST_CHANNELS} at most"
        )
