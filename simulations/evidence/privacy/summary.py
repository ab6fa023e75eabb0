"""A sweep's figures as they stand: JSON, a table and a picture, whichever pipelines are done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from fedkr.audit.statistics.blind import holm_reject
from fedkr.audit.statistics.membership import guessing_tpr
from fedkr.disk import write_atomic, write_json
from fedkr.errors import UserError
from fedkr.stages import Artifact, read_artifact
from simulations.evidence.privacy.answers import bench_path
from simulations.evidence.privacy.command import LEAST_PIPELINES
from simulations.evidence.privacy.figures import (
    FPR,
    STATISTIC,
    Figure,
    Left,
    Resamples,
    Subject,
    attack_figures,
    figures_of,
    guessing_aucs,
)
from simulations.evidence.privacy.figures import RELEASE as RELEASED
from simulations.evidence.privacy.picture import draw
from simulations.evidence.privacy.schedule import LOG, RELEASE
from simulations.evidence.privacy.tables import table
from simulations.evidence.privacy.variants import DEFAULT

LEVEL = 0.05
LEAST_RANKED = 4
Row = dict[str, Any]


def write_summary(out: Path) -> str:
    """Write ``privacy.json``, ``.md`` and ``.png`` of the answers in a folder; return the table.

    Raises:
        UserError: no variant has enough pipelines, or answers are of different code, options or images.
    """
    results = summarise(out)
    text = table(results)
    write_json(out / "privacy.json", results)
    write_atomic(out / "privacy.md", text.encode())
    write_atomic(out / "privacy.png", draw(results))
    return text


def summarise(out: Path) -> Row:
    """Return the results of all variants that have enough pipelines."""
    if not bench_path(out).exists():
        raise UserError(f"{out}: no answers of pipelines are there")
    bench = read_artifact(bench_path(out))
    names = ("membership", "surroundings", "labels.pool", "labels.population", "labels.test")
    if missing := [name for name in names if name not in bench.tensors]:
        raise UserError(f"{bench_path(out)}: has no {missing[0]}; summarise with the code that made the answers")
    subject = Subject(*(bench.tensors[name].numpy() for name in names))
    folders = [folder for folder in sorted(bench_path(out).parent.iterdir()) if folder.is_dir()]
    answers = {folder.name: _answers_in(folder, bench.info["shared"]) for folder in folders}
    enough = {name: found for name, found in answers.items() if len(found) >= LEAST_PIPELINES}
    if not enough:
        raise UserError(f"{out}: no variant has {LEAST_PIPELINES} pipelines yet")
    rows = [_row(name, enough, subject, _release_seconds(out)) for name in sorted(enough, key=_default_first)]
    _correct(rows)
    nonmembers = int((~subject.membership[0]).sum())
    return {
        **bench.info,
        "guessing": {"release_auc": guessing_aucs(subject), "tpr": guessing_tpr(FPR, nonmembers)},
        "statistic_ranks": _ranks_alike(rows),
        "unfinished": {name: len(found) for name, found in answers.items() if name not in enough},
        "variants": rows,
    }


def _ranks_alike(rows: list[Row]) -> float | None:
    """Return Spearman's correlation over the variants of the search's statistic with the release's AUC."""
    if len(rows) < LEAST_RANKED:
        return None
    aucs = [[row["figures"][f"{name}_auc"]["value"] for row in rows] for name in (STATISTIC, RELEASED)]
    return float(scipy.stats.spearmanr(*aucs).statistic)


def _default_first(name: str) -> tuple[bool, str]:
    return name != DEFAULT, name


def _answers_in(folder: Path, shared: str) -> dict[int, Artifact]:
    """Return a variant's answers by pipeline; :class:`UserError` where they are of another sweep than ``shared``."""
    found = {}
    for path in sorted(folder.glob("pipeline-*.safetensors")):
        answers = read_artifact(path)
        found[int(answers.info["pipeline"])] = answers
    others = any(answers.info["shared"] != shared for answers in found.values())
    if others or len({answers.info["identity"] for answers in found.values()}) > 1:
        raise UserError(f"{folder}: answers of different code, options or images; delete the older ones")
    return found


def _left(answers: Sequence[Artifact]) -> Left:
    arrays = {name: np.stack([each.tensors[name].numpy() for each in answers]) for name in answers[0].tensors}
    return Left(arrays.pop("signals"), arrays.pop("nearest"), arrays)


def _row(name: str, answers: dict[str, dict[int, Artifact]], subject: Subject, released: dict[str, float]) -> Row:
    """Return a variant's figures, and their differences from the default's with the same pipelines.

    ``as_references``: attacks on what the default left by this variant's pipelines, and how much more or less they find
    than the default's own.
    """
    pipelines = sorted(answers[name])
    own = subject.of(pipelines)
    drawn, left = Resamples(own), _left([answers[name][number] for number in pipelines])
    found = figures_of(left, own, drawn)
    figures, as_references = {key: _as_row(figure) for key, figure in found.items()}, Row()
    if name != DEFAULT and set(pipelines) <= set(answers.get(DEFAULT, {})):
        default = _left([answers[DEFAULT][number] for number in pipelines])
        usual = figures_of(default, own, drawn)
        figures = _beside(found, usual)
        as_references = _beside(attack_figures(default, own, drawn, left), usual)
    infos = [answers[name][number].info for number in pipelines]
    return {
        "name": name,
        "pipelines": len(pipelines),
        "released": infos[0]["released"],
        "device": infos[0]["device"],
        "seconds": {
            "generator": float(np.mean([info["seconds"]["generator"] for info in infos])),
            "release": released.get(name),
            "student": float(np.mean([info["seconds"]["student"] for info in infos])),
        },
        "figures": figures,
        "as_references": as_references,
    }


def _beside(found: dict[str, Figure], usual: dict[str, Figure]) -> Row:
    """Return figures as rows, each with its difference from the default's."""
    rows = Row()
    for key, figure in found.items():
        difference, p_value = figure.less(usual[key])
        rows[key] = _as_row(figure) | {"difference": _as_row(difference), "p_value": p_value}
    return rows


def _as_row(figure: Figure) -> Row:
    low, high = figure.interval
    return {"value": figure.value, "low": low, "high": high}


def _correct(rows: list[Row]) -> None:
    """Say of each difference whether it is one among all variants of its figure (Holm)."""
    for key in rows[0]["figures"]:
        tested = [row["figures"][key] for row in rows if "p_value" in row["figures"][key]]
        for figure, rejected in zip(tested, holm_reject([f["p_value"] for f in tested], LEVEL), strict=True):
            figure["significant"] = rejected


def _release_seconds(out: Path) -> dict[str, float]:
    """Return the mean seconds of drawing and labelling a release, by variant, as far as the log has them."""
    longest = dict[tuple[str, int], float]()
    log = out / LOG
    for line in log.read_text().splitlines() if log.exists() else []:
        task = json.loads(line)
        if task["kind"] == RELEASE:
            key = task["variant"], task["pipeline"]
            # Of a task that was done before, reading it takes no time.
            longest[key] = max(task["seconds"], longest.get(key, 0.0))
    names = {name for name, _ in longest}
    return {name: float(np.mean([s for (own, _), s in longest.items() if own == name])) for name in names}
