"""A site's rounds of weight sharing, as the server saw them: what is kept of them, and how they are attacked together.

Of each kept round there are two models: the one that the site was sent (``before``) and the one that it sent back
(``after``). A server that keeps every round is not held to the last one (Zari et al. 2021; FedMIA, Zhu et al. 2025):
what a site's images leave behind is in all of them, and their chance differences are not the same. FedMIA compares a
site's update with those of the others, which may not go to another site; the model before it takes their place here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedkr.errors import UserError

# So many rounds are kept, evenly spaced; each costs a site two models to ask.
MOST_ROUNDS = 8
BEFORE, AFTER = ROLES = ("before", "after")
_NAME = re.compile(rf"([1-9]\d{{0,5}})\.({'|'.join(ROLES)})\.(.+)")

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class SeenRound:
    """The weights that a site was sent in a round, and those that it sent back."""

    before: Weights
    after: Weights


def spaced(numbers: Sequence[int], most: int = MOST_ROUNDS) -> list[int]:
    """Return at most so many of the ``numbers``, evenly spaced, the last one among them."""
    places = np.linspace(0, len(numbers) - 1, min(most, len(numbers)))
    return [numbers[round(place)] for place in places]


def packed(rounds: Mapping[int, SeenRound]) -> dict[str, Tensor]:
    """Return rounds by their number as one set of named tensors, to be stored or sent."""
    return {
        f"{number}.{role}.{name}": tensor
        for number, both in rounds.items()
        for role in ROLES
        for name, tensor in getattr(both, role).items()
    }


def unpacked(tensors: Weights) -> list[SeenRound]:
    """Return the rounds that :func:`packed` wrote, the first one first; their weights are not checked.

    Raises:
        UserError: no round, more than :data:`MOST_ROUNDS`, a name of another kind, or a round with one model only.
    """
    found: dict[int, dict[str, dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        if not (parts := _NAME.fullmatch(name)):
            raise UserError(f"rounds: {name[:80]!a} names no tensor of a round's models")
        found.setdefault(int(parts[1]), {}).setdefault(parts[2], {})[parts[3]] = tensor
        if len(found) > MOST_ROUNDS:
            raise UserError(f"rounds: more than {MOST_ROUNDS} are not attacked together")
    if not found or any(len(roles) < len(ROLES) for roles in found.values()):
        raise UserError("rounds: each has a model before it and one after it, and there is one at least")
    return [SeenRound(**found[number]) for number in sorted(found)]


class Pool(nn.Module):
    """Several classifiers as one, whose logits are the mean of theirs (a log-linear pool, Genest & Zidek 1986).

    In the log-odds of a class that is nearly the mean over the classifiers, which no single round outweighs by an odd
    loss. An image's answer depends on that image alone, as any one model's does.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[N, K]`` for images ``[N, C, H, W]``."""
        return torch.stack([model(images) for model in self.models]).mean(dim=0)


class PooledRounds(Pool):
    """The pool of what a site sent back, with that of what it was sent beside it as ``before``."""

    def __init__(self, before: Sequence[nn.Module], after: Sequence[nn.Module]) -> None:
        super().__init__(after)
        self.before = Pool(before)
