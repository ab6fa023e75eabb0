"""The command that a study came from, found again from its options."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkr.config import LAWS, NO_PART_OF_RESULTS, Study, by_rule, numbers, site_facts
from fedkr.config.architecture import classifier_for
from fedkr.errors import UserError
from server.composition import compose_study
from server.overrides import as_typed, option_of

CLASSIFIERS = ("teacher.arch", "student.arch")
# What the rule writes out where a study is composed.
RULED = (*LAWS, *CLASSIFIERS)
# So that a dataset composes whether or not anybody knows how many images it has.
ALL_BY_HAND = [f"{option}={number}" for option, number in numbers(Study()).items()]


def command_of(study: Study) -> str | None:
    """Return a `fedkr simulate` command that composes this study, None where no overrides do.

    Folders of this machine are left out, and a file of the hospital's own is named without its folder.
    """
    # The digest says what the data are, and is found again wherever they lie.
    data = dataclasses.replace(study.data, path=Path(study.data.path).name)
    study = dataclasses.replace(study, data=data, data_digest="")
    by_hand = list(set_by_hand(study))
    places = {name: place for place, (name, _) in enumerate(_leaves(study.options(*NO_PART_OF_RESULTS)))}
    for choice in ([f"dataset={study.data.name}"], []):
        try:
            made = [*choice, *made_of(study, choice)]
            base = compose_study([*made, *by_hand], count=None)
            others = (change for change in differences(study, base) if option_of(change) not in RULED)
            overrides = [*made, *sorted([*others, *by_hand], key=lambda change: places[option_of(change)])]
            # Nothing is counted here: the command says all that its numbers are made of.
            same = compose_study(overrides, count=None).identity() == study.identity()
        except UserError:
            continue
        if same:
            return shlex.join(["fedkr", "simulate", *overrides])
    return None


def set_by_hand(study: Study) -> Iterator[str]:
    """Yield an override for each number and classifier that the rule does not say again; all where it knows nothing."""
    known = bool(study.facts.images)
    rule: dict[str, Any] = dict(by_rule(study)) if known else {}
    fits = classifier_for(site_facts(study).side) if known else ""
    rule |= dict.fromkeys(CLASSIFIERS, fits)
    own = numbers(study) | dict(zip(CLASSIFIERS, (study.teacher.arch, study.student.arch), strict=True))
    yield from (f"{option}={value}" for option, value in own.items() if value != rule.get(option))


def made_of(study: Study, choice: Sequence[str]) -> Iterator[str]:
    """Yield the overrides that tell the rule what it made a study's numbers of, beside those of a dataset's choice."""
    if not study.facts.images:
        return
    told = dataclasses.asdict(compose_study([*choice, *ALL_BY_HAND], count=None).facts)
    for name, value in dataclasses.asdict(study.facts).items():
        if value != told[name]:
            yield f"facts.{name}={value}"
    if study.budget != Study().budget:
        yield f"budget={study.budget}"


def portable(study: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study's JSON without what belongs to the machine that ran it; its own file keeps its bare name."""
    kept = {name: dict(value) if isinstance(value, dict) else value for name, value in study.items()}
    for option in NO_PART_OF_RESULTS:
        group, _, name = option.rpartition(".")
        (kept.get(group, {}) if group else kept).pop(name, None)
    if kept.get("data", {}).get("path"):
        kept["data"]["path"] = Path(kept["data"]["path"]).name
    return kept


def differences(study: Study, base: Study) -> Iterator[str]:
    """Yield the overrides that make ``base`` this study, those of folders and backend left out."""
    known = dict(_leaves(base.options(*NO_PART_OF_RESULTS)))
    for name, value in _leaves(study.options(*NO_PART_OF_RESULTS)):
        if name not in known or known[name] != value:
            yield f"{'' if name in known else '+'}{name}={_as_override(name, value)}"


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _as_override(name: str, value: Any) -> str:
    """Return the value of an option in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(_as_override(f'{name}[]', item) for item in value)}]"
    if isinstance(value, str):
        return as_typed(name, value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
