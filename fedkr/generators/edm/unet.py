"""diffusers' UNet as ``edm`` has it. In a module of its own, as diffusers takes seconds to import."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from fedkr.data.images import Shape
from fedkr.generators.edm.layout import Layout
from fedkr.generators.edm.network import GROUPS, Conditioning

# Channels of one head of self-attention, as in Dhariwal & Nichol 2021; fewer where they do not divide the width, since
# diffusers leaves the rest of a level's channels out.
MOST_OF_HEAD = 64


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
        """Return ``[N, C, 2H, 2W]``; ``size`` is of sides that two does not divide, which the layout rules out."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def build_unet(
    shape: Shape, layout: Layout, channels: Sequence[int], blocks: int, conditions: int = 0, scale_shift: bool = False
) -> ChannelsLastUNet:
    """Return the UNet for folded images of ``shape``, with one more class: the null class of guidance.

    The null class is number ``shape.classes``. Levels and attention are those of ``layout``, whose levels have so many
    feature ``channels`` and residual ``blocks`` each; beside its class an image is described with so many
    ``conditions`` (:class:`Conditioning`). With ``scale_shift`` all that and the noise level scale features too, and
    do not only shift them (adaptive group normalisation, Dhariwal & Nichol 2021).
    """
    attends = layout.attends()
    net = ChannelsLastUNet(
        sample_size=shape.size,
        in_channels=shape.channels,
        out_channels=shape.channels,
        layers_per_block=blocks,
        block_out_channels=tuple(channels),
        down_block_types=tuple("AttnDownBlock2D" if one else "DownBlock2D" for one in attends),
        up_block_types=tuple("AttnUpBlock2D" if one else "UpBlock2D" for one in reversed(attends)),
        norm_num_groups=GROUPS,
        num_class_embeds=shape.classes + 1,
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
        # As it is by default, but diffusers would leave it out of the middle with scale and shift.
        attn_norm_num_groups=GROUPS,
        add_attention=attends[-1],
        attention_head_dim=math.gcd(channels[0], MOST_OF_HEAD),
    )
    for block in net.up_blocks:
        if block.upsamplers is not None:
            block.upsamplers = nn.ModuleList(Upsample(layer.conv) for layer in block.upsamplers)
    if conditions:
        net.class_embedding = Conditioning(shape.classes + 1, conditions, net.class_embedding.embedding_dim)
    return net
