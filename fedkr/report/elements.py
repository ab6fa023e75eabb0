"""The few HTML elements that the page is made of; every text that goes in is escaped here."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from matplotlib.figure import Figure

from fedkr.report.style import to_png, to_svg


@dataclass(frozen=True)
class Markup:
    """HTML that is finished: made here or from escaped parts."""

    html: str


Cell = str | Markup


def html_of(cell: Cell) -> str:
    """Return a cell's HTML: markup as it is, text escaped."""
    return cell.html if isinstance(cell, Markup) else escape(cell)


def page(title: str, subtitle: str, body: str, footer: str, *, links: str = "", script: str = "") -> str:
    """Return a whole self-contained page.

    Args:
        title: of the window and the head.
        subtitle: below it.
        body: finished sections.
        footer: last line.
        links: finished links to the sections; without them there is no bar.
        script: JavaScript of the page, if any.
    """
    bar = f"<nav><div>{links}</div></nav>\n" if links else ""
    code = f"<script>{script}</script>\n" if script else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{files("fedkr.report").joinpath("page.css").read_text()}</style>
</head>
<body>
<header><div><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></div></header>
{bar}<main>
{body}
</main>
<footer>{escape(footer)}</footer>
{code}</body>
</html>
"""


def paragraph(text: Cell, style: str = "") -> str:
    """Return a paragraph of the given style class."""
    return f'<p class="{style}">{html_of(text)}</p>' if style else f"<p>{html_of(text)}</p>"


def section(name: str, title: str, *parts: str) -> str:
    """Return a section with an anchor; empty parts are left out, and a section of none is empty."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{name}">\n<h2>{escape(title)}</h2>\n{body}\n</section>' if body else ""


def heading(text: str) -> str:
    """Return a heading inside a section."""
    return f"<h3>{escape(text)}</h3>"


def table(titles: Sequence[str], rows: Sequence[Sequence[Cell]], numbers_from: int, row_styles: Sequence[str]) -> str:
    """Return a table that scrolls sideways on a narrow screen; columns from ``numbers_from`` on are set right."""
    kinds = [_column(title, column >= numbers_from) for column, title in enumerate(titles)]
    head = "".join(f"<th{kind}>{escape(title)}</th>" for kind, title in zip(kinds, titles, strict=True))
    body = "\n".join(
        f'<tr class="{style}">'
        + "".join(f"<td{kind}>{html_of(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row, style in zip(rows, row_styles, strict=True)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _column(title: str, number: bool) -> str:
    if number:
        return ' class="number"'
    # Names of sites are short, and "site-0" would break at its hyphen.
    return ' class="name"' if title == "site" else ""


def svg_figure(figure: Figure | None, alt: str, caption: str = "") -> str:
    """Return a chart as an embedded SVG image, or nothing where there is no chart."""
    return "" if figure is None else _figure("image/svg+xml", to_svg(figure), figure, alt, caption)


def png_figure(figure: Figure | None, alt: str, caption: str = "") -> str:
    """Return a picture of images as an embedded PNG, or nothing where there is none."""
    return "" if figure is None else _figure("image/png", to_png(figure), figure, alt, caption)


def _figure(kind: str, content: bytes, figure: Figure, alt: str, caption: str) -> str:
    data = base64.b64encode(content).decode()
    # CSS pixels: a figure of 9 inches fills the page's width.
    width = round(figure.get_figwidth() * 104)
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img width="{width}" alt="{escape(alt)}" src="data:{kind};base64,{data}">{below}</figure>'


def cards(entries: Sequence[tuple[str, str]]) -> str:
    """Return large figures, each with a line that says what it is."""
    boxes = (f'<div class="card"><b>{escape(value)}</b><span>{escape(label)}</span></div>' for value, label in entries)
    return f'<div class="cards">{"".join(boxes)}</div>' if entries else ""


def folded(title: str, remark: str, *parts: str, opened: bool = False) -> str:
    """Return a part that the reader can unfold."""
    state = " open" if opened else ""
    body = "\n".join(part for part in parts if part)
    return (
        f"<details{state}><summary>{escape(title)}<small>{escape(remark)}</small></summary><div>{body}</div></details>"
    )


def notice(title: str, lines: Sequence[str]) -> str:
    """Return a marked list, or nothing where there are no lines."""
    return f'<div class="notice"><b>{escape(title)}</b>{bullets(lines)}</div>' if lines else ""


def bullets(lines: Sequence[str]) -> str:
    """Return a list."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def definitions(values: dict[str, Any]) -> str:
    """Return names and values; nested values as JSON."""
    rows = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(_text(value))}</dd>" for name, value in values.items())
    return f"<dl>{rows}</dl>" if rows else ""


def preformatted(value: Any) -> str:
    """Return a value as indented JSON."""
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False, default=str))}</pre>"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
