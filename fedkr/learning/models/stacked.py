"""Many networks of one shape as one network: channels side by side, every layer split into one group a model.

A stack of M networks computes exactly what the M networks compute apart: convolutions have M groups, batch
normalisation is per channel and therefore per model, and the linear layer is a batched product. The gradient of the
sum of the M losses is each network's own gradient, and SGD is elementwise, so one optimiser trains all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedkr.learning.models.resnet import Projection

CONVOLUTIONS = ("grouped", "matmul")


class StackedLinear(nn.Module):
    """M linear layers: float ``[B, M * inputs]`` to ``[B, M, outputs]``.

    The bias is flat, ``[M * outputs]``: a recipe that tells matrices from vectors by their dimensions still does.
    """

    def __init__(self, models: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.models = models
        self.weight = nn.Parameter(torch.empty(models * outputs, inputs))
        self.bias = nn.Parameter(torch.empty(models * outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, M, outputs]``."""
        outputs, inputs = self.weight.shape[0] // self.models, self.weight.shape[1]
        weight = self.weight.view(self.models, outputs, inputs).transpose(1, 2)
        columns = x.view(len(x), self.models, inputs).transpose(0, 1)
        return torch.bmm(columns, weight).transpose(0, 1) + self.bias.view(self.models, outputs)


class MatmulConv2d(nn.Conv2d):
    """A grouped convolution (square kernel and stride, zero padding, no bias) as one batched matrix product.

    It copies every k x k neighbourhood, k * k times the memory of its input, and needs no grouped kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return what :class:`torch.nn.Conv2d` returns: ``[B, out_channels, H', W']``."""
        kernel, stride, edge = self.kernel_size[0], self.stride[0], _edge(self.padding)
        models, outputs = self.groups, self.out_channels // self.groups
        patches = F.pad(x, (edge, edge, edge, edge)).unfold(2, kernel, stride).unfold(3, kernel, stride)
        batch, _, height, width = patches.shape[:4]
        # Channels are innermost wherever something is copied: that is how they lie in channels-last memory.
        patches = patches.unflatten(1, (models, -1)).permute(1, 0, 3, 4, 5, 6, 2)
        columns = patches.reshape(models, batch * height * width, -1)
        weight = self.weight.permute(0, 2, 3, 1).reshape(models, outputs, -1)
        found = torch.bmm(columns, weight.transpose(1, 2)).view(models, batch, height, width, outputs)
        return found.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)


class Stack(nn.Module):
    """M networks of one shape in one: float ``[B, M * channels, H, W]`` to logits ``[B, M, classes]``.

    Args:
        models: networks made of convolutions, normalisations and one linear layer at the end; copied, left alone.
        convolution: ``grouped`` (the library's grouped kernels) or ``matmul`` (:class:`MatmulConv2d`).
    """

    def __init__(self, models: Sequence[nn.Module], convolution: str = "grouped") -> None:
        super().__init__()
        self.count = len(models)
        self.network = _replaced(copy.deepcopy(models[0]), self.count, convolution)
        states = [model.state_dict() for model in models]
        joined = {name: _joined([state[name] for state in states]) for name in states[0]}
        self.network.load_state_dict(joined)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, M, classes]``; model m sees channels ``m * channels`` to ``(m + 1) * channels``."""
        return self.network(x)

    def states(self) -> Iterator[dict[str, Tensor]]:
        """Yield the state of each network, copies that the network it came from can load."""
        state = self.network.state_dict()
        for index in range(self.count):
            yield {name: _part(value, index, self.count).clone() for name, value in state.items()}


def unstack(stacked: Stack, models: Sequence[nn.Module]) -> None:
    """Load the weights and statistics of ``stacked`` into the ``models`` that it was made of, in their order."""
    for model, state in zip(models, stacked.states(), strict=True):
        model.load_state_dict(state)


def saved_bytes(network: nn.Module, inputs: tuple[int, ...]) -> int:
    """Return how many bytes a float32 forward pass on a batch of shape ``inputs`` keeps for the backward pass.

    Counted on shapes alone: nothing is computed or allocated. A tensor that two layers keep counts twice, which
    leaves room for what the backward pass itself needs.
    """
    total = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    ghost = copy.deepcopy(network).to("meta").train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ghost(torch.empty(inputs, device="meta"))
    return total


def _edge(padding: str | tuple[int, ...]) -> int:
    assert not isinstance(padding, str)
    return padding[0]


def _part(value: Tensor, index: int, count: int) -> Tensor:
    """Return one network's rows; a scalar, batch normalisation's count of batches, is the same in all."""
    return value.chunk(count)[index] if value.ndim else value


def _joined(values: list[Tensor]) -> Tensor:
    return torch.cat(values) if values[0].ndim else values[0]


def _replaced(module: nn.Module, models: int, convolution: str) -> nn.Module:
    """Replace every layer with parameters by its stacked form, in place; return the module or its replacement."""
    for kind, make in LAYERS.items():
        if isinstance(module, kind):
            return make(module, models, convolution)
    for name, child in module.named_children():
        setattr(module, name, _replaced(child, models, convolution))
    return module


def _convolution(layer: nn.Conv2d, models: int, convolution: str) -> nn.Module:
    channels = models * layer.in_channels, models * layer.out_channels
    if isinstance(layer, Projection) and convolution == "grouped":
        return Projection(*channels, layer.stride[0], models)
    kind, bias = {"grouped": nn.Conv2d, "matmul": MatmulConv2d}[convolution], layer.bias is not None
    return kind(*channels, layer.kernel_size[0], layer.stride[0], _edge(layer.padding), groups=models, bias=bias)


# From a layer, the number of models and the kind of convolution to the stacked layer.
LAYERS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Conv2d: _convolution,
    nn.Linear: lambda layer, models, _: StackedLinear(models, layer.in_features, layer.out_features),
    nn.BatchNorm2d: lambda layer, models, _: nn.BatchNorm2d(models * layer.num_features, layer.eps, layer.momentum),
    nn.GroupNorm: lambda layer, models, _: nn.GroupNorm(
        models * layer.num_groups, models * layer.num_channels, layer.eps
    ),
}
