"""The two networks of BigGAN-deep (Brock et al. 2019, appendix B), for images of 8 to 128 pixels and any width.

The generator's residual blocks are bottlenecks under conditional batch normalisation; the discriminator projects its
features on the class (Miyato & Koyama 2018). Every convolution, linear layer and class table of the discriminator is
under spectral normalisation (Miyato et al. 2018), as are the generator's convolutions and linear layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from fedkr.data.images import Shape

LEAST_SIDE = 4
BOTTLENECK = 4


@dataclass(frozen=True)
class Layout:
    """What both networks agree on.

    Attributes:
        image: channels, side and classes of the images.
        width: feature channels at full size.
        multiplier: most feature channels at any size, in multiples of ``width``.
        blocks: residual blocks at each size, the one that changes size among them.
        attention: self-attention at the largest size that is not above this side; 0 for none.
    """

    image: Shape
    width: int
    multiplier: int
    blocks: int
    attention: int

    def levels(self) -> list[tuple[int, int]]:
        """Return (side, feature channels) from the smallest side, at least 4 pixels, to the image's own."""
        sides = [self.image.size]
        while sides[0] % 2 == 0 and sides[0] // 2 >= LEAST_SIDE:
            sides.insert(0, sides[0] // 2)
        return [(side, self.width * min(self.multiplier, self.image.size // side)) for side in sides]

    def attention_side(self) -> int:
        """Return the side at which self-attention stands, 0 for nowhere."""
        return max((side for side, _ in self.levels() if side <= self.attention), default=0)


class ImageGenerator(nn.Module):
    """Latents float ``[N, latent]`` and labels int64 ``[N]`` to images float ``[N, C, H, W]`` in [-1, 1]."""

    def __init__(self, layout: Layout, latent: int, embedding: int) -> None:
        super().__init__()
        levels, condition = layout.levels(), latent + embedding
        (self.bottom, self.top), last = levels[0], levels[-1][1]
        self.classes = nn.Embedding(layout.image.classes, embedding)
        nn.init.orthogonal_(self.classes.weight)
        self.project = spectral(nn.Linear(condition, self.top * self.bottom**2))
        stages: list[nn.Module] = []
        for (_, inputs), (side, outputs) in pairwise(levels):
            stages += [UpBlock(inputs, inputs, condition, grow=False) for _ in range(layout.blocks - 1)]
            stages.append(UpBlock(inputs, outputs, condition, grow=True))
            if side == layout.attention_side():
                stages.append(SelfAttention(outputs))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.BatchNorm2d(last)
        self.paint = convolution(last, layout.image.channels, 3)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Return images ``[N, C, H, W]`` in [-1, 1]."""
        with float32_weights(self):
            condition = torch.cat([latents, self.classes(labels)], dim=1)
            x = self.project(condition).view(-1, self.top, self.bottom, self.bottom)
            x = x.contiguous(memory_format=torch.channels_last)
            for stage in self.stages:
                x = stage(x, condition) if isinstance(stage, UpBlock) else stage(x)
            return torch.tanh(self.paint(F.relu(self.norm(x))).float())


class Discriminator(nn.Module):
    """Images float ``[N, C, H, W]`` and labels int64 ``[N]`` to one score ``[N]`` each: above 0 is real."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        levels = layout.levels()[::-1]
        first, last = levels[0][1], levels[-1][1]
        stages: list[nn.Module] = [convolution(layout.image.channels, first, 3)]
        for (_, inputs), (side, outputs) in pairwise(levels):
            stages.append(DownBlock(inputs, outputs, shrink=True))
            stages += [DownBlock(outputs, outputs, shrink=False) for _ in range(layout.blocks - 1)]
            if side == layout.attention_side():
                stages.append(SelfAttention(outputs))
        self.stages = nn.Sequential(*stages)
        self.score = spectral(nn.Linear(last, 1))
        self.classes = spectral(nn.Embedding(layout.image.classes, last))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return a score ``[N]``: linear in the features, plus their projection on the class."""
        with float32_weights(self):
            features = F.relu(self.stages(images)).float().sum(dim=(2, 3))
            return self.score(features).float()[:, 0] + (self.classes(labels) * features).sum(dim=1)


class ConditionalNorm(nn.Module):
    """Batch normalisation whose gain and bias are linear in the condition ``[N, D]``."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = spectral(nn.Linear(condition, channels, bias=False))
        self.bias = spectral(nn.Linear(condition, channels, bias=False))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return ``x`` normalised, in its own shape."""
        gain, bias = self.gain(condition), self.bias(condition)
        return self.norm(x) * (1 + gain[:, :, None, None]) + bias[:, :, None, None]


class UpBlock(nn.Module):
    """The generator's bottleneck block; its shortcut drops the last channels and repeats pixels."""

    def __init__(self, inputs: int, outputs: int, condition: int, grow: bool) -> None:
        super().__init__()
        hidden = inputs // BOTTLENECK
        widths, kernels = (inputs, hidden, hidden, hidden, outputs), (1, 3, 3, 1)
        self.outputs, self.grow = outputs, grow
        self.norms = nn.ModuleList(ConditionalNorm(width, condition) for width in widths[:-1])
        self.convolutions = nn.ModuleList(
            convolution(a, b, kernel) for (a, b), kernel in zip(pairwise(widths), kernels, strict=True)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return ``[N, outputs, H, W]``, or twice the side where the block grows."""
        h = x
        for index, (norm, layer) in enumerate(zip(self.norms, self.convolutions, strict=True)):
            h = F.relu(norm(h, condition))
            if index == 1:
                h = self._enlarge(h)
            h = layer(h)
        return h + self._enlarge(x[:, : self.outputs])

    def _enlarge(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0) if self.grow else x


class DownBlock(nn.Module):
    """The discriminator's bottleneck block; its shortcut pools and adds channels by a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, shrink: bool) -> None:
        super().__init__()
        hidden = outputs // BOTTLENECK
        self.shrink = shrink
        self.first = convolution(inputs, hidden, 1)
        self.middle = nn.Sequential(convolution(hidden, hidden, 3), nn.ReLU(), convolution(hidden, hidden, 3))
        self.last = convolution(hidden, outputs, 1)
        self.added = convolution(inputs, outputs - inputs, 1) if outputs > inputs else None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, outputs, H, W]``, or half the side where the block shrinks."""
        h = self._reduce(F.relu(self.middle(F.relu(self.first(F.relu(x))))))
        shortcut = self._reduce(x)
        if self.added is not None:
            shortcut = torch.cat([shortcut, self.added(shortcut)], dim=1)
        return self.last(h) + shortcut

    def _reduce(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.shrink else x


class SelfAttention(nn.Module):
    """Self-attention over positions (Zhang et al. 2019): keys and values pooled 2x2, the gain 0 at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, half = max(1, channels // 8), max(1, channels // 2)
        self.query = convolution(channels, narrow, 1)
        self.key, self.value = convolution(channels, narrow, 1), convolution(channels, half, 1)
        self.output = convolution(half, channels, 1)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` ``[N, C, H, W]`` with what each position attends to."""
        query = rows(self.query(x))
        key, value = (rows(F.max_pool2d(layer(x), 2)) for layer in (self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.gain * self.output(attended.mT.unflatten(2, x.shape[2:]))


def rows(x: Tensor) -> Tensor:
    """Turn ``[N, C, H, W]`` into one row a position, ``[N, H*W, C]``."""
    return x.flatten(2).mT


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Module:
    """Return a convolution that keeps the side, under spectral normalisation."""
    return spectral(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2))


def spectral(layer: nn.Conv2d | nn.Linear | nn.Embedding) -> nn.Module:
    """Draw orthogonal weights (BigGAN's start) and put them under spectral normalisation."""
    nn.init.orthogonal_(layer.weight)
    bias = getattr(layer, "bias", None)
    if bias is not None:
        nn.init.zeros_(bias)
    return spectral_norm(layer)


@contextmanager
def float32_weights(net: nn.Module) -> Iterator[None]:
    """Normalise every weight of ``net`` once, outside autocast: bfloat16 power iterations lose the norm."""
    device = next(net.parameters()).device.type
    with parametrize.cached():
        with torch.autocast(device, enabled=False):
            power_iteration(net)
        yield


def power_iteration(net: nn.Module) -> None:
    """Ask for every normalised weight of ``net``: in training mode that is one power iteration each."""
    for module in net.modules():
        if parametrize.is_parametrized(module, "weight"):
            _ = module.weight
