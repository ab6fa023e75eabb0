"""Whether a training by DP-SGD keeps its guarantee: how large an epsilon the strongest test shows, beside the stated.

Run as ``python -m simulations.evidence.dp_training out=FILE runs=20 draws=600``. A run takes the product's noisy
gradients so many times of one image, whose gradient is as long as the limit lets it be, and as often of none: other
images, whose gradients the tester knows, would cancel. The tester knows rate, limit and noise, and sums the
log-likelihood ratio of all steps' sums, each drawn with the image's coin or without: no test of the mechanism is
stronger. It calls the image in where the ratio is above 0, and once more where it is above epsilon. From the limits of
the two error rates of both (Clopper & Pearson 1934, 99.9 % together) follows the least epsilon that a mechanism with
such errors has at its delta. Beside it the same with a tenth of the noise: what a mistake in the accountant, or in the
code around it, would look like.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedkr.environment import provenance
from fedkr.learning.private_training import Mechanism, PrivateGradients, Weights
from fedkr.privacy.sampled import noise_for
from simulations.evidence.stated_epsilon import publish

Floats = NDArray[np.float64]
EPSILONS, DELTA, CONFIDENCE = (1.0, 2.0), 1e-5, 0.999
# Chance of the image to be in a step, and steps: 1 is of whole batches, which the accountant treats exactly.
SETTINGS = ((0.3, 8), (1.0, 4))
CLIP, TOO_LONG = 2.0, 100.0
# Of the control: so many times too little noise.
BROKEN = 10.0


def log_ratio(model: nn.Module, member: bool, mechanism: Mechanism, steps: int, seed: tuple[object, ...]) -> float:
    """Return the log-likelihood ratio for the image of one draw of all steps, from a training with or without it."""
    units = [np.zeros(1, np.int64)] if member else []
    gradients = PrivateGradients(model, units, mechanism, _loss, _examples, seed)
    rate, noise, total = mechanism.rate, mechanism.noise, 0.0
    for step in range(steps):
        gradients.set_at(step)
        (parameter,) = model.parameters()
        # The sum of all gradients in units of the limit.
        seen = float(parameter.grad) * mechanism.expected / mechanism.clip  # type: ignore[arg-type]
        with_it = rate * math.exp((2 * seen - 1) / (2 * noise**2))
        total += math.log1p(with_it - rate)
    return total


def _loss(weights: Weights, value: Tensor) -> Tensor:
    """A loss whose gradient is the image's one number."""
    return weights["weight"].sum() * value


def _examples(chosen: NDArray[np.int64], seed: tuple[object, ...]) -> tuple[Tensor, ...]:
    return (torch.full((len(chosen),), TOO_LONG),)


class OneWeight(nn.Module):
    """A model of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def scores(noise: float, rate: float, steps: int, draws: int, seed: int) -> tuple[Floats, Floats]:
    """Return the log-likelihood ratios ``[draws]`` of trainings with the image, and of as many without."""
    model, mechanism = OneWeight(), Mechanism(rate, CLIP, noise, 1.0)
    drawn = [
        [log_ratio(model, member, mechanism, steps, (seed, member, draw)) for draw in range(draws)]
        for member in (True, False)
    ]
    return np.array(drawn[0]), np.array(drawn[1])


def epsilon_shown(present: Floats, absent: Floats, stated: float, delta: float = DELTA) -> float:
    """Return the lower bound on epsilon that log-likelihood ratios ``[n]`` with the image and ``[m]`` without show.

    A mechanism that is (epsilon, delta)-DP has TPR at most ``exp(epsilon) FPR + delta``, and likewise of those that
    are called out (Kairouz, Oh & Viswanath 2015).
    """
    pairs = [(values, others, limit) for limit in (0.0, stated) for values, others in _both(present, absent)]
    level, found = (1 - CONFIDENCE) / (2 * len(pairs)), [0.0]
    for values, others, limit in pairs:
        right, wrong = int((values > limit).sum()), int((others > limit).sum())
        least = scipy.stats.beta.ppf(level, right, len(values) - right + 1) if right else 0.0
        most = scipy.stats.beta.ppf(1 - level, wrong + 1, len(others) - wrong) if wrong < len(others) else 1.0
        if least > delta:
            found.append(math.log((least - delta) / most))
    return max(found)


def _both(present: Floats, absent: Floats) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    return (present, absent), (-absent, -present)


def evidence(runs: int, draws: int) -> dict[str, Any]:
    """Return, for each stated epsilon and each setting, the bounds of all runs and those of the control."""
    rows = []
    for epsilon in EPSILONS:
        for rate, steps in SETTINGS:
            noise = noise_for(epsilon, DELTA, rate, steps)
            shown, broken = (
                [epsilon_shown(*scores(scale, rate, steps, draws, run), epsilon) for run in range(runs)]
                for scale in (noise, noise / BROKEN)
            )
            row = {"epsilon": epsilon, "rate": rate, "steps": steps, "noise": noise}
            rows.append(row | {"shown": shown, "with_too_little_noise": broken})
    settings = {"runs": runs, "draws": draws, "delta": DELTA, "confidence": CONFIDENCE}
    return settings | {"broken": BROKEN, "rows": rows, **provenance()}


def main(arguments: list[str]) -> None:
    """Write the result and print a line for each setting."""
    publish(arguments, evidence, "rate {rate:g}, {steps} steps", "a tenth of the noise")


if __name__ == "__main__":
    main(sys.argv[1:])
