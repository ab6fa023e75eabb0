"""What every generator is: fitted on private images, kept as checkpoints, sampled with knobs.

A new generator is one module with a dataclass ``Options`` and a class ``Generator`` of this protocol, built from a
:class:`Task` and the options, and one YAML file that lists the options. Built-in kinds are modules of this package; a
kind with a dot is imported from anywhere. :class:`fedkr.generators.checkpointed.CheckpointedGenerator` has the parts
that a network with a loss need not write anew.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fedkr.config import GeneratorConfig, PrivacyConfig, check_values, one_of, read_dataclass
from fedkr.data.images import ImageSet, Shape
from fedkr.foreign import import_named, module_digest
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.stages import Artifact

Knobs = dict[str, float]
BUILT_IN = ("biggan_deep", "edm", "mixture", "moments")
README = "fedkr/generators/README.md"


@dataclass(frozen=True)
class Task:
    """What a generator is built for.

    Attributes:
        config: kind, options and budget.
        shape: of the images, and the number of classes, those without images among them.
        flip: the axes along which a mirrored image is as real: ``none``, ``horizontal`` or ``both``.
        runtime: device and precision.
        where: the option that holds ``config``, as errors name it.
        privacy: what is promised of all that the generator keeps of the images.
    """

    config: GeneratorConfig
    shape: Shape
    flip: str
    runtime: Runtime
    where: str = "generator"
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)


class Generator(Protocol):
    """A class-conditional image generator."""

    def fit(self, data: ImageSet, job: Job, save: Callable[[int, Artifact], None], state: Artifact | None) -> None:
        """Train on ``data`` and call ``save(step, artifact)`` at each checkpoint; ``job`` has seed and progress.

        The saved artifact must hold all that :meth:`load` and a later ``fit(state=...)`` need; a fit that is given
        the last one continues to the same weights, bit by bit.
        """

    def load(self, artifact: Artifact) -> None:
        """Take the weights of a checkpoint."""

    @abstractmethod
    def sample(self, labels: NDArray[np.int64], knobs: Knobs, *seed: object) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 batches ``[B, H, W, C]``, one image a label, in order; memory does not grow with their number."""

    @abstractmethod
    def default_knobs(self) -> Knobs:
        """Return the sampling knobs to start from."""

    def knob_candidates(self) -> list[Knobs]:
        """Return the knob settings that tuning tries, most promising first."""

    def prune(self, artifact: Artifact) -> Artifact:
        """Return a checkpoint without what only continued training needs."""


def build_generator(config: GeneratorConfig, shape: Shape, job: Job, privacy: PrivacyConfig | None = None) -> Generator:
    """Build the generator that ``config`` names; raise :class:`UserError` for an unknown kind or option."""
    return generator_for(Task(config, shape, job.flip, job.runtime, privacy=privacy or PrivacyConfig()))


def generator_for(task: Task) -> Generator:
    """Build the generator of a task; raise :class:`UserError` for an unknown kind or option."""
    config = task.config
    module = _load_module(config.kind, task.where)
    options = read_dataclass(module.Options, config.options, f"{task.where}.options")
    check_values(options, f"{task.where}.options")
    return cast(Generator, module.Generator(task, options))


def known_options() -> dict[str, list[Any]]:
    """Return the options of all built-in kinds, with the default that each kind has; MISSING where it is made anew."""
    found: dict[str, list[Any]] = {}
    for kind in BUILT_IN:
        for option in fields(_load_module(kind, "generator").Options):
            found.setdefault(option.name, []).append(option.default)
    return found


def firmer_knobs(generator: Generator, knobs: Knobs) -> Knobs:
    """Return knobs that draw nearer to the class asked for than ``knobs``, by the generator's method of this name.

    They are the same where there are none, or no such method, which a generator may leave out.
    """
    own = getattr(generator, "firmer_knobs", None)
    return knobs if own is None else cast(Knobs, own(knobs))


def may_draw_nearer(generator: Generator, knobs: Knobs) -> bool:
    """Whether the generator has knobs that draw nearer to the class than ``knobs``, its own."""
    return firmer_knobs(generator, knobs) != knobs


def parts_of(config: GeneratorConfig) -> list[GeneratorConfig]:
    """Return the generators of a mixture, mixtures among them taken apart; of any other kind ``config`` alone."""
    if config.kind != "mixture":
        return [config]
    # Its members, or the one kind that it has copies of; what is no such options is refused when it is built.
    parts = [p for p in config.options.get("members") or [config.options] if isinstance(p, dict)]
    members = [replace(config, kind=str(p.get("kind", "edm")), options=p.get("options") or {}) for p in parts]
    return [part for member in members for part in parts_of(member)]


def foreign_code(config: GeneratorConfig) -> list[str]:
    """Return a digest of the source of each generator that is not of this package, a mixture's members included.

    Stage keys hold it beside the version of fedkr's own code.
    """
    kinds = [part.kind for part in parts_of(config)]
    return [module_digest(_load_module(kind, "generator")) for kind in kinds if "." in kind]


def _load_module(kind: str, where: str) -> Any:
    if "." not in kind:
        one_of(f"{where}.kind", kind, BUILT_IN, "generator")
    name = kind if "." in kind else f"fedkr.generators.{kind}"
    return import_named(f"{where}.kind", name, "class Options", "class Generator", remedy=f"see {README}")
