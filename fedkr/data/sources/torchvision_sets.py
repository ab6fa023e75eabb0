"""FashionMNIST, CIFAR10 and CIFAR100 through torchvision, which checks the checksums of what it downloads."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from torchvision import datasets

from fedkr.config import DataConfig
from fedkr.data.images import ImageSet
from fedkr.data.registry import Source
from fedkr.errors import UserError

KINDS = {"fashionmnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}


def load(config: DataConfig) -> Source:
    """Return a torchvision set from ``config.root``, downloaded first if ``config.download``.

    Raises:
        UserError: a missing or corrupt file, or a failed download.
    """
    return Source(_read(config, train=True), _read(config, train=False))


def _read(config: DataConfig, train: bool) -> ImageSet:
    kind = getattr(datasets, KINDS[config.name])
    try:
        dataset = kind(config.root, train=train, download=config.download)
    except (OSError, RuntimeError, ValueError, AssertionError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = "check the network" if config.download else "set data.download=true, or point data.root at its folder"
        raise UserError(f"{config.root}: {config.name} cannot be read ({reason}); {remedy}") from None
    return ImageSet(_images(dataset.data), np.asarray(dataset.targets, dtype=np.int64), tuple(dataset.classes))


def _images(data: Any) -> np.ndarray:
    images = np.asarray(data)
    return images[..., None] if images.ndim == 3 else images
