"""Two networks trained against each other with the hinge loss, as one training that can be saved and continued."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedkr.learning.training import Training
from fedkr.progress import Progress

Loss = Callable[[int], Tensor]
DRAWS, JUDGES = "generator.", "discriminator."


class AdversarialTraining:
    """A generator and a discriminator: one step is ``d_steps`` steps of the latter, then one of the former."""

    def __init__(self, generator: Training, discriminator: Training, d_steps: int) -> None:
        self.generator, self.discriminator, self.d_steps = generator, discriminator, d_steps

    @property
    def step(self) -> int:
        """Steps that the generator has taken."""
        return self.generator.step

    def advance(
        self, generator_loss: Loss, discriminator_loss: Loss, until: int, progress: Progress, stage: str, total: int
    ) -> None:
        """Train up to the generator's step ``until``; each loss gets the step of its own network.

        Raises:
            DivergedError: the generator's loss is NaN or infinite, as it is where the discriminator's was.
        """
        self.generator.model.train()
        self.discriminator.model.train()
        while self.step < until:
            for _ in range(self.d_steps):
                self.discriminator.take_step(discriminator_loss)
            with frozen(self.discriminator.model):
                loss = self.generator.take_step(generator_loss)
            self.generator.tell(loss, progress, stage, total, last=self.step == until)

    def state(self) -> dict[str, Tensor]:
        """Return both trainings as flat tensors, to be stored and given to :meth:`restore`."""
        tensors = {DRAWS + name: value for name, value in self.generator.state().items()}
        return tensors | {JUDGES + name: value for name, value in self.discriminator.state().items()}

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Continue where :meth:`state` was taken, bit by bit."""
        for prefix, training, own in ((DRAWS, self.generator, step), (JUDGES, self.discriminator, step * self.d_steps)):
            part = {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
            training.restore(part, own)


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
