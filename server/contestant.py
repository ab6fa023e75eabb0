"""A contestant of the comparison: one way for the sites to learn, and all that comparison and audit know of it.

A new one is one module with a class ``Contestant``, in ``server/strategies`` or anywhere under a dotted name (``kind``
in its options), and one file of its options in ``configs/strategy``. Nothing else names it.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from fedkr.config import Study, check_values, nearest, read_dataclass
from fedkr.data import ImageSet
from fedkr.errors import UserError
from fedkr.foreign import import_named
from fedkr.learning.job import Job
from server import strategies
from server.coordinator import Coordinator
from server.releases import Releases
from server.targets import Target

Row = dict[str, Any]
COSTS = ("bytes_up", "bytes_down", "seconds")


class Turn(IntEnum):
    """When a contestant asks the sites, which answer one question after the other."""

    FIRST = 0
    """What it asks for is long work, which others wait for."""
    BEHIND = 1
    """Queued behind that: sites that are done early go on with it."""
    ALONE = 2
    """Question and answer in many rounds, when the sites are free."""


@dataclass(frozen=True)
class Outcome:
    """What a contestant ends with.

    Attributes:
        costs: by site, those of ``COSTS``: bytes on the wire from and to it, and seconds that it computed.
        seconds: computed at the server.
        model: the model that all share; it is kept, and measured on the global test set and at each site.
        figures: its headline where there is no such model; the figures of ``evaluation.Utility`` or None.
        per_site: the same on each site's own test split.
        leaves: what else an audit can attack.
        releases: for each exchange, the sites' files that the model learnt from.
        recycling: by site, how it came to its release.
        search: settings tried, each with its score on val by round.
        tuning: what was chosen on val, in how many looks and steps, and what it cost without the search.
        tuned_sites: the same of models that the sites keep, by site, as far as their policies tell.
        choices: by site, which other sites' releases it chose (``fedkr.documents``), as far as its policy tells.
        notes: what a reader of the results must know.
    """

    costs: Mapping[str, Mapping[str, float]]
    seconds: float = 0.0
    model: Target | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    per_site: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    leaves: Sequence[Target] = ()
    releases: Sequence[Mapping[str, Path]] = ()
    recycling: Mapping[str, Row] = field(default_factory=dict)
    search: Sequence[Row] = ()
    tuning: Row = field(default_factory=dict)
    tuned_sites: Mapping[str, Row] = field(default_factory=dict)
    choices: Mapping[str, Row] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def targets(self) -> list[Target]:
        """Return all that an audit can attack, the shared model first."""
        return [*([] if self.model is None else [self.model]), *self.leaves]


@dataclass(frozen=True)
class Federation:
    """What contestants work with: the gathered sites, and the server's own means.

    Attributes:
        coordinator: whom all questions to the sites go through; it stores each answer as it lands.
        job: the server's own work: where it computes, whom it reports to, its seed.
        test: the global test set; None in a deployment whose server has no images.
    """

    coordinator: Coordinator
    job: Job
    test: ImageSet | None = None

    @property
    def study(self) -> Study:
        """All settings."""
        return self.coordinator.study

    @cached_property
    def releases(self) -> Releases:
        """What the sites release, asked for once for all contestants."""
        return Releases(self.coordinator)


@dataclass
class NoOptions:
    """The options of a contestant that has none."""


class Contestant(ABC):
    """One way for the sites to learn.

    Attributes:
        needs: kinds of record (``metrics``, ``release``, ``weights``) of which one site at least must let each leave.
        turn: when it asks the sites.
        Options: a dataclass of the options that it has.

    Args:
        name: as ``strategy.compare`` has it.
        options: its own, which :meth:`check` accepted.
        federation: the sites and the server's means.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"metrics"})
    turn: ClassVar[Turn] = Turn.ALONE
    Options: ClassVar[type] = NoOptions

    def __init__(self, name: str, options: Mapping[str, Any], federation: Federation) -> None:
        self.name, self.federation = name, federation
        self.coordinator, self.study = federation.coordinator, federation.study
        self.options: Any = read_dataclass(self.Options, dict(options), f"strategy.options.{name}")

    @classmethod
    def check(cls, name: str, options: Mapping[str, Any], study: Study) -> None:
        """Raise :class:`UserError` for options that :attr:`Options` does not have, or values that they cannot have."""
        where = f"strategy.options.{name}"
        check_values(read_dataclass(cls.Options, dict(options), where), where)

    @abstractmethod
    def start(self) -> Callable[[], Outcome]:
        """Send what needs nobody's answer first, and return what waits for the answers and does the rest."""


def contestant_class(name: str, options: Mapping[str, Any]) -> type[Contestant]:
    """Return the class of a contestant; raise :class:`UserError` for one whose module cannot be had."""
    kind = str(options.get("kind", name))
    known = [module.name for module in pkgutil.iter_modules(strategies.__path__)]
    if "." not in kind and kind not in known:
        raise UserError(f"strategy.compare: {kind!r}: unknown strategy{nearest(kind, known)}")
    option, own = f"strategy.options.{name}.kind", kind if "." in kind else f"{strategies.__name__}.{kind}"
    found = getattr(import_named(option, own), "Contestant", None)
    if not (isinstance(found, type) and issubclass(found, Contestant)):
        raise UserError(f"{option}={kind!r}: the module has no class Contestant; see README.md")
    return found


def check_contestants(study: Study) -> None:
    """Raise :class:`UserError` for a contestant of the ServerApp that is unknown, or for an option that it has not."""
    for name in study.strategy.names(driver=False):
        contestant_class(name, study.strategy.options.get(name, {})).check(name, own_options(study, name), study)


def make_contestants(federation: Federation) -> list[Contestant]:
    """Return the study's contestants, without those of a simulation's driver."""
    study = federation.study
    check_contestants(study)
    return [
        contestant_class(name, study.strategy.options.get(name, {}))(name, own_options(study, name), federation)
        for name in study.strategy.names(driver=False)
    ]


def own_options(study: Study, name: str) -> dict[str, Any]:
    """Return a contestant's options without those that say where it is found and who runs it."""
    options = study.strategy.options.get(name, {})
    return {option: value for option, value in options.items() if option not in ("kind", "driver")}
