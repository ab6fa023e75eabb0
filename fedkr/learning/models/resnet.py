"""ResNets for small images: the CIFAR family of 6n+2 layers (He et al. 2016, section 4.2), and ResNet-18."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 8


def group_norm(channels: int) -> nn.Module:
    """GroupNorm that also fits widths which 8 groups do not divide."""
    return nn.GroupNorm(GROUPS if channels % GROUPS == 0 else 1, channels)


def make_norm(kind: str) -> type[nn.BatchNorm2d] | type[nn.Module]:
    """Return the layer constructor for ``batch`` or ``group`` (the one that per-example gradients need)."""
    return nn.BatchNorm2d if kind == "batch" else group_norm  # type: ignore[return-value]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, names and arithmetic as in torchvision's BasicBlock.

    Torchvision's own would be imported with the compiler behind its detection operators: over a second in every
    process of every site, for these lines.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, layer: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = layer(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = layer(outputs)
        self.downsample = shortcut(inputs, outputs, stride, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, outputs, H / stride, W / stride]`` of ``x [N, inputs, H, W]``."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + identity)


class SmallResNet(nn.Module):
    """ResNet of depth 6n+2: a 3x3 stem, three stages of n blocks at widths w, 2w, 4w, pooling, a linear layer.

    Input float ``[N, channels, H, W]``, output logits ``[N, classes]``.
    """

    def __init__(self, depth: int, channels: int, classes: int, width: int, norm: str) -> None:
        super().__init__()
        blocks, layer = (depth - 2) // 6, make_norm(norm)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), layer(width), nn.ReLU(inplace=True)
        )
        stages, inputs = [], width
        for stage in range(3):
            outputs = width * 2**stage
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                stages.append(ResidualBlock(inputs, outputs, stride, layer))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, classes]``."""
        return self.head(self.stages(self.stem(x)).mean(dim=(2, 3)))


class Projection(nn.Conv2d):
    """A strided 1x1 convolution without bias, as one of stride 1 on every ``stride``-th pixel.

    The values are the same. oneDNN's strided kernel writes past its buffers on processors with AVX2 and no AVX-512
    where the input has fewer than 8 channels (torch 2.14.1, channels-last, one thread): the process dies, or goes on
    with other memory changed.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int = 1) -> None:
        super().__init__(inputs, outputs, 1, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, outputs, H / stride, W / stride]`` of ``x [N, inputs, H, W]``."""
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight, groups=self.groups)


def shortcut(inputs: int, outputs: int, stride: int, layer: type[nn.Module]) -> nn.Module | None:
    """Return the 1x1 projection of a residual block that changes shape, None for one that does not."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(Projection(inputs, outputs, stride), layer(outputs))


def resnet18(channels: int, size: int, classes: int, norm: str) -> nn.Module:
    """Torchvision's ResNet-18; below 64 pixels with a 3x3 stem and no pooling, as is usual for CIFAR."""
    from torchvision.models.resnet import BasicBlock, ResNet

    model = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=classes, norm_layer=make_norm(norm))
    small = size < 64
    model.conv1 = nn.Conv2d(channels, 64, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
    if small:
        model.maxpool = nn.Identity()
    return model


def initialise(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw every weight afresh from ``generator`` (Kaiming for convolutions): no global state matters."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5, generator=generator)
            nn.init.zeros_(module.bias)
    return model
