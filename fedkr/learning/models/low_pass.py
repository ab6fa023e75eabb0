"""What a student sees images through that learned from releases of few frequencies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedkr.data.components import COLOURS, Components


class LowPass(nn.Module):
    """Float images ``[N, C, H, W]`` in [-1, 1] without all but their lowest frequencies.

    Args:
        components: those that stay.
    """

    def __init__(self, components: Components) -> None:
        # Imported here: most classifiers have none of this.
        from scipy.fft import dct

        super().__init__()
        shape = components.shape
        kept = torch.zeros(shape.channels * shape.size**2)
        kept[torch.from_numpy(components.chosen)] = 1.0
        self.kept: Tensor
        self.cosines: Tensor
        self.colours: Tensor
        # Among the weights, so that these say what their classifier is behind.
        self.register_buffer("kept", kept.view(shape.channels, shape.size, shape.size))
        cosines = torch.from_numpy(dct(torch.eye(shape.size).numpy(), axis=0, norm="ortho"))
        colours = torch.from_numpy(COLOURS) if shape.channels > 1 else torch.ones(1, 1)
        self.register_buffer("cosines", cosines.float(), persistent=False)
        self.register_buffer("colours", colours.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return images of the same shape."""
        # In float32 whatever is around it: an exported student is asked without autocast.
        with torch.autocast(x.device.type, enabled=False):
            found = self.cosines @ torch.einsum("ac,nchw->nahw", self.colours, x.float()) @ self.cosines.T
            pixels = self.cosines.T @ (found * self.kept) @ self.cosines
            return torch.einsum("ac,nahw->nchw", self.colours, pixels).clamp(-1.0, 1.0)
