"""The part that trained generators share: train from checkpoint to checkpoint, continue, load and prune.

A generator that subclasses :class:`CheckpointedGenerator` says how it trains (:meth:`~CheckpointedGenerator.begin`),
how it draws, and which knobs it has; see :mod:`fedkr.generators.base` for the protocol.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Protocol

import numpy as np
from torch import Tensor, nn

from fedkr.config import Must
from fedkr.data.images import ImageSet
from fedkr.generators.base import Generator, Knobs, Task
from fedkr.learning.job import Job, Seed
from fedkr.learning.training import Training, under
from fedkr.progress import Progress
from fedkr.stages import Artifact

STAGE = "generator"
# Of a moving average of the weights.
Decay = Annotated[float, Must(lambda x: 0 < x < 1, "a decay between 0 and 1, such as 0.999")]


class Work(Protocol):
    """A training under way."""

    @property
    def step(self) -> int:
        """Steps taken."""

    def advance(self, until: int, progress: Progress) -> None:
        """Train up to step ``until``; raise :class:`fedkr.learning.training.DivergedError` on NaN or infinity."""

    def state(self) -> dict[str, Tensor]:
        """Return all that :meth:`restore` needs, copied; the weights that draw are under the generator's prefix."""

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Continue where :meth:`state` was taken, bit by bit."""


class CheckpointedGenerator(Generator):
    """A generator with one network ``net``, whose checkpoints are the states of one training.

    Attributes:
        prefix: of the names of the tensors that draw, in a checkpoint; all others only continue the training.
    """

    prefix = "average."

    def __init__(self, task: Task, options: Any) -> None:
        self.task, self.options = task, options
        self.net: nn.Module

    @abstractmethod
    def begin(self, data: ImageSet, seed: Seed) -> Work:
        """Return the training at step 0; all its randomness must come from ``seed`` and the step's number."""

    def knob_candidates(self) -> list[Knobs]:
        """Return the knob settings that tuning tries: the default alone, unless a generator has better."""
        return [self.default_knobs()]

    def fit(self, data: ImageSet, job: Job, save: Callable[[int, Artifact], None], state: Artifact | None) -> None:
        """Train on ``data`` and save ``checkpoints`` times; see :class:`fedkr.generators.base.Generator`."""
        config, device = self.task.config, self.task.runtime.device
        work = self.begin(data, job.seed)
        if state is not None:
            work.restore({k: v.to(device) for k, v in state.tensors.items()}, state.info["step"])
        for step in checkpoint_steps(config.steps, config.checkpoints):
            if step > work.step:
                work.advance(step, job.progress)
                save(step, Artifact(work.state(), {"step": step}))
        job.progress.finish(STAGE)

    def load(self, artifact: Artifact) -> None:
        """Take the weights of a checkpoint that draw."""
        self.net.load_state_dict(under(self.prefix, artifact.tensors))
        self.net.eval()

    def prune(self, artifact: Artifact) -> Artifact:
        """Keep the weights that draw only."""
        return Artifact({k: v for k, v in artifact.tensors.items() if k.startswith(self.prefix)}, artifact.info)


class LossWork:
    """The :class:`Work` of one network with one loss, which ``loss_at`` gives (a scalar tensor) at every step."""

    def __init__(self, training: Training, loss_at: Callable[[int], Tensor], steps: int) -> None:
        self.training, self.loss_at, self.steps = training, loss_at, steps
        self.state, self.restore = training.state, training.restore

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.training.step

    def advance(self, until: int, progress: Progress) -> None:
        """Train up to step ``until``."""
        self.training.advance(self.loss_at, until, progress, STAGE, total=self.steps)


def checkpoint_steps(steps: int, checkpoints: int) -> list[int]:
    """Return the steps at which a checkpoint is kept: evenly over the last two thirds, last step included."""
    first = steps / 3 if checkpoints > 1 else steps
    return sorted({math.ceil(s) for s in np.linspace(first, steps, checkpoints)})
