"""Training a classifier on images with soft or hard labels: the same recipe for every model in the comparison."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedkr.config import ClassifierConfig
from fedkr.data.images import ImageSet
from fedkr.learning.augment import augment
from fedkr.learning.batches import BatchOrder
from fedkr.learning.models import build_classifier
from fedkr.learning.training import Runtime, Training, cosine, to_model_input
from fedkr.progress import Progress
from fedkr.seeds import derive_seed, numpy_rng, torch_rng

MOMENTUM = 0.9
WARMUP_SHARE = 0.05

Batch = tuple[NDArray[np.uint8], NDArray[np.floating]]
BatchSource = Callable[[int], Batch]


def real_batches(data: ImageSet, batch: int, *seed: object) -> BatchSource:
    """Return a function from a step to uint8 images ``[B, H, W, C]`` and one-hot labels ``[B, K]`` of real data."""
    order, one_hot = BatchOrder(len(data), batch, *seed), np.eye(len(data.classes), dtype=np.float32)

    def at(step: int) -> Batch:
        """Return the batch of ``step``."""
        chosen = order.at(step)
        return data.images[chosen], one_hot[data.labels[chosen]]

    return at


def sgd(model: nn.Module, config: ClassifierConfig) -> torch.optim.SGD:
    """Nesterov SGD, weight decay on matrices and kernels only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=config.lr, momentum=MOMENTUM, nesterov=True, fused=True)


class ClassifierTraining:
    """A classifier on its way: advance it by steps, read it at any time."""

    def __init__(
        self,
        model: nn.Module,
        config: ClassifierConfig,
        batches: BatchSource,
        *,
        flip: str,
        runtime: Runtime,
        seed: tuple[object, ...],
        factor: Callable[[int], float] | None = None,
        proximal: float = 0.0,
        relabel: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.model = runtime.place(model)
        self.config, self.batches, self.flip, self.runtime, self.seed = config, batches, flip, runtime, seed
        warmup = int(WARMUP_SHARE * config.steps)
        schedule = factor or (lambda step: cosine(step, config.steps, warmup))
        self.training = Training(self.model, sgd(self.model, config), schedule, runtime)
        self.proximal, self.relabel = proximal, relabel
        self.anchor = [p.detach().clone() for p in self.model.parameters()] if proximal else []

    def advance(self, until: int, progress: Progress, stage: str) -> None:
        """Train up to step ``until``."""
        self.training.advance(self._loss_at, until, progress, stage, total=self.config.steps)

    def _loss_at(self, step: int) -> Tensor:
        images, targets = self.batches(step)
        inputs = to_model_input(torch.from_numpy(images).to(self.runtime.device))
        labels = torch.from_numpy(targets).to(self.runtime.device).float()
        inputs = augment(inputs, self.config.augment, self.flip, torch_rng(*self.seed, "augment", step))
        if self.config.mixup:
            inputs, labels = mix(inputs, labels, self.config.mixup, step, self.seed)
        if self.relabel is not None:
            # Asked about the very images that the student sees, mixed ones too (Beyer et al. 2022).
            labels = self.relabel(inputs)
        if self.config.label_smoothing:
            labels = labels.lerp(torch.full_like(labels, 1 / labels.shape[1]), self.config.label_smoothing)
        loss = soft_label_loss(self.model(inputs), labels, getattr(self.config, "loss", "cross_entropy"))
        return loss + self._proximal_term() if self.proximal else loss

    def _proximal_term(self) -> Tensor:
        """FedProx (Li et al. 2020): mu/2 times the squared distance from the weights that training started with."""
        pairs = zip(self.model.parameters(), self.anchor, strict=True)
        return 0.5 * self.proximal * torch.stack([(p - a).square().sum() for p, a in pairs]).sum()


def soft_label_loss(logits: Tensor, labels: Tensor, kind: str) -> Tensor:
    """Cross-entropy, or KL divergence, of ``logits [B, K]`` from ``labels [B, K]``, mean over the batch.

    The two differ by the labels' entropy: the gradients are the same, the value of KL is 0 at the optimum.
    """
    log_probabilities = F.log_softmax(logits.float(), dim=1)
    if kind == "kl":
        return F.kl_div(log_probabilities, labels, reduction="batchmean")
    return -(labels * log_probabilities).sum(dim=1).mean()


def mix(inputs: Tensor, labels: Tensor, alpha: float, step: int, seed: tuple[object, ...]) -> tuple[Tensor, Tensor]:
    """MixUp (Zhang et al. 2018): convex pairs with a weight drawn from Beta(alpha, alpha)."""
    weight = float(numpy_rng(*seed, "mixup", step).beta(alpha, alpha))
    return inputs.lerp(inputs.flip(0), 1 - weight), labels.lerp(labels.flip(0), 1 - weight)


def train_classifier(
    config: ClassifierConfig,
    batches: BatchSource,
    *,
    channels: int,
    size: int,
    classes: int,
    flip: str,
    runtime: Runtime,
    seed: tuple[object, ...],
    progress: Progress,
    stage: str,
) -> nn.Module:
    """Build a classifier from ``seed`` and train it for ``config.steps`` steps; return it in evaluation mode."""
    model = build_classifier(config, channels, size, classes, derive_seed(*seed))
    work = ClassifierTraining(model, config, batches, flip=flip, runtime=runtime, seed=seed)
    work.advance(config.steps, progress, stage)
    progress.finish(stage)
    return work.model.eval()


def train_on_real(
    config: ClassifierConfig,
    data: ImageSet,
    *,
    flip: str,
    runtime: Runtime,
    seed: tuple[object, ...],
    progress: Progress,
    stage: str,
) -> nn.Module:
    """Train a classifier on real images with their hard labels: a site's own model, or the centralised one."""
    batches = real_batches(data, config.batch, *seed)
    shape = {"channels": data.channels, "size": data.size, "classes": len(data.classes)}
    return train_classifier(
        config, batches, **shape, flip=flip, runtime=runtime, seed=seed, progress=progress, stage=stage
    )
