"""The model card: what a student is, what it was made from, how good it is, what it leaks, and what it is not for."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import fedkr
from fedkr.config import Study
from fedkr.report import conclusions, wording
from fedkr.report.results import Results
from fedkr.report.selection import data_warnings, headline_rows, release_guarantees, site_totals, unchosen_sites
from simulations.export.bundle import ModelDescription

# For what a document may leave out.
NOTHING: dict[str, Any] = {name: [] for name in ("sites", "missing_sites", "notes", "audit")}
NOTHING |= {name: {} for name in ("recycling", "versions", "hardware")}
ORIGIN = ("identity", "backend", "seed")


def write_card(results: Results, study: Study, description: ModelDescription, command: str | None) -> str:
    """Return the model card in Markdown; ``command`` composes the study, and is None where no command does."""
    known, headline = NOTHING | {"seed": study.seed} | dict(results), headline_rows(results)
    view = {
        "results": known,
        "study": study,
        "model": description,
        # All attacks on the student; of the other models, which are not exported, the headline attack alone.
        "audit": [row for row in known["audit"] if row["target"] == "student" or row in headline],
        "proven": release_guarantees(results),
        "command": command,
        "origin": wording.listing([f"{name} {known[name]}" for name in ORIGIN if name in results]),
        "version": fedkr.__version__,
    }
    return _environment().get_template("model_card.md").render(view)


def _environment() -> Environment:
    """Return Jinja2's environment whose every value is written as Markdown shows it."""
    environment = Environment(
        loader=PackageLoader("simulations.export", ""),
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= vars(wording) | vars(conclusions)
    environment.filters |= {
        "data_warnings": data_warnings,
        "site_totals": site_totals,
        "unchosen_sites": unchosen_sites,
        "count": _count,
        "pairs": lambda values: ", ".join(f"{name} {value}" for name, value in values.items()) or "not recorded",
        "raw": Markup,
    }
    return environment


def _count(value: int | None) -> str:
    return "not told" if value is None else wording.whole(value)


def _plain(value: Any) -> str:
    """Return a value's text so that Markdown shows it as it is: class and site names are anyone's."""
    if isinstance(value, Markup):
        return str(value)
    text = str(value)
    for mark in "\\|`*_":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.replace("](", "]\\(").replace("<", "&lt;").split())
