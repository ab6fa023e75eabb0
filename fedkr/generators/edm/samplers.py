"""Samplers of ``edm``: from noise to images in a given number of evaluations of the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

SOLVERS = ("dpm++2m", "heun", "euler")
# Karras et al. 2022, table 5: noise levels between which churn adds noise, and how much more than it takes.
CHURN_SIGMAS = (0.05, 50.0)
CHURN_NOISE = 1.003

# (inputs scaled by c_in ``[N, C, H, W]``, noise level sigma ``[N]``) -> raw output of the network, float32.
Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Sampler:
    """From standard normal noise to images.

    Attributes:
        solver: one of ``SOLVERS``.
        evaluations: of the network, for each image; Heun's method takes two a step and one in the last.
        schedule: ``sigma_min``, ``sigma_max`` and ``sigma_data``.
        churn: S_churn, the amount of added noise; 0 is the deterministic sampler.
    """

    solver: str
    evaluations: int
    schedule: dict[str, float]
    churn: float = 0.0

    def draw(self, network: Network, noise: Tensor, rng: torch.Generator) -> Tensor:
        """Return images float ``[N, C, H, W]`` of standard normal ``noise`` of that shape; added noise is from ``rng``.

        Where there is churn, Heun stands in for the multistep solver.
        """
        if self.solver == "dpm++2m" and not self.churn:
            return self._multistep(network, noise)
        return self._stochastic(network, noise, rng)

    def _multistep(self, network: Network, noise: Tensor) -> Tensor:
        """DPM-Solver++ of second order (Lu et al. 2022) on EDM's sigmas: one evaluation a step."""
        from diffusers import EDMDPMSolverMultistepScheduler  # here, as it takes seconds to import

        scheduler = EDMDPMSolverMultistepScheduler(**self.schedule, final_sigmas_type="zero")
        scheduler.set_timesteps(self.evaluations)
        x = (noise * scheduler.init_noise_sigma).to(memory_format=torch.channels_last)
        for index, timestep in enumerate(scheduler.timesteps):
            output = network(scheduler.scale_model_input(x, timestep), scheduler.sigmas[index].expand(len(x)))
            x = scheduler.step(output, timestep, x).prev_sample
        return x

    def _stochastic(self, network: Network, noise: Tensor, rng: torch.Generator) -> Tensor:
        """Algorithm 2 of Karras et al. 2022: Heun's method (or Euler's) with noise that is added before each step.

        diffusers gives the noise levels and the preconditioning, not the step: its ``EDMEulerScheduler.step`` adds the
        noise after the network was evaluated, so what is added is never removed.
        """
        from diffusers import EDMEulerScheduler  # here, as it takes seconds to import

        scheduler, second_order = EDMEulerScheduler(**self.schedule), self.solver != "euler"
        steps = (self.evaluations + 1) // 2 if second_order else self.evaluations
        scheduler.set_timesteps(steps)

        def slope(x: Tensor, sigma: Tensor) -> Tensor:
            output = network(scheduler.precondition_inputs(x, sigma), sigma.expand(len(x)))
            return (x - scheduler.precondition_outputs(x, output, sigma)) / sigma

        x = (noise * scheduler.init_noise_sigma).to(memory_format=torch.channels_last)
        for sigma, following in pairwise(scheduler.sigmas):
            raised = sigma
            if self.churn and CHURN_SIGMAS[0] <= sigma <= CHURN_SIGMAS[1]:
                raised = sigma * (1 + min(self.churn / steps, math.sqrt(2) - 1))
                fresh = torch.randn(x.shape, generator=rng).to(x.device)
                x = x + CHURN_NOISE * torch.sqrt(raised**2 - sigma**2) * fresh
            direction = slope(x, raised)
            ahead = x + (following - raised) * direction
            if second_order and following > 0:
                ahead = x + (following - raised) * (direction + slope(ahead, following)) / 2
            x = ahead
        return x
