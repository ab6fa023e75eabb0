"""A study with other values of some options, as ``group.option=value`` names them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from fedkr.config.checks import check_study
from fedkr.config.reading import brief, nearest, read_dataclass
from fedkr.config.schema import Study
from fedkr.errors import UserError


def with_options(study: Study, changes: Iterable[str]) -> Study:
    """Return a study with other values of options, such as ``student.steps=200``; values are read as YAML.

    Raises:
        UserError: a change that names no option, or a value that no run could work with.
    """
    values = dataclasses.asdict(study)
    for change in changes:
        name, sign, text = change.partition("=")
        if not sign:
            raise UserError(f"{brief(change)}: expected OPTION=VALUE, as in recycle.rounds=1")
        if name == "budget" or name.startswith("facts"):
            raise UserError(f"{brief(change)}: this study's numbers are written out; set them, as in student.steps=200")
        try:
            set_option(values, name, yaml.safe_load(text))
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"{brief(change)}: the value cannot be read ({brief(error)})") from None
    changed = read_dataclass(Study, values, "study")
    check_study(changed)
    return changed


def set_option(values: dict[str, Any], name: str, value: Any) -> None:
    """Set an option by its dotted name in nested values; raise :class:`UserError` where a group is none."""
    *groups, option = name.split(".")
    for group in groups:
        if not isinstance(values.get(group), dict):
            known = [key for key, inner in values.items() if isinstance(inner, dict)]
            raise UserError(f"{brief(name)}: {brief(repr(group))} is no group of options{nearest(group, known)}")
        values = values[group]
    values[option] = value


def flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the options in nested groups, each by its dotted name; an empty group is an option."""
    for name, value in options.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
