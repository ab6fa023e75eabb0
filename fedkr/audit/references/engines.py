"""Two ways of training reference models by the target's own recipe: one by one, or as one stacked network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedkr.config import ClassifierConfig, StudentConfig
from fedkr.data.images import Shape
from fedkr.fingerprint import array_digest
from fedkr.learning.augment import augment
from fedkr.learning.batches import BatchOrder
from fedkr.learning.classifier import WARMUP_SHARE, Batch, Batches, log_shares, sgd, soft_counts, train_classifier
from fedkr.learning.job import Job
from fedkr.learning.models import build_classifier, build_student
from fedkr.learning.models.resnet import SmallResNet
from fedkr.learning.models.stacked import Stack, saved_bytes, unstack
from fedkr.learning.one_launch import OneLaunch
from fedkr.learning.prediction import to_model_input
from fedkr.learning.training import DivergedError, Training, cosine
from fedkr.progress import Progress
from fedkr.seeds import derive_seed, numpy_rng, torch_rng


@dataclass(frozen=True)
class ReferenceTask:
    """What the reference models of one audit share, and which images each of them trains on.

    Attributes:
        config: the recipe; ``config.steps`` steps each.
        images: uint8 ``[P, H, W, C]``, of all models together: the candidates come first.
        targets: float32 ``[P, K]``, one-hot or soft.
        membership: bool ``[M, N]``: which candidates each model trains on.
        chosen: for each model, int64 indices into ``images``.
        job: where and how they are trained; model m adds ``("reference", m)`` to the seed.
    """

    config: ClassifierConfig
    images: NDArray[np.uint8]
    targets: NDArray[np.float32]
    membership: NDArray[np.bool_]
    chosen: tuple[NDArray[np.int64], ...]
    job: Job

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def shape(self) -> Shape:
        """Channels, size and classes, as classifiers are built by."""
        return Shape.of_soft(self.images, self.targets)

    def depends(self) -> dict[str, Any]:
        """Return all that every model depends on, as a stage's key."""
        return {
            "recipe": dataclasses.asdict(self.config),
            "images": array_digest([self.images, self.targets]),
            "reference_seed": list(self.job.seed),
            **self.job.describe(),
        }

    @property
    def stackable(self) -> bool:
        """Whether the architecture is one whose layers leave a GPU idle: the larger ones are trained one by one."""
        return isinstance(self.fresh(0), SmallResNet)

    def job_of(self, index: int) -> Job:
        """Return the job of one model."""
        return self.job.seeded("reference", index)

    def counts(self, index: int) -> NDArray[np.float64]:
        """Return float64 ``[K]``: how many images of each class a model trains on."""
        return soft_counts(self.targets[self.chosen[index]])

    def fresh(self, index: int) -> nn.Module:
        """Build one model with its first weights."""
        seed = derive_seed(*self.job_of(index).seed)
        if isinstance(self.config, StudentConfig):
            return build_student(self.config, self.shape, seed)
        return build_classifier(self.config, self.shape, seed)

    def bytes_a_model(self, convolution: str) -> int:
        """Return the memory that training one model of a stack takes for its activations."""
        shape = self.shape
        inputs = (self.config.batch, shape.channels, shape.size, shape.size)
        return saved_bytes(Stack([self.fresh(0)], convolution), inputs)


def train_alone(task: ReferenceTask, index: int, progress: Progress) -> nn.Module:
    """Train one reference model exactly as a classifier under audit is trained; return it in evaluation mode.

    A loss that is not finite is a :class:`DivergedError` that names the model.
    """
    own, job = task.chosen[index], replace(task.job_of(index), progress=progress)
    order = BatchOrder(len(own), task.config.batch, *job.seed)

    def at(step: int) -> Batch:
        rows = own[order.at(step)]
        return task.images[rows], task.targets[rows]

    batches = Batches(at, task.counts(index))
    return train_classifier(task.fresh(index), task.config, batches, job, f"reference model {index}")


class StackedTraining:
    """Reference models trained together: each sees the batches, and starts from the weights, that it would alone.

    Augmentation and MixUp are drawn for every image and every model, but from one generator for the whole stack: a
    generator a model would cost more on the host than the step costs on a GPU. With neither, the models are those of
    :func:`train_alone` up to rounding.
    """

    def __init__(self, task: ReferenceTask, indices: Sequence[int], convolution: str = "grouped") -> None:
        self.task, self.indices, config = task, indices, task.config
        self.models = [task.fresh(index) for index in indices]
        self.stacked = Stack(self.models, convolution)
        task.job.runtime.place(self.stacked)
        self.launch = OneLaunch(self.stacked, task.job.runtime)
        warmup = int(WARMUP_SHARE * config.steps)
        self.training = Training(
            self.stacked, sgd(self.stacked, config), lambda step: cosine(step, config.steps, warmup), task.job.runtime
        )
        self.losses = torch.zeros(len(indices))
        device = task.job.runtime.device
        # Once, whole: a step then sends the device nothing but its random numbers.
        self.images = torch.tensor(task.images, device=device)
        self.targets = torch.tensor(task.targets, device=device)
        self.rows = torch.from_numpy(self._rows()).to(device)
        counts = np.stack([task.counts(index) for index in indices])
        self.log_shares = log_shares(counts, config.logit_adjustment).to(device)

    def _rows(self) -> NDArray[np.int64]:
        """Return ``[steps, B, M]``: which images each model sees at each step."""
        steps, batch, task = self.task.config.steps, self.task.config.batch, self.task
        orders = [
            task.chosen[m][BatchOrder(len(task.chosen[m]), steps * batch, *task.job_of(m).seed).at(0)]
            for m in self.indices
        ]
        return np.stack(orders, axis=1).reshape(steps, batch, len(self.indices))

    def advance(self, until: int, progress: Progress, stage: str) -> None:
        """Train all models up to step ``until``; raise a :class:`DivergedError` that names one whose loss diverges."""
        try:
            self.training.advance(self._loss_at, until, progress, stage, total=self.task.config.steps)
        except DivergedError as error:
            which = int((~torch.isfinite(self.losses)).nonzero()[0])
            raise DivergedError(f"reference model {self.indices[which]}, among {error}") from None

    def finished(self) -> list[nn.Module]:
        """Return the models, on the device and in evaluation mode, with the weights reached."""
        unstack(self.stacked, self.models)
        return [self.task.job.runtime.place(model).eval() for model in self.models]

    def _loss_at(self, step: int) -> Tensor:
        config, models = self.task.config, len(self.indices)
        rows = self.rows[step].flatten()
        inputs, labels = to_model_input(self.images[rows]), self.targets[rows]
        inputs = augment(inputs, config.augment, self.task.job.flip, torch_rng(*self._seed, "augment", step))
        inputs, labels = inputs.unflatten(0, (-1, models)), labels.unflatten(0, (-1, models))
        if config.mixup:
            inputs, labels = self._mix(inputs, labels, step)
        if config.label_smoothing:
            labels = labels.lerp(torch.full_like(labels, 1 / labels.shape[2]), config.label_smoothing)
        logits = self.launch(inputs.flatten(1, 2).contiguous(memory_format=torch.channels_last))
        # KL divergence, another recipe's loss, differs by the labels' entropy: the gradients are the same.
        losses = -(labels * (logits.float() + self.log_shares).log_softmax(2)).sum(2).mean(0)
        self.losses = losses.detach()
        return losses.sum()

    @property
    def _seed(self) -> tuple[object, ...]:
        return (*self.task.job.seed, "references", self.indices[0], len(self.indices))

    def _mix(self, inputs: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """MixUp of ``inputs [B, M, C, H, W]`` and ``labels [B, M, K]``, one weight a model."""
        alpha = self.task.config.mixup
        drawn = 1 - numpy_rng(*self._seed, "mixup", step).beta(alpha, alpha, len(self.indices))
        weight = torch.from_numpy(drawn).to(labels)[None, :, None]
        return inputs.lerp(inputs.flip(0), weight[..., None, None]), labels.lerp(labels.flip(0), weight)
