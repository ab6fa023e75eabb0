"""What a study's contestants ask of a site: which messages, in which words for its engineer, within which search.

The server runs contestants and a site never imports one. So it knows those that come with fedkr by their exact names,
and takes any other to send whatever a contestant can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from fedkr import wire
from fedkr.config import SearchConfig, Study, check_search, read_dataclass
from fedkr.errors import UserError

SENT_BY_CONTESTANTS = {wire.TRAIN: "weights", wire.LOCAL: "its own model's figures", wire.RELEASE: "releases"}
SHARING_WEIGHTS = ("fedavg", "fedprox", "fedadam", "fedyogi", "fedmedian")
# By the name of the contestant's module: the messages that it sends, and what those are in plain words.
OF_FEDKR: dict[str, tuple[frozenset[str], str]] = {
    "local": (frozenset({wire.LOCAL}), "the site's own model; its figures leave, the model stays"),
    "fedkr": (frozenset({wire.RELEASE}), "releases of synthetic images with soft labels"),
    "fedkr_dda": (
        frozenset({wire.RELEASE}),
        "releases; trains with those of other sites that it chooses; figures leave, the model stays",
    ),
    "fedkr_ft": (
        frozenset({wire.RELEASE}),
        "releases; fine-tunes the central student on its own images; figures leave, the model stays",
    ),
    "dp_fedavg": (
        frozenset({wire.TRAIN}),
        "weights of a model trained with noise; of simulations only, so that a hospital's site refuses the study",
    ),
    "centralised": (frozenset(), "an oracle of simulations; nothing is asked of a site"),
}
MODULES = {
    **{name: name for name in (*OF_FEDKR, *SHARING_WEIGHTS)},
    **{f"server.strategies.{name}": name for name in (*OF_FEDKR, *SHARING_WEIGHTS) if name != "centralised"},
    "simulations.study.centralised": "centralised",
}


def messages_of(study: Study) -> set[str]:
    """Return the types of message that the study's contestants send."""
    return {message for name in study.strategy.compare for message in _sends(_module(study, name))}


def words_of(study: Study, name: str) -> str:
    """Return in plain words what a contestant asks of a site."""
    module = _module(study, name)
    if module in OF_FEDKR:
        return OF_FEDKR[module][1]
    own = _own_options(study, name).get("rounds", study.strategy.rounds)
    weights = f"weights of a model trained here, after each of at most {own} rounds and its search"
    if module in SHARING_WEIGHTS:
        return weights
    return (
        f"not one of fedkr's own, so that it may ask for {weights}; for releases; for figures of the site's own model"
    )


def trains_privately(study: Study, name: str) -> bool:
    """Whether a study compares a contestant of this name whose sites train by DP-SGD."""
    return name in study.strategy.compare and _module(study, name) == "dp_fedavg"


def refuse_simulated(study: Study) -> None:
    """Raise :class:`UserError` for a study with a contestant that no hospital can keep the promise of."""
    for name in study.strategy.compare:
        if trains_privately(study, name):
            raise UserError(
                f"strategy.compare={study.strategy.compare}: {name} is of simulations: its noise comes from the "
                "study's seed, and no site counts how often a round is asked for; take it out"
            )


def searches(study: Study) -> Iterator[tuple[str, SearchConfig]]:
    """Yield the search of each contestant that may share weights, and where its options stand.

    Raises:
        UserError: a search of its own with an invalid value.
    """
    shared = {field.name: getattr(study.strategy, field.name) for field in dataclasses.fields(SearchConfig)}
    for name in study.strategy.compare:
        if wire.TRAIN in _sends(_module(study, name)):
            own = {option: value for option, value in _own_options(study, name).items() if option in shared}
            where = f"strategy.options.{name}" if own else "strategy"
            search = read_dataclass(SearchConfig, shared | own, where)
            check_search(search, where)
            yield where, search


def _module(study: Study, name: str) -> str | None:
    """Return the module of a contestant of fedkr's own, None for any other."""
    return MODULES.get(str(_own_options(study, name).get("kind", name)))


def _sends(module: str | None) -> frozenset[str]:
    if module is None:
        return frozenset(SENT_BY_CONTESTANTS)
    return OF_FEDKR[module][0] if module in OF_FEDKR else frozenset({wire.TRAIN})


def _own_options(study: Study, name: str) -> dict[str, Any]:
    return dict(study.strategy.options.get(name, {}))
