"""What generators do to pixels on their way in and out: mirrored copies, and back to uint8."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def mirror(images: Tensor, flip: str, rng: torch.Generator) -> Tensor:
    """Mirror each image ``[N, C, H, W]`` at random along the axes that ``flip`` allows."""
    for axis, allowed in ((3, flip in ("horizontal", "both")), (2, flip == "both")):
        if allowed:
            chosen = torch.rand(len(images), 1, 1, 1, generator=rng) < 0.5
            images = torch.where(chosen, images.flip(axis), images)
    return images


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Turn float ``[N, C, H, W]`` in [-1, 1] into uint8 ``[N, H, W, C]``."""
    pixels = images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()
