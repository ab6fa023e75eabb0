"""The command that a study came from, found again from its options."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedkr.config import NO_PART_OF_RESULTS, Study, by_rule, numbers
from fedkr.errors import UserError
from server.composition import compose_study
from server.overrides import as_typed


def command_of(study: Study) -> str | None:
    """Return a `fedkr simulate` command that composes this study, None where no overrides do.

    Folders of this machine are left out, and a file of the hospital's own is named without its folder.
    """
    # The digest says what the data are, and is found again wherever they lie.
    data = dataclasses.replace(study.data, path=Path(study.data.path).name)
    study = dataclasses.replace(study, data=data, data_digest="")
    # The rule says its numbers again. Where nobody counted the images, none is the rule's.
    known = bool(study.facts.images)
    given = {f"{option}={number}" for option, number in (by_rule if known else numbers)(study).items()}
    own = [*([] if known else given), *([f"budget={study.budget}"] if study.budget != Study().budget else [])]
    for choice in ([f"dataset={study.data.name}", *own], own):
        try:
            base = compose_study(choice, lambda _: study.facts)
            overrides = choice + [change for change in differences(study, base) if change not in given]
            same = compose_study(overrides, lambda _: study.facts).identity() == study.identity()
        except UserError:
            continue
        if same:
            return shlex.join(["fedkr", "simulate", *overrides])
    return None


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
