"""Knowledge Recycling at one site alone, from a composed configuration to a table: the CAS gap and the ablation."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from fedkr.config import Study
from fedkr.disk import write_atomic, write_json
from fedkr.environment import provenance
from fedkr.errors import UserError
from fedkr.learning.runtime import Runtime
from fedkr.progress import FileProgress
from fedkr.recycle.ablation import ABLATION, USUAL, SingleSite, Variant
from simulations.run_folder import RunFolder, facts_of
from simulations.study.application import compose_and_run

PROGRAM, CONFIG = "fedkr kr", "kr"
ABLATION_FLAG = "--ablation"


def main(arguments: Sequence[str]) -> int:
    """Run ``fedkr kr`` on command-line arguments: overrides as in ``fedkr simulate``, and ``--ablation``."""
    variants = ABLATION if ABLATION_FLAG in arguments else USUAL
    return compose_and_run(arguments, lambda study: run_single_site(study, variants), PROGRAM, CONFIG, [ABLATION_FLAG])


def run_single_site(study: Study, variants: Sequence[Variant]) -> Path:
    """Run Knowledge Recycling on one site with all of a dataset, or continue it; return the run folder.

    The folder receives ``results.json``: the figures on test, and each student's ``fidelity`` to its teacher on val, to
    compare recipes by. It receives ``tuning.csv``, every candidate that the search scored, and a table is printed.
    Stages are shared by all variants, so that a later ``--ablation`` trains only what is missing.

    Raises:
        UserError: settings or data that no run could work with.
    """
    if study.privacy.guaranteed:
        raise UserError(
            f"privacy.mode=dp: {PROGRAM} compares recipes whose labels and choices come from real images; measure a "
            "release with a guarantee by `fedkr simulate privacy=dp federation.sites=1`"
        )
    run = RunFolder.of_study(study, prefix="kr-")
    folder, study = run.files.folder, run.study
    runtime = Runtime.choose(study.device, study.precision, study.threads)
    facts = facts_of(run.source)
    run.warn(*facts["warnings"])
    with run.at_work({"site": folder}):
        site = SingleSite(study, run.source, folder / "stages", runtime, FileProgress(folder))
        # What an earlier ablation trained stays in the results.
        known = [variant for variant in ABLATION if variant in variants or site.knows(variant)]
        results = measure(site, study, known) | {"data": facts}
        write_json(run.files.results, results)
        write_atomic(folder / "tuning.csv", search_csv(results).encode())
    run.console.print(comparison_table(results))
    run.warn(*facts["warnings"])
    return folder


def measure(site: SingleSite, study: Study, variants: Sequence[Variant]) -> dict[str, Any]:
    """Return the reference, every variant's student, and what the generator and the search cost."""
    reference = site.reference()
    costs = site.costs()
    return {
        "study": dataclasses.asdict(study),
        "seed": study.seed,
        "images": {"train": len(site.data.train), "val": len(site.data.val), "test": len(site.test)},
        "reference": reference,
        "rows": [site.student(variant) for variant in variants],
        **costs,
        **provenance(),
    }


def search_csv(results: dict[str, Any]) -> str:
    """Return every candidate of checkpoint optimisation and tuning with its score on val."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["stage", "checkpoint", "knobs", "score", "loss"])
    for row in results["checkpoints"]:
        writer.writerow(["checkpoint", row["step"], "", row["score"], row["loss"]])
    for row in results["tuning"]:
        writer.writerow(["tuning", results["checkpoint"], json.dumps(row["knobs"]), row["score"], row["loss"]])
    return out.getvalue()


def comparison_table(results: dict[str, Any]) -> Table:
    """Return the table of a run: each student beside the classifier of real images, in points of accuracy."""
    reference = results["reference"]
    table = Table(title=f"{results['study']['data']['name']}, seed {results['seed']}: student against real images")
    for column in ("", "accuracy", "AUC", "gap in points"):
        table.add_column(column, justify="right" if column else "left")
    for row in (reference, *results["rows"]):
        gap = "" if row is reference else f"{100 * (row['accuracy'] - reference['accuracy']):+.2f}"
        auc = "-" if row["auc"] is None else f"{row['auc']:.3f}"
        table.add_row(row["name"], f"{100 * row['accuracy']:.2f} %", auc, gap)
    return table
