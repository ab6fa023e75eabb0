"""The images that benchmarks train on: scikit-learn's digits, enlarged to the size that is asked for."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from fedkr.config import DataConfig
from fedkr.data.images import ImageSet
from fedkr.data.sources.digits import load


def enlarged_digits(size: int) -> ImageSet:
    """Return the digits that are for training, bilinearly enlarged to uint8 ``[N, size, size, 1]``."""
    digits = load(DataConfig()).pool
    pixels = torch.tensor(digits.images).permute(0, 3, 1, 2).float()
    larger = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)
    images = larger.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return ImageSet(images, digits.labels, digits.classes)
