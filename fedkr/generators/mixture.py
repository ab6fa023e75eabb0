"""``mixture``: generators of other seeds or kinds that draw equal shares, GaFi's MultiGAN and KR's "more Generators".

The members train in turn, each from one checkpoint to its next, so that every checkpoint of the mixture holds the
corresponding ones of its members and a restart continues at the last that all had reached.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from fedkr.config import Count, at_most, no_longer_than
from fedkr.data.images import ImageSet
from fedkr.generators.base import Knobs, Task, firmer_knobs, generator_for
from fedkr.generators.checkpointed import STAGE
from fedkr.learning.job import Job
from fedkr.learning.training import DivergedError
from fedkr.progress import Progress
from fedkr.stages import Artifact

SAMPLE_BATCH = 256


@dataclass
class MemberOptions:
    """One generator of a mixture."""

    kind: str = "edm"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Options:
    """Options of ``mixture``: either ``copies`` of one kind, or ``members`` one by one."""

    kind: str = "edm"
    copies: Annotated[Count, at_most(16)] = 3
    options: dict[str, Any] = field(default_factory=dict)
    members: Annotated[list[MemberOptions], no_longer_than(16)] = field(default_factory=list)


class Generator:
    """Mixture of generators; see :class:`fedkr.generators.base.Generator`."""

    def __init__(self, task: Task, options: Options) -> None:
        where = f"{task.where}.options"
        copy = (where, MemberOptions(options.kind, options.options))
        listed = [(f"{where}.members[{i}]", member) for i, member in enumerate(options.members)]
        self.members = [
            generator_for(replace(task, config=replace(task.config, **vars(member)), where=place))
            for place, member in listed or [copy] * options.copies
        ]

    def fit(self, data: ImageSet, job: Job, save: Callable[[int, Artifact], None], state: Artifact | None) -> None:
        """Train every member with a seed of its own; ``save`` gets the members' corresponding checkpoints as one."""
        states: list[Artifact | None] = [None] * len(self.members) if state is None else [*split(state)]
        done = [0] * len(self.members)
        jobs = [
            replace(job.seeded("member", i), progress=MemberProgress(job.progress, done, i)) for i in range(len(done))
        ]
        while True:
            reached = [self._to_next_checkpoint(i, data, own, states[i]) for i, own in enumerate(jobs)]
            if not any(reached):
                break
            # A member with fewer checkpoints than others stays at its last.
            states = [new or old for new, old in zip(reached, states, strict=True)]
            together = combine([artifact for artifact in states if artifact is not None])
            save(together.info["step"], together)
        job.progress.finish(STAGE)

    def _to_next_checkpoint(self, index: int, data: ImageSet, job: Job, state: Artifact | None) -> Artifact | None:
        """Train a member from ``state`` to its next checkpoint; return that, or None where it was at its end."""

        def stop(step: int, artifact: Artifact) -> None:
            raise _CheckpointReached(Artifact(artifact.tensors, artifact.info | {"step": step}))

        try:
            self.members[index].fit(data, job, stop, state)
        except _CheckpointReached as reached:
            return reached.artifact
        except DivergedError as error:
            raise DivergedError(f"member {index + 1} of {len(self.members)}: {error}") from None
        return None

    def load(self, artifact: Artifact) -> None:
        """Take the weights of all members."""
        for member, part in zip(self.members, split(artifact), strict=True):
            member.load(part)

    def prune(self, artifact: Artifact) -> Artifact:
        """Keep what the members keep."""
        return combine([m.prune(part) for m, part in zip(self.members, split(artifact), strict=True)])

    def default_knobs(self) -> Knobs:
        """The members' knobs; one that several have is shared, with the first one's default."""
        return {name: v for member in reversed(self.members) for name, v in member.default_knobs().items()}

    def knob_candidates(self) -> list[Knobs]:
        """The members' candidates in turn, each kind's on the others' defaults."""
        default, seen = self.default_knobs(), list[Knobs]()
        for turn in itertools.zip_longest(*(member.knob_candidates() for member in self.members)):
            for knobs in turn:
                if knobs is not None and default | knobs not in seen:
                    seen.append(default | knobs)
        return seen

    def firmer_knobs(self, knobs: Knobs) -> Knobs:
        """The members' firmer knobs, the first one's of those that several have; what one member keeps, all keep."""
        firmer, kept = Knobs(), set[str]()
        for member in reversed(self.members):
            own = {name: knobs.get(name, default) for name, default in member.default_knobs().items()}
            changed = own | firmer_knobs(member, own)
            firmer |= changed
            kept |= {name for name, value in own.items() if changed[name] == value}
        return knobs | {name: value for name, value in firmer.items() if name not in kept}

    def sample(self, labels: NDArray[np.int64], knobs: Knobs, *seed: object) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 ``[B, H, W, C]`` for ``labels``, each image by the member that :func:`shares` names."""
        owners = shares(labels, len(self.members))
        streams = []
        for index, member in enumerate(self.members):
            own = {name: knobs.get(name, default) for name, default in member.default_knobs().items()}
            streams.append(Stream(member.sample(labels[owners == index], own, *seed, "member", index)))
        for start in range(0, len(labels), SAMPLE_BATCH):
            window = owners[start : start + SAMPLE_BATCH]
            parts = {int(i): streams[i].take(int((window == i).sum())) for i in np.unique(window)}
            first = next(iter(parts.values()))
            batch = np.empty((len(window), *first.shape[1:]), np.uint8)
            for index, part in parts.items():
                batch[window == index] = part
            yield batch


class Stream:
    """A member's batches, taken in portions of any size; at most one batch more than a portion is held."""

    def __init__(self, batches: Iterator[NDArray[np.uint8]]) -> None:
        self.batches, self.held = batches, 0
        self.parts: list[NDArray[np.uint8]] = []

    def take(self, count: int) -> NDArray[np.uint8]:
        """Return the next ``count`` images, which must be there."""
        while self.held < count:
            batch = next(self.batches)
            self.parts.append(batch)
            self.held += len(batch)
        whole = np.concatenate(self.parts)
        self.parts, self.held = [whole[count:].copy()], self.held - count
        return whole[:count]


class MemberProgress(Progress):
    """Shows the members' steps, ``done``, as one stage: rate and ETA are those of the whole mixture."""

    def __init__(self, progress: Progress, done: list[int], index: int) -> None:
        self.progress, self.done, self.index = progress, done, index

    def update(self, stage: str, done: int, total: int, unit: str = "step", **numbers: float) -> None:
        """Report the sum of what all members have done."""
        self.done[self.index] = done
        self.progress.update(stage, sum(self.done), total * len(self.done), unit, **numbers)

    def finish(self, stage: str) -> None:
        """Do nothing: the stage is over when all members are."""


class _CheckpointReached(Exception):  # noqa: N818  (no error: how a member's fit is left where it can be continued)
    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact


def shares(labels: NDArray[np.int64], members: int) -> NDArray[np.int64]:
    """Return int64 ``[N]``: the member that draws each image, equally many for each, in each class too."""
    owners = np.empty(len(labels), np.int64)
    owners[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % members
    return owners


def combine(parts: list[Artifact]) -> Artifact:
    """Return the members' artifacts as one, at the step that all have reached."""
    tensors = {f"{i}.{name}": value for i, part in enumerate(parts) for name, value in part.tensors.items()}
    return Artifact(tensors, {"step": min(p.info["step"] for p in parts), "members": [p.info for p in parts]})


def split(artifact: Artifact) -> list[Artifact]:
    """Undo :func:`combine`."""
    parts = [Artifact({}, info) for info in artifact.info["members"]]
    for name, value in artifact.tensors.items():
        index, inner = name.split(".", 1)
        parts[int(index)].tensors[inner] = value
    return parts
