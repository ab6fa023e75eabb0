"""Classifiers by name."""

from __future__ import annotations

import re

import torch
from torch import nn

from fedkr.config import ClassifierConfig, nearest
from fedkr.errors import UserError
from fedkr.learning.models.resnet import SmallResNet, initialise, resnet18
from fedkr.seeds import derive_seed

KNOWN = ("resnet8", "resnet14", "resnet20", "resnet32", "resnet18")


def build_classifier(config: ClassifierConfig, channels: int, size: int, classes: int, *seed: object) -> nn.Module:
    """Build the classifier that ``config`` names, with weights drawn from ``seed`` alone.

    Args:
        config: architecture, width (of the small ResNets) and normalisation.
        channels: colour channels of the input.
        size: height and width of the input in pixels.
        classes: number of logits.
        seed: parts of the seed, see :func:`fedkr.seeds.derive_seed`.

    Raises:
        UserError: an unknown ``arch``.
    """
    if config.arch not in KNOWN:
        raise UserError(f"arch={config.arch!r}: unknown classifier{nearest(config.arch, KNOWN)}")
    with torch.random.fork_rng(devices=[]):
        if config.arch == "resnet18":
            model = resnet18(channels, size, classes, config.norm)
        else:
            depth = int(re.sub(r"\D", "", config.arch))
            model = SmallResNet(depth, channels, classes, config.width, config.norm)
    return initialise(model, torch.Generator().manual_seed(derive_seed(*seed, "weights")))
