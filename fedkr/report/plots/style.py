"""One look for every figure: palette, fonts and axes, and how a figure becomes bytes."""

from __future__ import annotations

import io
import zlib
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

INK = "#1f2933"
QUIET = "#66727f"
RULE = "#d5dbe1"
# Okabe and Ito's palette, which the common forms of colour blindness keep apart, with yellow left out on white.
CYCLE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#6b7785")
STRATEGY_COLOURS = {
    "fedkr": "#0072B2",
    "fedkr-dda": "#56B4E9",
    "fedkr+ft": "#009E73",
    "fedavg": "#E69F00",
    "dp-fedavg": "#D55E00",
    "centralised": "#6b7785",
    "local": "#CC79A7",
}
# Of strategies that are not named here: colours that the usual comparison has not.
OTHERS = ("#009E73", "#D55E00", "#56B4E9")
MANY_LINES = 12
# Characters of a name; classes, which stand side by side, have fewer.
LONGEST = 32
HEAT = LinearSegmentedColormap.from_list("fedkr", ["#f4f8fb", "#9cc6e3", "#0072B2", "#00304d"])

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.hashsalt": "fedkr",
}


def strategy_colour(name: str) -> str:
    """Return the strategy's colour, the same in every figure; an unknown one has one of few by its name."""
    return STRATEGY_COLOURS.get(name, OTHERS[zlib.crc32(name.encode()) % len(OTHERS)])


def text_on(colour: str) -> str:
    """Return white or ink, whichever reads better on ``colour`` (relative luminance of sRGB, WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return "white" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] < 0.25 else INK


def series_style(index: int) -> dict[str, Any]:
    """Return colour and dash of the ``index``-th line; the dash changes when the colours start again."""
    dashes = ("-", "--", ":", "-.")
    return {"color": CYCLE[index % len(CYCLE)], "linestyle": dashes[index // len(CYCLE) % len(dashes)]}


def new_figure(width: float, height: float) -> Figure:
    """Return a white figure of ``width`` by ``height`` inches that lays itself out once, when it is first drawn."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def clean_axes(ax: Axes, title: str = "", grid: Literal["x", "y", "both"] | None = None) -> Axes:
    """Take away the box and the tick marks of ``ax``, and put a quiet grid behind ``grid`` ('x', 'y' or 'both')."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(RULE)
    ax.tick_params(which="both", length=0, labelcolor=INK, labelsize=9)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(color=QUIET, fontsize=9)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color=RULE, linewidth=0.6)
    if title:
        ax.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    return ax


def panel_grid(figure: Figure, count: int, columns: int, share_x: bool = False) -> list[Axes]:
    """Return ``count`` panels with one scale of y in lines of ``columns``; the last line may hold fewer."""
    axes = figure.subplots(-(-count // columns), columns, squeeze=False, sharex=share_x, sharey=True).ravel()
    for ax in axes[count:]:
        ax.set_axis_off()
    return list(axes[:count])


def ring(ax: Axes, x: float, y: float, colour: str) -> None:
    """Draw a ring around what was chosen."""
    ax.scatter(x, y, s=60, facecolor="white", edgecolor=colour, linewidth=1.8, zorder=3)


def to_svg(figure: Figure) -> bytes:
    """Return the figure as SVG with text as outlines, the same bytes every time."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        _settle(figure)
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


def to_png(figure: Figure, dpi: int = 150) -> bytes:
    """Return the figure as PNG."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        _settle(figure)
        figure.set_dpi(dpi)
        FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _settle(figure: Figure) -> None:
    # Names of sites and classes come from elsewhere: dollar signs in them are no formulas.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    # Laying out takes longer than drawing, and every figure is drawn twice: for the page and for its own file.
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
