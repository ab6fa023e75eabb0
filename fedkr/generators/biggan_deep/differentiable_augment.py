"""Differentiable augmentation (Zhao et al. 2020) of what a discriminator sees, real and drawn images alike.

Gradients pass through it to the generator, so few images can train a discriminator for longer before it knows them by
heart, and the augmentations do not leak into what the generator draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BRIGHTNESS = 0.5
SHIFT = 8
CUTOUT = 2


def brightness(images: Tensor, rng: torch.Generator) -> Tensor:
    """Add one number from [-0.5, 0.5] to all pixels of an image."""
    offset = BRIGHTNESS * (2 * torch.rand(len(images), 1, 1, 1, generator=rng) - 1)
    return images + offset.to(images.device)


def translation(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shift each image by at most an eighth of its side, mid grey moving in."""
    count, _, height, width = images.shape
    most = max(1, height // SHIFT)
    down, right = torch.randint(0, 2 * most + 1, (2, count, 1), generator=rng)
    rows = (down + torch.arange(height)).to(images.device)
    columns = (right + torch.arange(width)).to(images.device)
    each = torch.arange(count, device=images.device)
    padded = F.pad(images, [most] * 4)
    return padded[each[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(images: Tensor, rng: torch.Generator) -> Tensor:
    """Set a square of half the side to mid grey; its centre may be anywhere, so parts of it may lie outside."""
    count, _, height, width = images.shape
    half = max(1, height // CUTOUT) / 2
    centre = torch.rand(2, count, 1, generator=rng) * torch.tensor([height, width])[:, None, None]
    inside_rows = (torch.arange(height) + 0.5 - centre[0]).abs() < half
    inside_columns = (torch.arange(width) + 0.5 - centre[1]).abs() < half
    hole = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return images.masked_fill(hole.to(images.device), 0.0)


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "brightness": brightness,
    "translation": translation,
    "cutout": cutout,
}


def differentiable_augment(images: Tensor, names: Sequence[str], rng: torch.Generator) -> Tensor:
    """Return images ``[N, C, H, W]`` in [-1, 1] augmented, in this order, by the named :data:`AUGMENTATIONS`.

    Each image has other parameters, from ``rng`` on the CPU.
    """
    for name in names:
        images = AUGMENTATIONS[name](images, rng)
    return images.contiguous(memory_format=torch.channels_last)
