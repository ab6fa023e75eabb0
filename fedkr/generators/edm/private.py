"""``edm`` with a guarantee: diffusion trained by DP-SGD, as differentially private diffusion models are.

That is DPDM (Dockhorn et al. 2023): a step takes the gradient of each image over several draws of noise (their noise
multiplicity), which costs no privacy, clips it and adds noise to the sum. What divides the sum, and how many images a
step samples, follow from noisy counts of the classes, which pay for themselves.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from fedkr.data.images import ImageSet
from fedkr.generators.checkpointed import STAGE
from fedkr.generators.edm.generator import Generator
from fedkr.generators.edm.network import RawOutput
from fedkr.learning.job import Seed
from fedkr.learning.prediction import to_model_input
from fedkr.learning.private_training import Mechanism, PrivateGradients, Weights, check_finite, units_of
from fedkr.learning.training import Training
from fedkr.privacy.accountant import mu_of
from fedkr.privacy.noise import gaussian, seed_bytes
from fedkr.privacy.sampled import noise_for
from fedkr.progress import Progress
from fedkr.seeds import torch_rng

# Of epsilon and of delta what the counts take. The rest is the training's: the two add up, whatever was answered.
COUNTS_EPSILON, COUNTS_DELTA = 0.1, 0.1


class PrivateWork:
    """The training of ``edm`` under way, as :class:`fedkr.generators.checkpointed.Work`.

    All that :meth:`state` has is (epsilon, delta)-differentially private but for the holder of ``seed``: for one
    patient more or less where ``data`` have groups, else for one image.
    """

    def __init__(self, generator: Generator, training: Training, data: ImageSet, seed: Seed) -> None:
        self.generator, self.training, self.data = generator, training, data
        self.network, units = RawOutput(generator.net), units_of(data)
        config, privacy = generator.task.config, generator.task.privacy
        self.counts, self.count_noise = noisy_counts(
            data, units, privacy.epsilon * COUNTS_EPSILON, privacy.delta * COUNTS_DELTA, seed
        )
        total = max(1.0, float(self.counts.sum()))
        rate = min(1.0, config.batch / total)
        epsilon, delta = privacy.epsilon * (1 - COUNTS_EPSILON), privacy.delta * (1 - COUNTS_DELTA)
        noise = noise_for(epsilon, delta, rate, config.steps)
        mechanism = Mechanism(rate, generator.options.private_clip, noise, rate * total)
        self.gradients = PrivateGradients(self.network, units, mechanism, self._loss, self._examples, seed)

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.training.step

    def advance(self, until: int, progress: Progress) -> None:
        """Train up to step ``until``; no loss is shown, as it is of the images."""
        while self.step < until:
            self.gradients.set_at(self.step)
            self.training.apply_gradients()
            progress.update(STAGE, self.step, self.generator.task.config.steps)
        check_finite(self.generator.net, STAGE, self.generator.options.lr)

    def state(self) -> dict[str, Tensor]:
        """Return the training's state, the noisy ``counts [K]`` and the deviation of their noise, ``count_noise``."""
        counted = {"counts": torch.from_numpy(self.counts), "count_noise": torch.tensor(self.count_noise)}
        return self.training.state() | counted

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Continue where :meth:`state` was taken; the counts are the seed's."""
        self.training.restore(tensors, step)

    def _examples(self, chosen: NDArray[np.int64], seed: Seed) -> tuple[Tensor, ...]:
        # Not mirrored either: what a study says of images is no part of what the noise is drawn for.
        generator, rng = self.generator, torch_rng(*seed)
        folded = generator.layout.fold_in(to_model_input(torch.from_numpy(self.data.images[chosen])))
        draws = folded[:, None].expand(-1, generator.options.private_draws, *folded.shape[1:])
        labels = generator.partly_dropped(torch.from_numpy(self.data.labels[chosen]), rng)
        return tuple(map(generator.task.runtime.send, (*generator.noised(draws, rng), labels)))

    def _loss(self, weights: Weights, inputs: Tensor, levels: Tensor, target: Tensor, label: Tensor) -> Tensor:
        """Return the loss of one image, the mean of its draws."""
        output: Tensor = functional_call(self.network, weights, (inputs, levels, label.expand(len(inputs))))
        return F.mse_loss(output, target)


def noisy_counts(
    data: ImageSet, units: list[NDArray[np.int64]], epsilon: float, delta: float, seed: Seed
) -> tuple[NDArray[np.float64], float]:
    """Return how many units each class has, ``[K]``, with Gaussian noise, and its standard deviation.

    A unit with images of several classes counts for each by their share, so that none moves the counts by more than 1.
    """
    one_hot, noise = np.eye(len(data.classes)), 1 / mu_of(epsilon, delta)
    counts = np.sum([one_hot[data.labels[unit]].mean(axis=0) for unit in units], axis=0)
    return counts + noise * gaussian(seed_bytes(*seed, "counts"), counts.shape), noise
