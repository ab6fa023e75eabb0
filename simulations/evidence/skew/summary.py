"""What the rows of this package say: each way against the default, leave-one-set-out, and against opponents.

``python -m simulations.evidence.skew.summary ROWS.json ...`` prints tables in Markdown, of one budget. Ways of another
generator than the first one's are named with it, compared with the same default, and with the same way of the first. A
difference is paired by cut and seed; its interval is of Student's t over the cuts' means, over the sets', as cuts of
one set share its images, and over the seeds' means of these very cuts. Leave-one-set-out: the way with the best
balanced accuracy on all other sets, each of which counts once however many cuts it has, and what that way is worth on
the cuts of the set that was left out. Ways that miss a cut cannot be chosen.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedkr.errors import UserError
from server.targets import FIGURES
from simulations.exits import guarded
from simulations.study.summary import half_width

DEFAULT, CHOSEN_BY = "default", "balanced_accuracy"
# Between a way and a generator that is not the usual one.
OF = " of "
Row = Mapping[str, Any]
# By cut and seed, each figure's difference from another row's.
Differences = dict[str, dict[int, dict[str, float]]]


def by_generator(rows: Sequence[Row]) -> list[Row]:
    """Return rows whose way also names its generator, where that is not the first one named; opponents have none."""
    usual = next((row["generator"] for row in rows if "generator" in row), None)
    return [
        row if row.get("generator", usual) == usual else {**row, "way": f"{row['way']}{OF}{row['generator']}"}
        for row in rows
    ]


def against_the_usual(rows: Sequence[Row]) -> list[str]:
    """Return for each way that another generator has, too, a table of how much more that one has than the usual one."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    tables = []
    for way in ways:
        own = [name for name in ways if name == way or name.startswith(f"{way}{OF}")]
        if len(own) > 1:
            tables.append(against([row for row in rows if row["way"] in own], way))
    return tables


def check(rows: Sequence[Row]) -> None:
    """Raise :class:`UserError` for rows that cannot stand in one table."""
    names = [(row["cut"], row["seed"], row["way"]) for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name}: measured twice; name files of which each has other cuts, seeds or ways")
    if not any(row["way"] == DEFAULT for row in rows):
        raise UserError(
            f"no row of the way {DEFAULT!r}, with which others are compared; name a file that has them, too"
        )
    known = sorted({row["budget"] for row in rows if "budget" in row})
    if len(known) > 1:
        raise UserError(f"budget: rows of {' and '.join(known)}; a table is of one")


def differences(rows: Sequence[Row], base: str = DEFAULT) -> dict[str, Differences]:
    """Return by way, cut and seed a way's figures less those of ``base``."""
    usual = {(row["cut"], row["seed"]): row for row in rows if row["way"] == base}
    found = defaultdict[str, Differences](lambda: defaultdict(dict))
    for row in rows:
        beside = usual.get((row["cut"], row["seed"]))
        if beside is not None and row["way"] != base and not row.get("opponent"):
            found[row["way"]][row["cut"]][row["seed"]] = {name: row[name] - beside[name] for name in FIGURES}
    return dict(found)


def over(groups: Sequence[float]) -> str:
    """Return the mean of some values with a 95 % t interval, in points."""
    mean = 100 * float(np.mean(groups))
    if len(groups) < 2:
        return f"{mean:+.1f}"
    half = 100 * half_width(groups)
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def means(own: Differences, figure: str) -> dict[str, float]:
    """Return by cut the mean over seeds."""
    return {cut: float(np.mean([figures[figure] for figures in seeds.values()])) for cut, seeds in own.items()}


def by_seed(own: Differences, figure: str) -> list[float]:
    """Return for each seed that every cut has the mean over the cuts."""
    shared = set.intersection(*(set(seeds) for seeds in own.values()))
    return [float(np.mean([seeds[seed][figure] for seeds in own.values()])) for seed in sorted(shared)]


def by_set(of_cuts: Mapping[str, float], set_of: Mapping[str, str]) -> dict[str, float]:
    """Return by set the mean over its cuts."""
    grouped = defaultdict[str, list[float]](list)
    for cut, value in of_cuts.items():
        grouped[set_of[cut]].append(value)
    return {name: float(np.mean(values)) for name, values in grouped.items()}


def sets_of(rows: Sequence[Row]) -> dict[str, str]:
    """Return each cut's set."""
    return {row["cut"]: row["set"] for row in rows}


def bases_of(rows: Sequence[Row]) -> list[str]:
    """Return what ways are compared with: the default, and each opponent."""
    return list(dict.fromkeys([DEFAULT, *(row["way"] for row in rows if row.get("opponent"))]))


def against(rows: Sequence[Row], base: str = DEFAULT) -> str:
    """Return a line a way: how much more than ``base`` it has, over cuts, and balanced over sets and seeds, by cut."""
    set_of = sets_of(rows)
    head = [f"less {base}", "accuracy", "balanced accuracy", "over sets", "over seeds", "AUC", *set_of]
    lines = [head, ["---"] * len(head)]
    for way, own in differences(rows, base).items():
        of_cuts = {figure: means(own, figure) for figure in FIGURES}
        overall = {figure: over(list(values.values())) for figure, values in of_cuts.items()}
        sets = over(list(by_set(of_cuts[CHOSEN_BY], set_of).values()))
        of_seeds = by_seed(own, CHOSEN_BY)
        single = [f"{100 * of_cuts[CHOSEN_BY][cut]:+.1f}" if cut in own else "" for cut in set_of]
        seeds = over(of_seeds) if of_seeds else ""
        lines.append([way, overall["accuracy"], overall[CHOSEN_BY], sets, seeds, overall["auc"], *single])
    return _markdown(lines)


def chosen_without(rows: Sequence[Row]) -> dict[str, str]:
    """Return by set the way that all other sets choose."""
    set_of, found, chosen = sets_of(rows), differences(rows), {}
    cuts = {row["cut"] for row in rows if row["way"] == DEFAULT}
    for left in dict.fromkeys(set_of.values()):
        scores = {DEFAULT: 0.0}
        for way, own in found.items():
            if set(own) == cuts:
                values = by_set(means(own, CHOSEN_BY), set_of)
                scores[way] = float(np.mean([value for name, value in values.items() if name != left]))
        chosen[left] = max(scores, key=lambda way: scores[way])
    return chosen


def leave_one_set_out(rows: Sequence[Row]) -> str:
    """Return a line a set: the way that all others choose, and what it is worth on the set's own cuts.

    First against the default, then against each opponent. A mean is over all sets, or there is none.
    """
    chosen, set_of, bases = chosen_without(rows), sets_of(rows), bases_of(rows)
    left_out = [{**row, "way": "left out"} for row in rows if row["way"] == chosen[row["set"]]]
    lines = [["left out", "chosen by the others", *(f"{figure} less {base}" for base in bases for figure in FIGURES)]]
    lines.append(["---"] * len(lines[0]))
    columns = []
    for base in bases:
        own = differences([*left_out, *(row for row in rows if row["way"] == base)], base).get("left out", {})
        columns += [by_set(means(own, figure), set_of) for figure in FIGURES]
    for left, way in chosen.items():
        lines.append([left, way, *(f"{100 * column[left]:+.1f}" if left in column else "" for column in columns)])
    whole = [over(list(column.values())) if len(column) == len(chosen) else "" for column in columns]
    lines.append(["mean", "", *whole])
    return _markdown(lines)


def absolute(rows: Sequence[Row]) -> str:
    """Return a line a cut: balanced accuracy of each way and opponent in percent, and of how many seeds if not of all.

    All are those of the default.
    """
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lines = [["cut", "seeds", *ways], ["---"] * (len(ways) + 2)]
    for cut in sets_of(rows):
        own = {way: [row[CHOSEN_BY] for row in rows if (row["cut"], row["way"]) == (cut, way)] for way in ways}
        seeds = len(own[DEFAULT])
        lines.append([cut, str(seeds), *(_cell(values, seeds) for values in own.values())])
    return _markdown(lines)


def _cell(values: Sequence[float], seeds: int) -> str:
    few = f" ({len(values)})" if len(values) != seeds else ""
    return f"{100 * np.mean(values):.1f}{few}" if values else ""


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(files: Sequence[str]) -> int:
    """Print all tables."""
    rows = by_generator([row for file in files for row in json.loads(Path(file).read_text(encoding="utf-8"))["rows"]])
    check(rows)
    of_bases = [against(rows, base) for base in bases_of(rows)]
    print(absolute(rows), *of_bases, *against_the_usual(rows), leave_one_set_out(rows), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
