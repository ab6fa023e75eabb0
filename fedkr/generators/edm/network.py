"""The network of ``edm``: diffusers' UNet, conditioned on noise level, class and augmentation parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from fedkr.data.images import Shape
from fedkr.seeds import derive_seed

# Of the UNet's group normalisation.
GROUPS = 8
# The UNet's sinusoids have frequencies of at most 1 per unit, and ln(sigma)/4 spans 3 units: spread it.
NOISE_SCALE = 10.0


class ChannelsLastUNet(UNet2DModel):
    """diffusers' UNet without its copies out of channels-last memory; it computes the same numbers.

    In training mode its residual blocks copy, for the sake of distributed training, and its upsampler does for
    batches of 64 and more, for old versions of torch. No layer has another use for the mode.
    """

    def train(self, mode: bool = True) -> ChannelsLastUNet:
        """Stay in evaluation mode."""
        return super().train(False)


class Upsample(nn.Module):
    """Twice the side, then the convolution of the diffusers layer that this one replaces."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        # Named as in the layer that is replaced, so that the weights' names stay.
        self.conv = convolution

    def forward(self, x: Tensor, size: Any = None) -> Tensor:
        """Return ``[N, C, 2H, 2W]``; ``size`` is of sides that two does not divide, which the folding rules out."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Conditioning(nn.Module):
    """The sum of a class's vector and a linear map of further conditions, 0 where these are."""

    def __init__(self, classes: int, conditions: int, width: int) -> None:
        super().__init__()
        self.classes = nn.Embedding(classes, width)
        self.further = nn.Linear(conditions, width, bias=False)

    def forward(self, conditions: tuple[Tensor, Tensor]) -> Tensor:
        """Return float ``[N, width]`` of labels int64 ``[N]`` and further conditions float ``[N, conditions]``."""
        labels, further = conditions
        return self.classes(labels) + self.further(further)


def build_unet(shape: Shape, width: int, multiplier: int, blocks: int, conditions: int = 0) -> ChannelsLastUNet:
    """Return the UNet with two levels, no attention, and one more class: the null class of guidance.

    Args:
        shape: of its inputs; the null class is number ``shape.classes``.
        width: feature channels of the first level.
        multiplier: of the second level's.
        blocks: residual blocks a level.
        conditions: numbers beside the class that an image is described with, see :class:`Conditioning`.
    """
    net = ChannelsLastUNet(
        sample_size=shape.size,
        in_channels=shape.channels,
        out_channels=shape.channels,
        layers_per_block=blocks,
        block_out_channels=(width, width * multiplier),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=GROUPS,
        num_class_embeds=shape.classes + 1,
        add_attention=False,
    )
    for block in net.up_blocks:
        if block.upsamplers is not None:
            block.upsamplers = nn.ModuleList(Upsample(layer.conv) for layer in block.upsamplers)
    if conditions:
        net.class_embedding = Conditioning(shape.classes + 1, conditions, net.class_embedding.embedding_dim)
    return net


def reset_weights(net: nn.Module, *seed: object) -> None:
    """Draw every weight from ``seed`` (torch's default initialisation, forked global state), output layer zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(*seed, "weights"))
        for module in net.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
    for parameter in net.get_submodule("conv_out").parameters():
        nn.init.zeros_(parameter)


@dataclass(frozen=True)
class Preconditioning:
    """EDM's column of table 1 (Karras et al. 2022): D(x) = c_skip x + c_out F(c_in x; c_noise).

    Attributes:
        sigma: noise levels, float ``[N, 1, 1, 1]``.
        sigma_data: standard deviation of the data.
    """

    sigma: Tensor
    sigma_data: float

    @property
    def c_skip(self) -> Tensor:
        """Share of the noisy input in the denoised image."""
        return self.sigma_data**2 / self._variance

    @property
    def c_out(self) -> Tensor:
        """Scale of the network's output."""
        return self.sigma * self.sigma_data * self._variance.rsqrt()

    @property
    def c_in(self) -> Tensor:
        """Scale of the network's input."""
        return self._variance.rsqrt()

    @property
    def _variance(self) -> Tensor:
        return self.sigma**2 + self.sigma_data**2


def noise_input(sigma: Tensor) -> Tensor:
    """Return the UNet's input for noise levels ``sigma [N]``: c_noise = ln(sigma)/4 (EDM table 1), spread out."""
    return NOISE_SCALE * sigma.log() / 4
