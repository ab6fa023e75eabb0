"""The frame of every page: Jinja2's templates, which escape whatever they are given, and pictures that they embed."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from fedkr.audit.verdict import CHANCE
from fedkr.report import wording
from fedkr.report.audit_fields import PairedRow
from fedkr.report.plots.style import HEAT, text_on, to_png, to_svg
from fedkr.report.samples import fit
from fedkr.report.selection import adversary

# Above guessing by this much, an AUC is on the darkest ground.
HEAT_RANGE = 0.25
# CSS pixels an inch: a figure of 9 inches fills the page's width.
INCH = 104


@dataclass(frozen=True)
class Picture:
    """A figure that a page embeds: its address, which holds all of it, and its width in CSS pixels."""

    address: str
    width: int


def picture(figure: Figure, kind: str = "svg") -> Picture:
    """Return a figure as an embedded picture: ``svg`` for charts, ``png`` for images."""
    width = round(figure.get_figwidth() * INCH)
    if kind == "svg":
        return Picture(_address("svg+xml", to_svg(figure)), width)
    return Picture(_address("png", to_png(figure)), width)


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


def _or_dash(format_value: Callable[..., str]) -> Callable[..., str]:
    """Let a filter take a key that a document leaves out for null, which reads '-'."""
    return lambda *values: format_value(*(None if isinstance(value, Undefined) else value for value in values))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fedkr.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = (
        wording.percent,
        wording.decimal,
        wording.size,
        wording.duration,
        wording.whole,
        wording.p_value,
        wording.share_of,
    )
    environment.filters |= {number.__name__: _or_dash(number) for number in numbers}
    environment.filters |= {
        "strategy": wording.strategy_label,
        "strategy_meaning": wording.strategy_meaning,
        "adversary": adversary,
        "attack": wording.attack_label,
        "attack_with_references": wording.attack_with_references,
        "references": wording.references_label,
        "auc_interval": wording.auc_interval,
        "tpr_interval": wording.tpr_interval,
        "balanced_interval": wording.balanced_interval,
        "tpr_intervals": lambda row, fprs: [wording.tpr_interval(row, fpr) for fpr in fprs],
        "difference_interval": wording.difference_interval,
        "excludes_zero": _excludes_zero,
        "plural": wording.plural,
        "heat": _heat,
        "as_json": _as_json,
    }
    environment.globals["CHANCE"] = CHANCE
    return environment


_ENVIRONMENT = _environment()
