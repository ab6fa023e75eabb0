"""What the network of ``edm`` is conditioned on, its first weights, and how EDM scales what it is given and gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkr.seeds import derive_seed

# Of the UNet's group normalisation.
GROUPS = 8
# The UNet's sinusoids have frequencies of at most 1 per unit, and ln(sigma)/4 spans 3 units: spread it.
NOISE_SCALE = 10.0


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


class RawOutput(nn.Module):
    """The UNet as a function of tensors to a tensor."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor, noise: Tensor, *conditions: Tensor) -> Tensor:
        """Return float ``[N, C, H, W]`` of scaled images, noise levels ``[N]`` and what :class:`Conditioning` takes."""
        class_labels = conditions if len(conditions) > 1 else conditions[0]
        return self.net(inputs, noise, class_labels=class_labels).sample


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

    ``sigma`` are noise levels, float ``[..., 1, 1, 1]``, ``sigma_data`` is the standard deviation of the data.
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


def denoising(images: Tensor, sigma: Tensor, noise: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the network is given, at which level, and what it should answer: the error of its raw output.

    That is EDM's loss weighted by 1/c_out^2 (Karras et al. 2022, equation 8 and appendix B.6).

    Args:
        images: float ``[..., C, H, W]``.
        sigma: noise levels, float ``[..., 1, 1, 1]``.
        noise: standard normal, float ``[..., C, H, W]``.
        sigma_data: standard deviation of the data.

    Returns:
        Inputs and targets, both ``[..., C, H, W]``, and in between the levels ``[...]``.
    """
    noisy, at = images + sigma * noise, Preconditioning(sigma, sigma_data)
    return at.c_in * noisy, noise_input(sigma.flatten(-3).squeeze(-1)), (images - at.c_skip * noisy) / at.c_out


def noise_input(sigma: Tensor) -> Tensor:
    """Return the UNet's input for noise levels ``sigma [...]``: c_noise = ln(sigma)/4 (EDM table 1), spread out."""
    return NOISE_SCALE * sigma.log() / 4
