"""What the rows of this package say: each way against the default, leave-one-set-out, and against opponents.

``python -m simulations.evidence.skew.summary ROWS.json ...`` prints tables in Markdown. A difference is paired by cut
and seed; its interval is of Student's t over the cuts' means, over the sets', as cuts of one set share its images, and
over the seeds' means of these very cuts.
Leave-one-set-out: the way with the best balanced accuracy on all other sets, each of which counts once however many
cuts it has, and what that way is worth on the cuts of the set that was left out.
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
OPPONENTS = ("local", "fedavg", "centralised", "local, adjusted", "fedavg, adjusted", "centralised, adjusted")
Row = Mapping[str, Any]
# By cut, each figure's difference from another row's in each seed.
Differences = dict[str, list[dict[str, float]]]


def differences(rows: Sequence[Row], base: str = DEFAULT) -> dict[str, Differences]:
    """Return by way and cut, for each seed, a way's figures less those of ``base`` of the same cut and seed."""
    usual = {(row["cut"], row["seed"]): row for row in rows if row["way"] == base}
    found = defaultdict[str, Differences](lambda: defaultdict(list))
    for row in rows:
        beside = usual.get((row["cut"], row["seed"]))
        if beside is not None and row["way"] not in (base, *OPPONENTS):
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


def by_seed(rows: Sequence[Row], way: str, base: str, figure: str) -> list[float]:
    """Return for each seed a way's figure less that of ``base``, in the mean over the cuts that all seeds have."""
    own = differences(rows, base)[way]
    most = max(map(len, own.values()))
    return [float(np.mean([cut[n][figure] for cut in own.values() if len(cut) == most])) for n in range(most)]


def by_set(of_cuts: Mapping[str, float], set_of: Mapping[str, str]) -> dict[str, float]:
    """Return by set the mean over its cuts."""
    grouped = defaultdict[str, list[float]](list)
    for cut, value in of_cuts.items():
        grouped[set_of[cut]].append(value)
    return {name: float(np.mean(values)) for name, values in grouped.items()}


def sets_of(rows: Sequence[Row]) -> dict[str, str]:
    """Return each cut's set."""
    return {row["cut"]: row["set"] for row in rows}


def against(rows: Sequence[Row], base: str = DEFAULT) -> str:
    """Return a line a way: how much more than ``base`` it has, over cuts, and balanced over sets and seeds, by cut."""
    set_of = sets_of(rows)
    head = [f"less {base}", "accuracy", "balanced accuracy", "over sets", "over seeds", "AUC", *set_of]
    lines = [head, ["---"] * len(head)]
    for way, own in differences(rows, base).items():
        of_cuts = {figure: means(own, figure) for figure in FIGURES}
        overall = {figure: over(list(values.values())) for figure, values in of_cuts.items()}
        sets = over(list(by_set(of_cuts[CHOSEN_BY], set_of).values()))
        seeds = over(by_seed(rows, way, base, CHOSEN_BY))
        single = [f"{100 * of_cuts[CHOSEN_BY][cut]:+.1f}" if cut in own else "" for cut in set_of]
        lines.append([way, overall["accuracy"], overall[CHOSEN_BY], sets, seeds, overall["auc"], *single])
    return _markdown(lines)


def chosen_without(rows: Sequence[Row]) -> dict[str, str]:
    """Return by set the way that all other sets choose."""
    set_of, found, chosen = sets_of(rows), differences(rows), {}
    for left in dict.fromkeys(set_of.values()):
        scores = {DEFAULT: 0.0}
        for way, own in found.items():
            scores[way] = float(
                np.mean([v for name, v in by_set(means(own, CHOSEN_BY), set_of).items() if name != left])
            )
        chosen[left] = max(scores, key=lambda way: scores[way])
    return chosen


def leave_one_set_out(rows: Sequence[Row]) -> str:
    """Return a line a set: the way that all others choose, and what it is worth on the set's own cuts.

    First against the default, then against each opponent that there are rows of.
    """
    chosen, set_of = chosen_without(rows), sets_of(rows)
    left_out = [{**row, "way": "left out"} for row in rows if row["way"] == chosen[row["set"]]]
    bases = [DEFAULT, *(name for name in OPPONENTS if any(row["way"] == name for row in rows))]
    lines = [["left out", "chosen by the others", *(f"{figure} less {base}" for base in bases for figure in FIGURES)]]
    lines.append(["---"] * len(lines[0]))
    columns = []
    for base in bases:
        own = differences([*left_out, *(row for row in rows if row["way"] == base)], base)
        columns += [by_set(means(own["left out"], figure), set_of) for figure in FIGURES]
    for left, way in chosen.items():
        lines.append([left, way, *(f"{100 * column[left]:+.1f}" if left in column else "" for column in columns)])
    lines.append(["mean", "", *(over(list(column.values())) for column in columns)])
    return _markdown(lines)


def absolute(rows: Sequence[Row]) -> str:
    """Return a line a cut: balanced accuracy of each way and opponent, mean over seeds, in percent."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lines = [["cut", "seeds", *ways], ["---"] * (len(ways) + 2)]
    for cut in sets_of(rows):
        own = {way: [row[CHOSEN_BY] for row in rows if (row["cut"], row["way"]) == (cut, way)] for way in ways}
        seeds = len({row["seed"] for row in rows if row["cut"] == cut})
        lines.append([cut, str(seeds), *(f"{100 * np.mean(v):.1f}" if v else "" for v in own.values())])
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(files: Sequence[str]) -> int:
    """Print all tables."""
    rows = [row for file in files for row in json.loads(Path(file).read_text(encoding="utf-8"))["rows"]]
    bases = [DEFAULT, *(name for name in OPPONENTS if any(row["way"] == name for row in rows))]
    print(absolute(rows), *(against(rows, base) for base in bases), leave_one_set_out(rows), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
