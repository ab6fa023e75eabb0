"""A sweep as a table in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simulations.evidence.privacy.figures import RARE

RARE_TITLE = "of rare classes"
# Figure by title; accuracies and rates in per cent.
COLUMNS = {
    "accuracy, one site": "student_accuracy",
    "accuracy, 3 sites": "union_accuracy",
    "release AUC": "release_auc",
    RARE_TITLE: "release_rare_auc",
    "raw nearest": "release_raw_auc",
    "search's statistic": "statistic_auc",
    "fused": "fused_auc",
    "student RMIA": "student_auc",
    "TPR at 1 %": "student_tpr",
    "3 sites RMIA": "union_auc",
    "TPR at 1 % (3)": "union_tpr",
    "teacher RMIA": "teacher_auc",
    "TPR at 1 % (t)": "teacher_tpr",
}
IN_PERCENT = ("_accuracy", "_tpr")
# What other pipelines, as references, find in what the default left.
BY_REFERENCES = ("release AUC", "fused", "student RMIA", "3 sites RMIA")


def table(results: Mapping[str, Any]) -> str:
    """Return all variants as rows; an asterisk marks a difference from the default's that is one among all (Holm)."""
    columns = {title: name for title, name in COLUMNS.items() if name in results["variants"][0]["figures"]}
    head = ["variant", *columns, "seconds"]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    lines += [" | ".join(_cells(row, columns, results["pipelines"])) for row in results["variants"]]
    body = "".join(f"| {line} |\n" for line in lines)
    guessing = results["guessing"]
    return (
        f"{results['dataset']}: {_counts(results['counts'])}. Accuracy is of the dataset's test images.\n\n{body}\n"
        f"Means over {results['pipelines']} pipelines, each attacked with all others as references; 95 % intervals "
        "over pipelines and images together. `*`: differs from the default's (paired, 5 % over all variants of the "
        f"column, Holm). Guessing has a release AUC of {guessing['release_auc']['mean']:.3f} and a TPR of "
        f"{100 * guessing['tpr']:.1f} %. Seconds are of generator, release and student; all share their teachers.\n"
        + (f"Rare classes: of fewer than {RARE} images at a pipeline, in the mean.\n" if RARE_TITLE in columns else "")
        + _ranks(results["statistic_ranks"])
        + _by_references(results["variants"])
        + "".join(f"Unfinished: {name} ({count} pipelines).\n" for name, count in results["unfinished"].items())
    )


def _by_references(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the pipelines of each variant, as references, find in what the default left, less its own."""
    lines = [
        [row["name"], *(_cell(row["as_references"][COLUMNS[name]]["difference"], False) for name in BY_REFERENCES)]
        for row in rows
        if row["as_references"]
    ]
    if not lines:
        return ""
    table = [["the default attacked by", *BY_REFERENCES], ["---"] * (1 + len(BY_REFERENCES)), *lines]
    return "\nAUC by a variant's pipelines as references, less that by the default's own (paired):\n\n" + "".join(
        f"| {' | '.join(line)} |\n" for line in table
    )


def _ranks(correlation: float | None) -> str:
    if correlation is None:
        return ""
    return (
        f"The search's statistic ranks the variants as the release AUC does with a correlation of {correlation:.2f}.\n"
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _cells(row: Mapping[str, Any], columns: Mapping[str, str], pipelines: int) -> list[str]:
    name = row["name"] if row["pipelines"] == pipelines else f"{row['name']} ({row['pipelines']} pipelines)"
    seconds = sum(value or 0.0 for value in row["seconds"].values())
    return [name, *(_cell(row["figures"][key], key.endswith(IN_PERCENT)) for key in columns.values()), f"{seconds:.0f}"]


def _cell(figure: Mapping[str, Any], percent: bool) -> str:
    value, low, high = (_number(figure[name], percent) for name in ("value", "low", "high"))
    return f"{value}{'*' if figure.get('significant') else ''} [{low}, {high}]"


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.1f}" if percent else f"{value:.3f}".replace("0.", ".", 1)
