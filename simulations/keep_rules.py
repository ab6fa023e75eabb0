"""Which evaluation of a classifier to keep: ``teacher.keep_by`` by nested cross-validation, without the test images.

``python -m simulations.keep_rules OUT.json [OVERRIDE ...]``, with the overrides of ``fedkr kr``: each quarter of the
training and val images is set apart in turn, the teacher is trained on the rest, a val split of which chooses by each
rule, and the quarter says what the choice was worth. With other overrides it compares recipes in the same way.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fedkr.artifacts import write_atomic
from fedkr.config import Study
from fedkr.data.imageset import ImageSet
from fedkr.data.source import Source
from fedkr.data.stratify import deal
from fedkr.environment import hardware, package_versions
from fedkr.errors import UserError
from fedkr.evaluation import Utility, measure_utility
from fedkr.models import build_classifier
from fedkr.progress import Progress
from fedkr.recycle.classifier import ClassifierTraining, real_batches
from fedkr.recycle.teacher import rank
from fedkr.seeds import derive_seed, numpy_rng
from fedkr.training import Runtime, predict_logits
from simulations.guard import guarded
from simulations.live import shown
from simulations.main import compose_and_run
from simulations.study import prepared
from simulations.summary import spread

FOLDS = 4
RULES = ("accuracy", "loss", "last")
FIGURES = ("accuracy", "auc")


def compare_rules(study: Study, source: Source, runtime: Runtime, progress: Progress) -> dict[str, Any]:
    """Return, for each rule, the figures that its choices have on the quarters set apart: mean, deviation, each fold.

    Args:
        study: its teacher is what is trained; patience is not applied.
        source: its pool (training and val images) is divided, its test images are not read.
        runtime: device and precision.
        progress: is told of every step.
    """
    pool = source.pool
    val_share = source.val / len(pool) if source.val else study.split.val
    quarters = deal(pool.labels, [1 / FOLDS] * FOLDS, numpy_rng("keep rules", study.seed), pool.groups)
    evaluations = list[list[dict[str, Any]]]()
    for number, quarter in enumerate(quarters):
        rest = pool.subset(np.setdiff1d(np.arange(len(pool)), quarter))
        rng = numpy_rng("keep rules", study.seed, number)
        train, val = (rest.subset(part) for part in deal(rest.labels, (1 - val_share, val_share), rng, rest.groups))
        evaluations.append(_evaluations(study, train, val, pool.subset(quarter), runtime, progress, number))
    rules = dict[str, Any]()
    for rule in RULES:
        # Of equals the later one, as in training.
        kept = [max(reversed(found), key=lambda figures: rank(figures, rule)) for found in evaluations]
        rules[rule] = {f: spread([figures["apart"][f] for figures in kept]) for f in FIGURES}
        rules[rule]["steps"] = [figures["step"] for figures in kept]
    return {"rules": rules, "images": len(pool), "evaluations": evaluations}


def _evaluations(
    study: Study, train: ImageSet, val: ImageSet, apart: ImageSet, runtime: Runtime, progress: Progress, number: int
) -> list[dict[str, Any]]:
    """Train one fold's teacher to the end; return every evaluation's figures on val and, as ``apart``, on the fold."""
    config, seed = study.teacher, ("keep rules", study.seed, number)
    model = build_classifier(config, train.channels, train.size, len(train.classes), derive_seed(*seed))
    batches = real_batches(train, config.batch, *seed)
    work = ClassifierTraining(model, config, batches, flip=study.data.flip, runtime=runtime, seed=seed)
    stage, found = f"fold {number + 1} of {FOLDS}", list[dict[str, Any]]()
    for evaluation in range(1, config.evaluations + 1):
        work.advance(config.steps * evaluation // config.evaluations, progress, stage)
        here, there = (_utility(work, images) for images in (val, apart))
        apart_figures = {name: getattr(there, name) for name in FIGURES}
        figures = {"step": work.training.step, "accuracy": here.accuracy, "loss": here.loss}
        found.append(figures | {"apart": apart_figures})
    progress.finish(stage)
    return found


def _utility(work: ClassifierTraining, images: ImageSet) -> Utility:
    return measure_utility(predict_logits(work.model, images.images, work.runtime), images.labels, len(images.classes))


def rules_table(title: str, rules: dict[str, Any]) -> Table:
    """Return the table of the rules' figures, means over the folds."""
    table = Table(title=title)
    for column in ("teacher.keep_by", "accuracy", "AUC"):
        table.add_column(column, justify="left" if column == "teacher.keep_by" else "right")
    for name, figures in rules.items():
        auc = figures["auc"]["mean"]
        table.add_row(name, f"{100 * figures['accuracy']['mean']:.1f} %", "-" if auc is None else f"{auc:.3f}")
    return table


def main(arguments: Sequence[str]) -> int:
    """Compare the rules on what the overrides describe, and write the figures to the file that comes first."""
    if not arguments or "=" in arguments[0] or arguments[0].startswith("-"):
        raise UserError("usage: python -m simulations.keep_rules OUT.json [OVERRIDE ...], overrides as in `fedkr kr`")
    out, console = Path(arguments[0]), Console()

    def run(study: Study) -> None:
        """Compare, write, print."""
        study, source = prepared(study, console, prefix="kr-")
        runtime = Runtime.choose(study.device, study.precision, study.threads)
        with shown(study.data.name) as progress:
            found = compare_rules(study, source, runtime, progress)
        found |= {"teacher": dataclasses.asdict(study.teacher), "data": study.data.name, "seed": study.seed}
        found |= {"hardware": hardware(), "versions": package_versions()}
        write_atomic(out, json.dumps(found, indent=1).encode() + b"\n")
        console.print(rules_table(f"{study.data.name}: {FOLDS} folds of {found['images']} images", found["rules"]))

    return compose_and_run(arguments[1:], run, "python -m simulations.keep_rules", "kr")


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
