"""How what a release gives away falls with the images a class, in one picture.

``python -m simulations.evidence.privacy.sizes OUT.png PRIVACY.json ...`` draws the default's figures of sweeps with
different numbers of members.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedkr.disk import write_atomic
from fedkr.report.plots.style import INK, clean_axes, new_figure, series_style, to_png
from simulations.evidence.privacy.variants import DEFAULT

PANELS = (
    ("One site's release, calibrated", "release_auc"),
    ("Student of one site", "student_auc"),
    ("Student of 3 sites", "union_auc"),
)
CLASSES = {"digits": 10, "breastmnist": 2, "pneumoniamnist": 2}
Sweep = Mapping[str, Any]


def per_class(sweep: Sweep) -> float:
    """Return how many images of a class a pipeline trains on, in the mean: half of its pool's."""
    return float(sweep["counts"]["pool"]) / 2 / CLASSES[sweep["dataset"]]


def sizes(sweeps: Sequence[Sweep]) -> Figure:
    """Return AUC with 95 % intervals by images a class, a panel for each target and a line for each dataset."""
    by_dataset = defaultdict[str, list[Sweep]](list)
    for sweep in sorted(sweeps, key=per_class):
        by_dataset[sweep["dataset"]].append(sweep)
    figure = new_figure(12, 3.6)
    axes = figure.subplots(1, len(PANELS), sharey=True)
    for ax, (title, name) in zip(axes, PANELS, strict=True):
        clean_axes(ax, title, grid="both")
        for index, (dataset, own) in enumerate(by_dataset.items()):
            _line(ax, index, dataset, own, name)
        ax.axhline(0.5, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        ax.set_xscale("log")
        ticks = sorted({per_class(sweep) for sweep in sweeps})
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel("images a class")
    axes[0].set_ylabel("AUC of the attack")
    axes[0].legend(frameon=False, fontsize=8.5)
    return figure


def _line(ax: Axes, index: int, dataset: str, own: Sequence[Sweep], name: str) -> None:
    figures = [next(v for v in sweep["variants"] if v["name"] == DEFAULT)["figures"][name] for sweep in own]
    values = [figure["value"] for figure in figures]
    below = [figure["value"] - figure["low"] for figure in figures]
    above = [figure["high"] - figure["value"] for figure in figures]
    style = series_style(index)
    across = [per_class(sweep) for sweep in own]
    ax.errorbar(across, values, yerr=[below, above], marker="o", capsize=2, color=style["color"], label=dataset)


def main(words: Sequence[str]) -> int:
    """Draw the picture."""
    out, *files = words
    sweeps = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files]
    write_atomic(Path(out), to_png(sizes(sweeps), 120))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
