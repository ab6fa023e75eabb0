"""Batched augmentation of classifier inputs: one affine resampling a batch, other parameters for each image.

torchvision's transforms draw one set of parameters a call, so a batch would need a Python loop over its images; on
8x8 and 28x28 images that loop costs more than the training step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Strength:
    """Ranges of the random parameters: shift as a share of the image, rotation in degrees, the others as fractions."""

    shift: float
    rotation: float = 0.0
    scale: float = 0.0
    contrast: float = 0.0
    erase: float = 0.0


STRENGTHS = {
    "standard": Strength(shift=0.125),
    "strong": Strength(shift=0.125, rotation=12.0, scale=0.12, contrast=0.2, erase=0.3),
}


def positions(affine: Tensor, shape: list[int]) -> Tensor:
    """Return float32 ``[N, H, W, 2]``: where each pixel of a view is taken from, by ``affine [N, 2, 3]``."""
    # Autocast would round positions to bfloat16: up to half a pixel on large images.
    with torch.autocast(affine.device.type, enabled=False):
        return F.affine_grid(affine, shape, align_corners=False)


def augment(images: Tensor, policy: str, flip: str, generator: torch.Generator) -> Tensor:
    """Return an augmented view of each image.

    Args:
        images: float ``[N, C, H, W]`` in [-1, 1].
        policy: ``none``, ``standard`` (shift) or ``strong`` (and rotation, scale, contrast, erased squares).
        flip: ``none``, ``horizontal`` or ``both``: which mirror images are as real as the original.
        generator: source of all parameters, on the CPU.
    """
    if policy == "none":
        return images
    strength = STRENGTHS[policy]
    affine = _affine(len(images), strength, flip, generator).to(images.device)
    grid = positions(affine, list(images.shape))
    views = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if strength.contrast:
        gain = 1 + strength.contrast * _uniform((len(images), 2), generator).to(images.device)
        views = (views * gain[:, :1, None, None] + (gain[:, 1:, None, None] - 1)).clamp_(-1, 1)
    if strength.erase:
        views = _erase(views, strength.erase, generator)
    return views.contiguous(memory_format=torch.channels_last)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * 2 - 1


def _affine(count: int, strength: Strength, flip: str, generator: torch.Generator) -> Tensor:
    angle = math.radians(strength.rotation) * _uniform((count,), generator)
    zoom = 1 + strength.scale * _uniform((count,), generator)
    shift = 2 * strength.shift * _uniform((count, 2), generator)
    signs = torch.where(torch.rand((count, 2), generator=generator) < 0.5, -1.0, 1.0)
    mirror_x = signs[:, 0] if flip in ("horizontal", "both") else torch.ones(count)
    mirror_y = signs[:, 1] if flip == "both" else torch.ones(count)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    first = torch.stack([cos * mirror_x, -sin * mirror_y, shift[:, 0]], dim=1)
    second = torch.stack([sin * mirror_x, cos * mirror_y, shift[:, 1]], dim=1)
    return torch.stack([first, second], dim=1)


def _erase(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Set one square of a quarter of the side, at a random place, to mid grey in a share of the images."""
    count, _, height, width = images.shape
    side = max(1, height // 4)
    top = torch.randint(0, height - side + 1, (count, 1, 1), generator=generator)
    left = torch.randint(0, width - side + 1, (count, 1, 1), generator=generator)
    chosen = torch.rand((count, 1, 1), generator=generator) < probability
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    mask = chosen & (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return images.masked_fill(mask[:, None].to(images.device), 0.0)
