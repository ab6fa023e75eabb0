"""Two networks trained against each other with the hinge loss, as one training that can be saved and continued."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedkr.generators.checkpointed import STAGE
from fedkr.learning.training import Training, under
from fedkr.progress import Progress

DRAWS, JUDGES = "generator.", "discriminator."


class AdversarialWork(ABC):
    """The :class:`~fedkr.generators.checkpointed.Work` of two networks.

    One step is ``d_steps`` steps of the discriminator, then one of the generator, whose last step is ``steps``.
    """

    def __init__(self, generator: Training, discriminator: Training, d_steps: int, steps: int) -> None:
        self.generator, self.discriminator = generator, discriminator
        self.d_steps, self.steps = d_steps, steps

    @abstractmethod
    def generator_loss(self, step: int) -> Tensor:
        """Return the loss of the generator at a step of its own; all randomness must come from the step's number."""

    @abstractmethod
    def discriminator_loss(self, step: int) -> Tensor:
        """Return the loss of the discriminator, alike."""

    @property
    def step(self) -> int:
        """Steps that the generator has taken."""
        return self.generator.step

    def advance(self, until: int, progress: Progress) -> None:
        """Train up to the generator's step ``until``.

        Raises:
            DivergedError: the generator's loss is NaN or infinite, as it is where the discriminator's was.
        """
        self.generator.model.train()
        self.discriminator.model.train()
        while self.step < until:
            for _ in range(self.d_steps):
                self.discriminator.take_step(self.discriminator_loss)
            with frozen(self.discriminator.model):
                loss = self.generator.take_step(self.generator_loss)
            self.generator.tell(loss, progress, STAGE, self.steps, last=self.step == until)

    def state(self) -> dict[str, Tensor]:
        """Return both trainings as flat tensors, to be stored and given to :meth:`restore`."""
        tensors = {DRAWS + name: value for name, value in self.generator.state().items()}
        return tensors | {JUDGES + name: value for name, value in self.discriminator.state().items()}

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Continue where :meth:`state` was taken, bit by bit."""
        self.generator.restore(under(DRAWS, tensors), step)
        self.discriminator.restore(under(JUDGES, tensors), step * self.d_steps)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Compute no gradients for the weights of ``model``, only through it."""
    model.requires_grad_(False)
    try:
        yield
    finally:
        model.requires_grad_(True)


def discriminator_hinge(real: Tensor, drawn: Tensor) -> Tensor:
    """Return the discriminator's hinge loss of scores ``[N]``: real above 1, drawn below -1 (Lim & Ye 2017)."""
    return F.relu(1 - real).mean() + F.relu(1 + drawn).mean()


def generator_hinge(drawn: Tensor) -> Tensor:
    """Return the generator's loss: the negative mean score of what it draws."""
    return -torch.mean(drawn)
