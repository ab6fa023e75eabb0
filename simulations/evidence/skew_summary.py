"""What the rows of ``skew`` say: each way against the default, and leave-one-set-out.

``python -m simulations.evidence.skew_summary ROWS.json ...`` prints tables in Markdown. A difference is paired by cut
and seed; its interval is of Student's t over the cuts' means, and, as cuts of one set share its images, over the sets'.
Leave-one-set-out: the way with the best balanced accuracy on the cuts of all other sets, and what it is worth on the
cuts of the one that was left out.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from server.targets import FIGURES

DEFAULT, CHOSEN_BY = "default", "balanced_accuracy"
Row = Mapping[str, Any]
# By cut, each figure's difference from the default's in each seed.
Differences = dict[str, list[dict[str, float]]]


def differences(rows: Sequence[Row]) -> dict[str, Differences]:
    """Return by way and cut, for each seed, a way's figures less the default's of the same cut and seed."""
    usual = {(row["cut"], row["seed"]): row for row in rows if row["way"] == DEFAULT}
    found = defaultdict[str, Differences](lambda: defaultdict(list))
    for row in rows:
        beside = usual.get((row["cut"], row["seed"]))
        if beside is not None and row["way"] != DEFAULT:
            found[row["way"]][row["cut"]].append({name: row[name] - beside[name] for name in FIGURES})
    return dict(found)


def over(groups: Sequence[float]) -> str:
    """Return the mean of some values with a 95 % t interval, in points."""
    values = 100 * np.array(groups)
    if len(values) < 2:
        return f"{values.mean():+.1f}"
    half = student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():+.1f} ({values.mean() - half:+.1f} to {values.mean() + half:+.1f})"


def means(own: Differences, figure: str) -> dict[str, float]:
    """Return by cut the mean over seeds."""
    return {cut: float(np.mean([seed[figure] for seed in seeds])) for cut, seeds in own.items()}


def against_default(rows: Sequence[Row]) -> str:
    """Return a line a way: differences in the mean over cuts, and of balanced accuracy over sets and in each cut."""
    set_of = {row["cut"]: row["set"] for row in rows}
    cuts = list(set_of)
    head = ["way", "accuracy", "balanced accuracy", "over sets", "AUC", *cuts]
    lines = [head, ["---"] * len(head)]
    for way, own in differences(rows).items():
        by_cut = {figure: means(own, figure) for figure in FIGURES}
        by_set = defaultdict[str, list[float]](list)
        for cut, value in by_cut[CHOSEN_BY].items():
            by_set[set_of[cut]].append(value)
        sets = over([float(np.mean(values)) for values in by_set.values()])
        overall = {figure: over(list(values.values())) for figure, values in by_cut.items()}
        single = [f"{100 * by_cut[CHOSEN_BY][cut]:+.1f}" if cut in by_cut[CHOSEN_BY] else "" for cut in cuts]
        lines.append([way, overall["accuracy"], overall[CHOSEN_BY], sets, overall["auc"], *single])
    return _markdown(lines)


def leave_one_set_out(rows: Sequence[Row]) -> str:
    """Return a line a set: the way that all others choose, and what it adds to the default on the set's own cuts."""
    set_of, found = {row["cut"]: row["set"] for row in rows}, differences(rows)
    lines = [["left out", "chosen by the others", "accuracy", "balanced accuracy", "AUC"], ["---"] * 5]
    gained = defaultdict[str, list[float]](list)
    for left in dict.fromkeys(set_of.values()):
        others = {way: [v for c, v in means(own, CHOSEN_BY).items() if set_of[c] != left] for way, own in found.items()}
        scores = {DEFAULT: 0.0} | {way: float(np.mean(values)) for way, values in others.items()}
        chosen = max(scores, key=lambda way: scores[way])
        line = [left, chosen]
        for figure in FIGURES:
            own = means(found[chosen], figure) if chosen != DEFAULT else dict.fromkeys(set_of, 0.0)
            gained[figure].append(float(np.mean([value for cut, value in own.items() if set_of[cut] == left])))
            line.append(f"{100 * gained[figure][-1]:+.1f}")
        lines.append(line)
    lines.append(["mean", "", *(over(gained[figure]) for figure in FIGURES)])
    return _markdown(lines)


def of_the_default(rows: Sequence[Row]) -> str:
    """Return a line a cut: the default's figures, mean over seeds, in percent (AUC as it is)."""
    lines = [["cut", "seeds", "accuracy", "balanced accuracy", "AUC"], ["---"] * 5]
    for cut in dict.fromkeys(row["cut"] for row in rows):
        own = [row for row in rows if row["cut"] == cut and row["way"] == DEFAULT]
        accuracy, balanced, auc = (float(np.mean([row[figure] for row in own])) for figure in FIGURES)
        lines.append([cut, str(len(own)), f"{100 * accuracy:.1f}", f"{100 * balanced:.1f}", f"{auc:.3f}"])
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(files: Sequence[str]) -> int:
    """Print all tables."""
    rows = [row for file in files for row in json.loads(Path(file).read_text(encoding="utf-8"))["rows"]]
    print(of_the_default(rows), against_default(rows), leave_one_set_out(rows), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
