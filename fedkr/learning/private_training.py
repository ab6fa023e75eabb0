"""DP-SGD (Abadi et al. 2016): clipped gradients of single units, and noise in their sum."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedkr.config import ClassifierConfig
from fedkr.data.images import ImageSet
from fedkr.fingerprint import array_digest, fingerprint
from fedkr.learning.classifier import sgd, soft_label_loss
from fedkr.learning.job import Job, Seed
from fedkr.learning.prediction import to_model_input
from fedkr.learning.training import DivergedError
from fedkr.privacy.noise import gaussian, seed_bytes, uniform

# So many gradients of single images are held at once, fewer of a large model: half a gigabyte, of float32.
AT_ONCE, MOST_NUMBERS = 64, 2**27

Weights = dict[str, Tensor]
# From a model's weights and one image's tensors to its loss, a scalar.
LossOfOne = Callable[..., Tensor]
# From chosen images and a seed to what the loss takes of them: tensors that have a row an image.
Examples = Callable[[NDArray[np.int64], Seed], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Mechanism:
    """What every step does.

    Attributes:
        rate: the chance of each unit, an image or with groups a patient, to be in a step's batch, by itself.
        clip: the most that a unit's gradient counts for, in its L2 norm.
        noise: standard deviation of the noise in the sum of a batch's gradients, in units of ``clip``.
        expected: units of a batch in the mean, by which the sum is divided.
    """

    rate: float
    clip: float
    noise: float
    expected: float


class PrivateGradients:
    """The gradients of a model's steps by DP-SGD, in float32.

    Args:
        model: in training mode, with no layer that mixes a batch's images.
        units: the images of each unit; of a unit's, a step takes one at random.
        mechanism: sampling, clipping and noise.
        loss: of the weights, by name, and of one image.
        examples: what the loss takes of images.
        seed: of sampling and noise; who holds it can take the noise out again.
    """

    def __init__(
        self,
        model: nn.Module,
        units: list[NDArray[np.int64]],
        mechanism: Mechanism,
        loss: LossOfOne,
        examples: Examples,
        seed: Seed,
    ) -> None:
        self.model, self.units, self.mechanism = model, units, mechanism
        self.loss, self.examples, self.seed = loss, examples, seed

    def set_at(self, step: int) -> None:
        """Set the gradient of every parameter to that of a step."""
        chosen = sampled(self.units, self.mechanism.rate, *self.seed, step)
        total = self._clipped_sum(chosen, step)
        deviation = self.mechanism.noise * self.mechanism.clip
        # Whatever gives another sum, be it a library's rounding, has noise of its own: the same noise in two sums would
        # give their difference away, and on one sum at two scales all of it.
        about = fingerprint(dataclasses.asdict(self.mechanism)), array_digest(g.cpu().numpy() for g in total.values())
        for name, parameter in self.model.named_parameters():
            noise = gaussian(seed_bytes(*self.seed, "noise", step, name, *about), tuple(parameter.shape))
            noisy = total[name] + deviation * torch.from_numpy(noise).to(parameter)
            parameter.grad = torch.empty_like(parameter).copy_(noisy / self.mechanism.expected)

    def _clipped_sum(self, chosen: NDArray[np.int64], step: int) -> Weights:
        """Return the sum over the chosen images of their gradients, each no longer than the limit."""
        weights = {name: p.detach() for name, p in self.model.named_parameters()}
        total = {name: torch.zeros_like(p) for name, p in weights.items()}
        at_once = max(1, min(AT_ONCE, MOST_NUMBERS // sum(p.numel() for p in weights.values())))
        for start in range(0, len(chosen), at_once):
            examples = self.examples(chosen[start : start + at_once], (*self.seed, "examples", step, start))
            gradients = vmap(grad(self.loss), in_dims=(None, *[0] * len(examples)))(weights, *examples)
            lengths = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
            factors = (self.mechanism.clip / lengths.clamp(min=1e-12)).clamp(max=1.0)
            # A gradient without a length counts for nothing: else one image could make all weights NaN, which shows.
            finite = lengths.isfinite()
            for name, gradient in gradients.items():
                total[name] += torch.tensordot(factors[finite], gradient[finite], dims=1)
        return total


class PrivateTraining:
    """A classifier on its way by DP-SGD.

    Images are not augmented: one changed view of an image a step costs accuracy here (De et al. 2022, section 3.2), 16
    points on digits. Nor are they mixed, which would make one gradient of two.

    Args:
        model: the classifier, with no layer that mixes a batch's images.
        config: of the optimiser.
        data: the real images.
        mechanism: sampling, clipping and noise.
        job: runtime, and the seed of sampling and noise.
    """

    def __init__(
        self, model: nn.Module, config: ClassifierConfig, data: ImageSet, mechanism: Mechanism, job: Job
    ) -> None:
        self.model, self.job = job.runtime.place(model).train(), job
        self.config, self.data = config, data
        self.optimizer = sgd(self.model, config)
        self.gradients = PrivateGradients(self.model, units_of(data), mechanism, self._loss, self._examples, job.seed)

    def advance(self, steps: int, stage: str) -> None:
        """Take so many steps; raise :class:`DivergedError` where the weights are finite no more."""
        for step in range(steps):
            self.gradients.set_at(step)
            self.optimizer.step()
        check_finite(self.model, stage, self.config.lr)

    def _examples(self, chosen: NDArray[np.int64], seed: Seed) -> tuple[Tensor, ...]:
        send, one_hot = self.job.runtime.send, np.eye(len(self.data.classes), dtype=np.float32)
        images, labels = self.data.images[chosen], one_hot[self.data.labels[chosen]]
        return to_model_input(send(torch.from_numpy(images))), send(torch.from_numpy(labels))

    def _loss(self, weights: Weights, image: Tensor, label: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.model, weights, (image[None],))
        return soft_label_loss(logits, label[None], "cross_entropy")


def check_finite(model: nn.Module, stage: str, lr: float) -> None:
    """Raise :class:`DivergedError` where a weight is NaN or infinite."""
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise DivergedError(f"{stage}: the weights are no finite numbers; lower its lr (now {lr:g})")


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
    # One number a unit: below the rate it is in, and how far below says which of its images.
    drawn = uniform(seed_bytes(*seed, "sampled"), len(units)) / rate
    inside = [(units[unit], drawn[unit]) for unit in np.flatnonzero(drawn < 1)]
    return np.array([images[min(int(share * len(images)), len(images) - 1)] for images, share in inside], np.int64)


def steps_of(units: int, batch: int, epochs: int) -> int:
    """Return the steps of so many epochs of batches of ``batch`` units in the mean."""
    return max(1, math.ceil(epochs * units / batch))
