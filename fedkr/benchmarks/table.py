"""How a benchmark's figures are printed: a column of names and columns of numbers, and the machine below them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table


def figures_table(title: str, name: str, numbers: Iterable[str]) -> Table:
    """Return a table without rows: a column ``name`` and a column for each of ``numbers``, set right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, caption_justify="left")
    table.add_column(name)
    for number in numbers:
        table.add_column(number, justify="right")
    return table


def machine(result: dict[str, Any]) -> str:
    """Return in one line what a benchmark's result was measured on."""
    where, runtime = result["hardware"], result["runtime"]
    device = where["gpus"][0] if runtime["device"] == "cuda" else f"{where['processor']}, {where['cores']} cores"
    return f"{device}; {runtime['precision']}, {runtime['threads']} torch thread(s)"
