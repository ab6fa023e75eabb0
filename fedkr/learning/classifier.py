"""Training a classifier on images with soft or hard labels: the same recipe for every model in the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedkr.config import ClassifierConfig
from fedkr.data.images import ImageSet, Shape
from fedkr.learning.augment import augment
from fedkr.learning.batches import BatchOrder
from fedkr.learning.job import Job, Seed
from fedkr.learning.models import build_classifier
from fedkr.learning.one_launch import OneLaunch
from fedkr.learning.prediction import predict_logits, to_model_input
from fedkr.learning.training import Training, cosine
from fedkr.seeds import derive_seed, numpy_rng, torch_rng

MOMENTUM = 0.9
WARMUP_SHARE = 0.05

Batch = tuple[NDArray[np.uint8], NDArray[np.floating]]


@dataclass(frozen=True)
class Batches:
    """What a classifier is trained on, batch by batch.

    Attributes:
        at: from a step to uint8 images ``[B, H, W, C]`` and labels ``[B, K]``.
        counts: float ``[K]``, images of each class among all that are drawn from (:func:`soft_counts`).
    """

    at: Callable[[int], Batch]
    counts: NDArray[np.floating]

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        return self.at(step)


def real_batches(data: ImageSet, batch: int, *seed: object) -> Batches:
    """Return the batches of real data, with one-hot labels."""
    order, one_hot = BatchOrder(len(data), batch, *seed), np.eye(len(data.classes), dtype=np.float32)

    def at(step: int) -> Batch:
        """Return the batch of ``step``."""
        chosen = order.at(step)
        return data.images[chosen], one_hot[data.labels[chosen]]

    return Batches(at, data.class_counts().astype(np.float64))


def soft_counts(labels: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return float64 ``[K]``: how many images of each class ``labels [N, K]`` come to, a soft label by its parts.

    A class that is no label's first choice was not met: what labels leave over for it would make it a very rare one.
    """
    met = np.bincount(labels.argmax(axis=1), minlength=labels.shape[1]) > 0
    return labels.sum(axis=0, dtype=np.float64) * met


def log_shares(counts: NDArray[np.floating], power: float) -> Tensor:
    """Return float32 ``[..., K]``: what classes of ``counts [..., K]`` images add to logits behind them.

    These are the logarithms of their shares to a power (Menon et al. 2021, equation 10; 0 adds nothing). To a class
    that was not met nothing is added, so that training keeps it down: it must not be named for never having been met.
    """
    shares = np.where(counts > 0, counts / counts.sum(axis=-1, keepdims=True), 1.0)
    return torch.from_numpy(power * np.log(shares)).float()


def sgd(model: nn.Module, config: ClassifierConfig) -> torch.optim.SGD:
    """Nesterov SGD, weight decay on matrices and kernels only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=config.lr, momentum=MOMENTUM, nesterov=True, fused=True)


class ClassifierTraining:
    """A classifier on its way: advance it by steps, read it at any time.

    With ``config.logit_adjustment`` it is trained behind the class shares of its images (:func:`log_shares`), and at a
    power of 1 knows none by itself: what is rare is not called by a common class's name for that.

    Args:
        model: the classifier, on any device.
        config: optimisation and augmentation; ``config.steps`` is the end of the schedule.
        batches: images and targets of each step.
        job: runtime, mirror images and the seed of augmentation and MixUp.
        factor: of the learning rate at a step; by default a half cosine after a short warm-up.
    """

    def __init__(
        self,
        model: nn.Module,
        config: ClassifierConfig,
        batches: Batches,
        job: Job,
        factor: Callable[[int], float] | None = None,
    ) -> None:
        self.model = job.runtime.place(model)
        self.config, self.batches, self.job = config, batches, job
        self.log_shares = log_shares(batches.counts, config.logit_adjustment).to(job.runtime.device)
        self.launch = OneLaunch(self.model, job.runtime)
        warmup = int(WARMUP_SHARE * config.steps)
        schedule = factor or (lambda step: cosine(step, config.steps, warmup))
        self.training = Training(self.model, sgd(self.model, config), schedule, job.runtime)

    def advance(self, until: int, stage: str) -> None:
        """Train up to step ``until``."""
        self.training.advance(self._loss_at, until, self.job.progress, stage, total=self.config.steps)

    def targets(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return what the model learns for the augmented ``inputs [B, C, H, W]``: by default ``labels [B, K]``."""
        return labels

    def logits_as_met(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 ``[N, K]`` of uint8 ``images [N, H, W, C]``, where classes are as common as in training."""
        return predict_logits(self.model, images, self.job.runtime) + self.log_shares.cpu().numpy()

    def penalty(self) -> Tensor | None:
        """Return what is added to the loss, a scalar; by default nothing."""
        return None

    def _loss_at(self, step: int) -> Tensor:
        images, targets = self.batches(step)
        config, job = self.config, self.job
        inputs = to_model_input(job.runtime.send(torch.from_numpy(images)))
        labels = job.runtime.send(torch.from_numpy(targets)).float()
        inputs = augment(inputs, config.augment, job.flip, torch_rng(*job.seed, "augment", step))
        if config.mixup:
            inputs, labels = mix(inputs, labels, config.mixup, step, job.seed)
        labels = self.targets(inputs, labels)
        if config.label_smoothing:
            labels = labels.lerp(torch.full_like(labels, 1 / labels.shape[1]), config.label_smoothing)
        loss = soft_label_loss(self.launch(inputs) + self.log_shares, labels, getattr(config, "loss", "cross_entropy"))
        penalty = self.penalty()
        return loss if penalty is None else loss + penalty


def soft_label_loss(logits: Tensor, labels: Tensor, kind: str) -> Tensor:
    """Cross-entropy, or KL divergence, of ``logits [B, K]`` from ``labels [B, K]``, mean over the batch.

    The two differ by the labels' entropy: the gradients are the same, the value of KL is 0 at the optimum.
    """
    log_probabilities = F.log_softmax(logits.float(), dim=1)
    if kind == "kl":
        return F.kl_div(log_probabilities, labels, reduction="batchmean")
    return -(labels * log_probabilities).sum(dim=1).mean()


def mix(inputs: Tensor, labels: Tensor, alpha: float, step: int, seed: Seed) -> tuple[Tensor, Tensor]:
    """MixUp (Zhang et al. 2018): convex pairs with a weight drawn from Beta(alpha, alpha)."""
    weight = float(numpy_rng(*seed, "mixup", step).beta(alpha, alpha))
    return inputs.lerp(inputs.flip(0), 1 - weight), labels.lerp(labels.flip(0), 1 - weight)


def train_classifier(model: nn.Module, config: ClassifierConfig, batches: Batches, job: Job, stage: str) -> nn.Module:
    """Train a classifier for ``config.steps`` steps; return it in evaluation mode."""
    work = ClassifierTraining(model, config, batches, job)
    work.advance(config.steps, stage)
    job.progress.finish(stage)
    return work.model.eval()


def train_on_real(config: ClassifierConfig, data: ImageSet, job: Job, stage: str) -> nn.Module:
    """Train a classifier on real images with their hard labels, untuned: a model to audit or to compare with."""
    model = build_classifier(config, Shape.of(data), derive_seed(*job.seed))
    return train_classifier(model, config, real_batches(data, config.batch, *job.seed), job, stage)
