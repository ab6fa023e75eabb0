"""Which evaluation of a teacher to keep: the rules of ``teacher.keep_by`` by cross-validation, without the test images.

``python -m simulations.evidence.keep_rules [OVERRIDE ...]``, with the overrides of ``fedkr kr``: each quarter of the
training and val images is set apart in turn, the teacher is trained on the rest, a val split of which chooses by each
rule, and the quarter says what the choice was worth. With other overrides it compares recipes in the same way.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from fedkr.config import KEEP_RULES, Study
from fedkr.data.images import ImageSet, Shape, content_digest
from fedkr.data.registry import Source
from fedkr.data.stratify import deal
from fedkr.disk import write_json
from fedkr.environment import provenance
from fedkr.errors import UserError
from fedkr.learning.classifier import ClassifierTraining, real_batches
from fedkr.learning.evaluation import Utility, measure_utility
from fedkr.learning.job import Job
from fedkr.learning.models import build_classifier
from fedkr.learning.prediction import predict_logits
from fedkr.learning.runtime import Runtime
from fedkr.progress import FileProgress
from fedkr.recycle.teacher import advance_in_parts, rank
from fedkr.seeds import derive_seed, numpy_rng
from fedkr.stages import Artifact, StageStore
from simulations.exits import guarded
from simulations.run_folder import RunFolder
from simulations.study.application import compose_and_run
from simulations.study.command import portable
from simulations.study.summary import spread

FOLDS = 4
FIGURES = ("accuracy", "auc")
RESULT_FILE = "keep_rules.json"


@dataclasses.dataclass(frozen=True)
class Fold:
    """Images to train on, to choose an evaluation by, and to say what the choice was worth."""

    train: ImageSet
    val: ImageSet
    apart: ImageSet


def deal_folds(study: Study, source: Source) -> list[Fold]:
    """Return the folds of a dataset's training and val images; the quarters set apart are disjoint and cover them.

    Raises:
        UserError: a fold would have an empty part, or one class to train on.
    """
    pool, seed = source.pool, ("keep rules", study.seed)
    val_share = source.val / len(pool) if source.val else study.split.val
    folds = []
    for number, apart in enumerate(deal(pool.labels, [1 / FOLDS] * FOLDS, numpy_rng(*seed), pool.groups, least=0)):
        rest = pool.subset(np.setdiff1d(np.arange(len(pool)), apart))
        train, val = deal(rest.labels, (1 - val_share, val_share), numpy_rng(*seed, number), rest.groups)
        fold = Fold(rest.subset(train), rest.subset(val), pool.subset(apart))
        if not (len(fold.val) and len(fold.apart) and np.count_nonzero(fold.train.class_counts()) > 1):
            raise UserError(
                f"{study.data.name}: {len(pool)} training and val images are too few for {FOLDS} folds with a val "
                "split and two classes to train on in each; name a larger dataset"
            )
        folds.append(fold)
    return folds


def look(study: Study, fold: Fold, number: int, job: Job) -> Iterator[dict[str, Any]]:
    """Train a fold's teacher to the end; yield each evaluation's figures on val and those on the images ``apart``."""
    config, train, job = study.teacher, fold.train, replace(job, seed=("keep rules", study.seed, number))
    model = build_classifier(config, Shape.of(train), derive_seed(*job.seed))
    work = ClassifierTraining(model, config, real_batches(train, config.batch, *job.seed), job)
    for step in advance_in_parts(work, config.evaluations, f"fold {number + 1} of {FOLDS}"):
        here, there = _utility(work, fold.val), _utility(work, fold.apart)
        apart = {name: getattr(there, name) for name in FIGURES}
        yield {"step": step, "accuracy": here.accuracy, "loss": here.loss, "apart": apart}


def _utility(work: ClassifierTraining, images: ImageSet) -> Utility:
    return measure_utility(
        predict_logits(work.model, images.images, work.job.runtime), images.labels, len(images.classes)
    )


def compare(folds: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Return, for each rule, its choices' figures on the images set apart (over the folds) and their steps.

    Args:
        folds: every fold's evaluations, as :func:`look` yields them. Patience is not applied.
    """
    rules = dict[str, Any]()
    for rule in KEEP_RULES:
        # Of equals the later one, as in training.
        kept = [max(reversed(found), key=lambda figures: rank(figures, rule)) for found in folds]
        rules[rule] = {name: spread([figures["apart"][name] for figures in kept]) for name in FIGURES}
        rules[rule]["steps"] = [figures["step"] for figures in kept]
    return rules


def run_keep_rules(study: Study) -> Path:
    """Compare the rules on a study's dataset, or continue to; return the file that the run folder receives.

    Raises:
        UserError: settings or data that no comparison could work with.
    """
    run = RunFolder.of_study(study, prefix="keep-")
    study, count = run.study, len(run.source.pool)
    folds, out = deal_folds(study, run.source), run.files.folder / RESULT_FILE
    runtime = Runtime.choose(study.device, study.precision, study.threads)
    with run.at_work({study.data.name: run.files.folder}):
        job = Job(runtime, FileProgress(run.files.folder), study.data.flip)
        found = [evaluations(study, fold, number, job) for number, fold in enumerate(folds)]
        rules = compare(found)
        result = {"rules": rules, "evaluations": found, "images": count, "runtime": runtime.describe()}
        write_json(out, result | {"study": portable(dataclasses.asdict(study)), **provenance()})
    run.console.print(rules_table(f"{study.data.name}: {FOLDS} folds of {count} images", rules))
    return out


def evaluations(study: Study, fold: Fold, number: int, job: Job) -> list[dict[str, Any]]:
    """Return a fold's evaluations; each fold is a stage, so that a restart repeats none."""
    key = {"seed": study.seed, "threads": study.threads, **job.describe(), "teacher": dataclasses.asdict(study.teacher)}
    key |= {"fold": number, "parts": [content_digest(images) for images in (fold.train, fold.val, fold.apart)]}

    def compute() -> Artifact:
        """Train the fold's teacher."""
        return Artifact({}, {"evaluations": list(look(study, fold, number, job))})

    stages = StageStore(Path(study.run_dir) / "stages")
    return list(stages.run("keep-rules", key, compute).info["evaluations"])


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
    """Compare the rules on what the overrides describe."""
    return compose_and_run(arguments, run_keep_rules, "python -m simulations.evidence.keep_rules", "kr")


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
