"""Training a classifier by DP-SGD (Abadi et al. 2016): clipped gradients of single units, and noise in their sum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedkr.config import ClassifierConfig
from fedkr.data.images import ImageSet
from fedkr.learning.classifier import sgd, soft_label_loss
from fedkr.learning.job import Job
from fedkr.learning.prediction import to_model_input
from fedkr.learning.training import DivergedError
from fedkr.seeds import numpy_rng, torch_rng

# So many gradients of single images are held at once: of a ResNet-14 of width 16, 45 MB.
AT_ONCE = 64


@dataclass(frozen=True)
class Mechanism:
    """What every step does.

    Attributes:
        rate: the chance of each unit, an image or with groups a patient, to be in a step's batch, by itself.
        clip: the most that a unit's gradient counts for, in its L2 norm.
        noise: standard deviation of the noise in the sum of a batch's gradients, in units of ``clip``.
    """

    rate: float
    clip: float
    noise: float


class PrivateTraining:
    """A classifier on its way by DP-SGD, in float32.

    Images are not augmented: one changed view of an image a step costs accuracy here (De et al. 2022, section 3.2), 16
    points on digits. Nor are they mixed, which would make one gradient of two.

    Args:
        model: the classifier, with no layer that mixes a batch's images.
        config: of the optimiser.
        data: the real images; of a unit's, a step takes one at random.
        mechanism: sampling, clipping and noise.
        job: runtime, and the seed of sampling and noise.
    """

    def __init__(
        self, model: nn.Module, config: ClassifierConfig, data: ImageSet, mechanism: Mechanism, job: Job
    ) -> None:
        self.model, self.job = job.runtime.place(model).train(), job
        self.config, self.data, self.mechanism = config, data, mechanism
        self.units, self.optimizer = units_of(data), sgd(self.model, config)
        self._gradients = vmap(grad(self._loss), in_dims=(None, 0, 0))

    def advance(self, steps: int, stage: str) -> None:
        """Take so many steps; raise :class:`DivergedError` where the weights are finite no more."""
        for step in range(steps):
            self._step(step)
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise DivergedError(f"{stage}: the weights are no finite numbers; lower its lr (now {self.config.lr:g})")

    def _step(self, step: int) -> None:
        chosen = sampled(self.units, self.mechanism.rate, *self.job.seed, step)
        total = self._clipped_sum(chosen)
        deviation = self.mechanism.noise * self.mechanism.clip
        expected = max(1.0, self.mechanism.rate * len(self.units))
        rng = torch_rng(*self.job.seed, "noise", step)
        for name, parameter in self.model.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng).to(parameter.device)
            parameter.grad = (total[name] + deviation * noise) / expected
        self.optimizer.step()

    def _clipped_sum(self, chosen: NDArray[np.int64]) -> dict[str, Tensor]:
        """Return the sum over the chosen images of their gradients, each no longer than the limit."""
        weights = {name: p.detach() for name, p in self.model.named_parameters()}
        total = {name: torch.zeros_like(p) for name, p in weights.items()}
        for start in range(0, len(chosen), AT_ONCE):
            inputs, labels = self._batch(chosen[start : start + AT_ONCE])
            gradients = self._gradients(weights, inputs, labels)
            lengths = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
            factors = (self.mechanism.clip / lengths.clamp(min=1e-12)).clamp(max=1.0)
            # A gradient without a length counts for nothing: else one image could make all weights NaN, which shows.
            finite = lengths.isfinite()
            for name, gradient in gradients.items():
                total[name] += torch.tensordot(factors[finite], gradient[finite], dims=1)
        return total

    def _batch(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        send, one_hot = self.job.runtime.send, np.eye(len(self.data.classes), dtype=np.float32)
        images, labels = self.data.images[chosen], one_hot[self.data.labels[chosen]]
        return to_model_input(send(torch.from_numpy(images))), send(torch.from_numpy(labels))

    def _loss(self, weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.model, weights, (image[None],))
        return soft_label_loss(logits, label[None], "cross_entropy")


def units_of(data: ImageSet) -> list[NDArray[np.int64]]:
    """Return the images of each unit: of each patient where the data name patients, else each image by itself."""
    places = np.arange(len(data), dtype=np.int64)
    if data.groups is None:
        return list(places[:, None])
    order = np.argsort(data.groups, kind="stable")
    _, starts = np.unique(data.groups[order], return_index=True)
    return np.split(places[order], starts[1:])


def sampled(units: list[NDArray[np.int64]], rate: float, *seed: object) -> NDArray[np.int64]:
    """Return the images of one step: each unit is in by a coin of its own, with one of its images at random."""
    rng = numpy_rng(*seed, "sampled")
    chosen = np.flatnonzero(rng.random(len(units)) < rate)
    return np.array([rng.choice(units[unit]) for unit in chosen], np.int64)


def steps_of(units: int, batch: int, epochs: int) -> int:
    """Return the steps of so many epochs of batches of ``batch`` units in the mean."""
    return max(1, math.ceil(epochs * units / batch))
