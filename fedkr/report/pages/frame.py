"""The frame of every page: Jinja2's templates, which escape whatever they are given, and pictures that they embed.

A template is given the results and asks for what it shows by filters: the public functions of the report's modules.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import getmembers, isfunction
from types import ModuleType
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from fedkr.audit.verdict import CHANCE, LARGEST_PASS, OUTLIER_ATTACK, STRONGEST
from fedkr.config import LEAST_TO_CHOOSE, ROUND_ATTACK
from fedkr.report import canaries, conclusions, coverage, search, selection, statement, wording
from fedkr.report.audit_fields import PairedRow
from fedkr.report.pages import audit
from fedkr.report.plots.style import HEAT, text_on, to_png, to_svg
from fedkr.report.samples import fit

# Above guessing by this much, an AUC is on the darkest ground.
HEAT_RANGE = 0.25
# CSS pixels an inch: a figure of 9 inches fills the page's width.
INCH = 104


@dataclass(frozen=True)
class Picture:
    """A figure that a page embeds: its address, which holds all of it, and its width in CSS pixels."""

    address: str
    width: int


def pictures(figures: Mapping[str, Figure | None]) -> dict[str, Picture]:
    """Return figures as embedded pictures: the sites' images as PNG, charts as SVG; None is left out."""
    return {name: _picture(name, figure) for name, figure in figures.items() if figure is not None}


def _picture(name: str, figure: Figure) -> Picture:
    kind, draw = ("png", to_png) if name.startswith("samples-") else ("svg+xml", to_svg)
    return Picture(_address(kind, draw(figure)), round(figure.get_figwidth() * INCH))


def tile(image: NDArray[np.uint8], side: int) -> Picture:
    """Return one image (``[H, W, 1 or 3]``) as an embedded square of ``side`` CSS pixels."""
    buffer = io.BytesIO()
    Image.fromarray(fit(image, side)).save(buffer, "PNG")
    return Picture(_address("png", buffer.getvalue()), side)


def render(template: str, view: Mapping[str, Any]) -> str:
    """Return a whole page from its template's name and plain view data."""
    return _ENVIRONMENT.get_template(template).render(view)


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _heat(auc: float) -> str:
    """Return the style of a cell whose ground darkens from guessing on."""
    strength = min(max(auc - CHANCE, 0.0) / HEAT_RANGE, 1.0)
    ground = to_hex(HEAT(0.75 * strength))
    return f"background:{ground};color:{text_on(ground)}"


def _excludes_zero(row: PairedRow) -> bool:
    low, high = row.get("low"), row.get("high")
    return low is not None and high is not None and (low > 0 or high < 0)


def _as_json(value: Any, indent: int | None = None) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=indent, ensure_ascii=False, default=str)


def _functions_of(module: ModuleType) -> dict[str, Callable[..., Any]]:
    return {name: found for name, found in getmembers(module, isfunction) if found.__module__ == module.__name__}


def _or_none(function: Callable[..., str]) -> Callable[..., str]:
    """Let a filter take a key that a document leaves out for null, which reads '-'."""
    return lambda *values: function(*(None if isinstance(value, Undefined) else value for value in values))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fedkr.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for module in (selection, search, coverage, canaries, conclusions, statement, audit):
        environment.filters |= _functions_of(module)
    environment.filters |= {name: _or_none(function) for name, function in _functions_of(wording).items()}
    environment.filters |= {"excludes_zero": _excludes_zero, "heat": _heat, "as_json": _as_json}
    environment.globals |= {"LEAST_TO_CHOOSE": LEAST_TO_CHOOSE, "ADVERSARY_MEANING": wording.ADVERSARY_MEANING}
    environment.globals |= {"CHANCE": CHANCE, "LARGEST_PASS": LARGEST_PASS, "STRONGEST": STRONGEST}
    environment.globals |= {"OUTLIER_ATTACK": OUTLIER_ATTACK, "ROUND_ATTACK": ROUND_ATTACK}
    return environment


_ENVIRONMENT = _environment()
