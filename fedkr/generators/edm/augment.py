"""Non-leaky augmentation for small sets (Karras et al. 2022, appendix F.2).

Each transformation is applied to an image with a probability of its own; its parameters are inputs of the network,
which so tells the set as it is from the set as transformed. With all of them 0 at sampling it draws the former.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fedkr.learning.augment import positions

# Both mirrors, scale (log2), rotation (cos - 1, sin), both shifts, brightness; all 0 where nothing was done.
CONDITIONS = 8
SCALE_LOG2 = 0.2
ROTATION = math.pi
SHIFT = 0.125
BRIGHTNESS = 0.2


def augment_with_parameters(images: Tensor, probability: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return augmented images ``[N, C, H, W]`` in [-1, 1] and what was done to each, float ``[N, 8]``.

    Each transformation is applied with the same probability; ``rng``, the source of all parameters, is on the CPU.
    """
    count = len(images)

    def chosen(share: float) -> Tensor:
        return (torch.rand(count, generator=rng) < share).float()

    def normal(spread: float) -> Tensor:
        return spread * torch.randn(count, generator=rng) * chosen(probability)

    mirror_x, mirror_y = chosen(probability), chosen(probability)
    scale, shift_x, shift_y = normal(SCALE_LOG2), normal(SHIFT), normal(SHIFT)
    angle = ROTATION * (2 * torch.rand(count, generator=rng) - 1) * chosen(probability)
    brightness = normal(BRIGHTNESS)
    cos, sin, zoom = torch.cos(angle), torch.sin(angle), torch.exp2(-scale)
    parameters = torch.stack([mirror_x, mirror_y, scale, cos - 1, sin, shift_x, shift_y, brightness], dim=1)
    # From output to input positions, both in [-1, 1]: an image has a side of 2.
    across = torch.stack([cos * (1 - 2 * mirror_x), sin * (1 - 2 * mirror_x)], dim=1)
    down = torch.stack([-sin * (1 - 2 * mirror_y), cos * (1 - 2 * mirror_y)], dim=1)
    linear = torch.stack([across, down], dim=1) * zoom[:, None, None]
    shift = 2 * torch.stack([shift_x, shift_y], dim=1)[:, :, None]
    moved = _resample(images, torch.cat([linear, shift], dim=2))
    # An image that stayed where it was is not resampled: rounding would blur the set that is to be learnt.
    stayed = (parameters[:, :-1] == 0).all(dim=1)[:, None, None, None]
    return torch.where(stayed, images, moved) + 2 * brightness[:, None, None, None], parameters


def _resample(images: Tensor, affine: Tensor) -> Tensor:
    return F.grid_sample(images, positions(affine, list(images.shape)), padding_mode="reflection", align_corners=False)
