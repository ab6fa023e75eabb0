"""The one training loop: schedule, moving average, progress, and a state that can be saved and continued."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fedkr.errors import UserError
from fedkr.learning.runtime import Runtime
from fedkr.progress import Progress

CHECK_EVERY = 25


class DivergedError(UserError):
    """Training produced NaN or infinity: the message says where and what to change."""


def cosine(step: int, steps: int, warmup: int = 0) -> float:
    """Return the learning-rate factor of a half-cosine decay after a linear warm-up of ``warmup`` steps."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def flat_warmup(step: int, steps: int, decay: float, warmup: int = 50) -> float:
    """Return the factor of a linear warm-up, then flat, then a linear decay over the last share ``decay`` of steps."""
    return min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / (decay * steps)))


@dataclass(frozen=True)
class Average:
    """An exponential moving average of the weights: its decay, and the step up to which it is a copy of them."""

    decay: float
    start: int = 0


class Training:
    """A model, its optimiser and an optional moving average of its weights, advanced step by step."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        factor: Callable[[int], float],
        runtime: Runtime,
        average: Average | None = None,
        clip: float | None = None,
    ) -> None:
        self.model, self.optimizer, self.factor, self.runtime = model, optimizer, factor, runtime
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.averaging, self.clip, self.step = average, clip, 0
        # The model's own memory, asked for once: collecting it anew takes longer than a small network's step on a GPU.
        state = model.state_dict() if average else {}
        self.average = {k: v.detach().clone() for k, v in state.items()}
        floats = [k for k, v in state.items() if v.is_floating_point()]
        self._averaged = [self.average[k] for k in floats], [state[k] for k in floats]

    def advance(
        self, loss_at: Callable[[int], Tensor], until: int, progress: Progress, stage: str, total: int | None = None
    ) -> None:
        """Train from the current step to step ``until``, the last one unless there are ``total``.

        ``loss_at`` gives the loss (a scalar tensor) at a step; all its randomness must come from the step's number.
        ``progress`` shows the work as ``stage``.

        Raises:
            DivergedError: the loss is NaN or infinite.
        """
        self.model.train()
        while self.step < until:
            loss = self.take_step(loss_at)
            self.tell(loss, progress, stage, total or until, last=self.step == until)

    def take_step(self, loss_at: Callable[[int], Tensor]) -> Tensor:
        """Take one optimisation step and return its loss, unchecked: for networks that are trained in turn.

        Nothing of the step's graph outlives it, as the capture of the next one would trip over it
        (:mod:`fedkr.learning.one_launch`).
        """
        with self.runtime.autocast():
            loss = loss_at(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.apply_gradients()
        return loss.detach()

    def apply_gradients(self) -> None:
        """End a step by the gradients that the parameters have."""
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * self.factor(self.step)
        self.optimizer.step()
        self.step += 1
        if self.averaging is not None:
            self._update_average(self.averaging)

    def _update_average(self, averaging: Average) -> None:
        # The ramp lets early checkpoints forget the random initial weights; up to its start the average is a copy.
        decay = min(averaging.decay, (1 + self.step) / (10 + self.step)) if self.step > averaging.start else 0.0
        averages, weights = self._averaged
        get_ema_multi_avg_fn(decay)(averages, weights, self.step)

    def tell(self, loss: Tensor, progress: Progress, stage: str, total: int, last: bool) -> None:
        """Report the step just taken; now and then, and at the ``last``, its loss (:class:`DivergedError` for NaN)."""
        if not last and self.step % CHECK_EVERY:
            progress.update(stage, self.step, total)
            return
        value = float(loss)
        if not math.isfinite(value):
            # Not the rate of this step: the option is what can be lowered.
            lr = self.base_lrs[0]
            raise DivergedError(f"{stage}: the loss is {value} at step {self.step}; lower its lr (now {lr:g})")
        progress.update(stage, self.step, total, loss=value)

    def state(self) -> dict[str, Tensor]:
        """Return model, average and optimiser as flat tensors, to be stored and given to :meth:`restore`."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
        # Copies: training goes on in place.
        return {name: value.detach().clone() for name, value in tensors.items()}

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Continue where :meth:`state` was taken, bit by bit."""
        self.model.load_state_dict(under("model.", tensors))
        for name, value in under("average.", tensors).items():
            self.average[name].copy_(value)
        state: dict[int, dict[str, Tensor]] = {}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for name, value in under("optimizer.", tensors).items():
            index, key = name.split(".", 1)
            parameter = parameters[int(index)]
            # Fused optimisers read moments in the parameter's own memory order, which a file does not keep.
            state.setdefault(int(index), {})[key] = (
                torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.clone()
            )
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.step = step


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
