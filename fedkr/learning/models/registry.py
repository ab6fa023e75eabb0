"""Classifiers by name."""

from __future__ import annotations

import dataclasses
import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedkr.config import ClassifierConfig, StudentConfig, one_of
from fedkr.data.components import Components
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.learning.models.low_pass import LowPass
from fedkr.learning.models.resnet import SmallResNet, initialise, resnet18
from fedkr.learning.runtime import Runtime
from fedkr.seeds import derive_seed

# A counter, such as of batches, holds no more.
LARGEST_NUMBER = 2**53
KNOWN = ("resnet8", "resnet14", "resnet20", "resnet32", "resnet18")


def build_classifier(config: ClassifierConfig, shape: Shape, *seed: object) -> nn.Module:
    """Build the classifier that ``config`` names, with weights drawn from ``seed`` alone.

    ``config.width`` is of the small ResNets only.

    Raises:
        UserError: an unknown ``arch``.
    """
    one_of("arch", config.arch, KNOWN, "classifier")
    with torch.random.fork_rng(devices=[]):
        if config.arch == "resnet18":
            model = resnet18(shape.channels, shape.size, shape.classes, config.norm)
        else:
            depth = int(re.sub(r"\D", "", config.arch))
            model = SmallResNet(depth, shape.channels, shape.classes, config.width, config.norm)
    return initialise(model, torch.Generator().manual_seed(derive_seed(*seed, "weights")))


def build_student(config: StudentConfig, shape: Shape, *seed: object) -> nn.Module:
    """Build the classifier of a student of releases, behind :class:`LowPass` where ``config.components`` says so."""
    return _behind(config.components, build_classifier(config, shape, *seed), shape)


def build_as(config: ClassifierConfig, shape: Shape, weights: Mapping[str, Tensor]) -> nn.Module:
    """Build the classifier that weights from elsewhere are of, behind :class:`LowPass` where they are; with others.

    Raises:
        UserError: an unknown ``arch``.
    """
    # How many frequencies it keeps is among the weights.
    return _behind(int("front.kept" in weights), build_classifier(config, shape, "any"), shape)


def _behind(components: int, classifier: nn.Module, shape: Shape) -> nn.Module:
    if not components:
        return classifier
    front = LowPass(Components(shape, min(components, shape.size**2)))
    return nn.Sequential(OrderedDict(front=front, classifier=classifier))


def load_classifier(
    config: ClassifierConfig, shape: Shape, weights: Mapping[str, Tensor], runtime: Runtime
) -> nn.Module:
    """Build the classifier that ``config`` names with given weights, on the device and in evaluation mode.

    Its normalisation layers are those that the weights are of, whatever ``config.norm`` says.

    Raises:
        UserError: an unknown ``arch``, or a missing, unknown, misshapen or non-finite tensor.
    """
    config = dataclasses.replace(config, norm=norm_of(weights))
    return runtime.place(load_weights(build_as(config, shape, weights), weights)).eval()


def norm_of(weights: Mapping[str, Tensor]) -> str:
    """Return which normalisation layers a classifier's weights are of: only ``batch`` keeps running statistics."""
    return "batch" if any(name.endswith("running_mean") for name in weights) else "group"


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Load weights that came from elsewhere into ``model``.

    Averaging turns integer buffers into floats, so each tensor is cast to the model's own dtype.

    Raises:
        UserError: a missing, unknown, misshapen or non-finite tensor.
    """
    own = model.state_dict()
    check_weights(weights, own)
    model.load_state_dict({name: value.to(own[name].dtype) for name, value in weights.items()})
    return model


def check_weights(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise :class:`UserError` unless ``weights`` are finite and have the names and shapes of one's own."""
    for name in own.keys() ^ weights.keys():
        raise UserError(f"model weights: {name!r} is on one side only; do server and site name the same architecture?")
    for name, value in weights.items():
        if value.shape != own[name].shape:
            raise UserError(f"model weights: {name!r} has shape {list(value.shape)}, expected {list(own[name].shape)}")
        if value.is_complex() or value.dtype == torch.bool:
            raise UserError(f"model weights: {name!r} holds {value.dtype}, no real numbers")
        # As the model will hold them: float64 has numbers that float32 and counters have not. NaN is not below any.
        most = torch.finfo(own[name].dtype).max if own[name].is_floating_point() else LARGEST_NUMBER
        if not (value.double().abs() <= most).all():
            raise UserError(f"model weights: {name!r} holds NaN or infinity; lower the learning rate")
