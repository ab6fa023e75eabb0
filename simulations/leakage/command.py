"""The leakage curve of a study, one command: ``fedkr leakage RUN`` or ``fedkr leakage [OPTION=VALUE ...]``.

Accuracy on the global test images and the headline attack's AUC at every site, for students of more and more
synthetic images. Teacher, generator and reference models are trained once; a point costs one student.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from torch import nn

from fedkr.audit.leakage_curve import CurvePoint, SyntheticSlices, curve_points, draw_slices, training_sets
from fedkr.audit.statistics.pooling import pooled_rows, worst_site
from fedkr.config import AuditConfig, Study
from fedkr.data import ImageSet
from fedkr.data.images import Shape, content_digest
from fedkr.disk import write_atomic, write_json
from fedkr.environment import provenance
from fedkr.errors import UserError
from fedkr.learning.classifier import train_on_real
from fedkr.learning.job import Job
from fedkr.learning.models import load_classifier
from fedkr.learning.prediction import predict_logits
from fedkr.learning.runtime import Runtime
from fedkr.progress import FileProgress
from fedkr.recycle.distill import distill_student, for_union
from fedkr.release import ReleasedSets
from fedkr.stages import Artifact, StageStore, model_tensors
from simulations.leakage.figures import as_csv, as_png
from simulations.live import run_folders
from simulations.run_folder import RunFolder
from simulations.study.application import PROGRAM as SIMULATE
from simulations.study.application import compose_and_run
from simulations.study.centralised import pooled
from simulations.study.command import command_of, portable
from sites.audit import SiteAudit
from sites.workspace import open_site

PROGRAM, CONFIG, FOLDER = "fedkr leakage", "leakage", "leakage"
HEADLINE = "rmia"
LEAST_REFERENCES = 16
Row = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Run ``fedkr leakage`` on a run's folder, or on overrides as in ``fedkr simulate``.

    A folder that is no simulation's, and options beside one, are a :class:`UserError`.
    """
    if not arguments or arguments[0].startswith("-") or "=" in arguments[0]:
        return compose_and_run(arguments, measure_study, PROGRAM, CONFIG)
    if len(arguments) > 1:
        raise UserError(f"{arguments[1]}: a run has its options already; give a run folder or options, not both")
    measure_run(Path(arguments[0]))
    return 0


def measure_run(run: Path) -> Path:
    """Measure the curve of a run, with the teachers, generators and reference models that its sites have.

    Raise :class:`UserError` where there is no such run, or its sites' images are not here.
    """
    return _measured(RunFolder.of_run(run))


def measure_study(study: Study) -> Path:
    """Measure the curve of a study in a run folder of its own; return the folder of the results."""
    return _measured(RunFolder.of_study(study, prefix="leakage-"))


def _measured(run: RunFolder) -> Path:
    folder, facts = run.files.folder, run.data_facts
    run.warn(*facts["warnings"])
    with run.at_work(live_folders(folder, run.study.federation.sites)):
        study = dataclasses.replace(run.study, audit=curve_audit(run.study.audit))
        results = LeakageCurve(study).results(curve_points()) | {"data": facts}
        command = command_of(run.study)
        results["command"] = command and command.replace(SIMULATE, PROGRAM, 1)
        out = write_results(results, folder / FOLDER)
    for row in results["rows"]:
        run.say(_line(row))
    run.warn(*facts["warnings"])
    run.say(f"results: {out}")
    return out


def curve_audit(audit: AuditConfig) -> AuditConfig:
    """Return the curve's audit: RMIA with direct references, which all points share, beside the bare loss threshold."""
    return dataclasses.replace(
        audit,
        enabled=True,
        attacks=[HEADLINE, "loss"],
        headline=HEADLINE,
        direct_references=max(LEAST_REFERENCES, audit.direct_references),
        pipeline_references=0,
    )


def live_folders(run_dir: Path, sites: int) -> dict[str, Path]:
    """Return where the curve's parts report their progress."""
    folders = run_folders(run_dir, sites)
    del folders["server"]
    return folders | {"students": run_dir / FOLDER}


class LeakageCurve:
    """The simulated sites of a study, and the students of a curve.

    The study has a ``run_dir``, in whose site folders finished stages are found, and an audit with references.
    """

    def __init__(self, study: Study) -> None:
        self.study, folder = study, Path(study.run_dir) / FOLDER
        self.runtime = Runtime.choose(study.device, study.precision, study.threads)
        self.stages = StageStore(folder / "stages")
        self.job = Job(self.runtime, FileProgress(folder), study.data.flip, (study.seed, FOLDER))
        self._key = {"seed": study.seed, "threads": study.threads, **self.job.describe()}
        opened = [open_site({"partition-id": i}, study) for i in range(study.federation.sites)]
        self.audits = [SiteAudit(site) for site in opened]
        self.test = opened[0].global_test
        self.recipe = for_union(study.student, len(opened))
        self._key["student"] = dataclasses.asdict(self.recipe)

    def results(self, points: Sequence[CurvePoint]) -> dict[str, Any]:
        """Return the figures of every point, and of the same classifier trained on the sites' real images."""
        self._share_releases()
        slices = [draw_slices(audit.pipeline, max(point.slices for point in points)) for audit in self.audits]
        rows = [self.point(point, slices) for point in points]
        counted = {audit.site.name: audit.challenge_of("student") for audit in self.audits}
        return {
            "study": portable(dataclasses.asdict(self.study)),
            "seed": self.study.seed,
            "headline": f"{HEADLINE}@direct",
            "references": self.study.audit.direct_references,
            "test_images": len(self.test),
            "members": {site: len(challenge.members) for site, challenge in counted.items()},
            "nonmembers": {site: len(challenge.nonmembers) for site, challenge in counted.items()},
            "real": self.real(),
            "rows": rows,
            **provenance(),
        }

    def point(self, point: CurvePoint, slices: Sequence[SyntheticSlices]) -> Row:
        """Train a point's student, or read it, and return its figures."""
        trained = point.training
        sets = training_sets(trained, slices)
        key = self._key | {"slices": [audit.pipeline.choice_key() for audit in self.audits], **vars(trained)}

        stage = f"student of {trained.labels} labels, {trained.sweep} {trained.value:g}"
        train = partial(distill_student, self.recipe, sets, self.job.seeded("student"), stage)
        network = self._network("student", key, train)
        return vars(point) | {"images_a_set": len(sets(0)[0])} | self._figures(network)

    def real(self) -> Row:
        """Return the figures of the classifier trained on all sites' training images: what leaks without recycling."""
        data = pooled(audit.site.data for audit in self.audits)
        train = partial(train_on_real, self.recipe, data, self.job.seeded("real"), "student of real images")
        return self._figures(self._network("real", self._key | {"train": content_digest(data)}, train))

    def _network(self, stage: str, key: dict[str, Any], train: Callable[[], nn.Module]) -> nn.Module:
        weights = self.stages.run(stage, key, lambda: Artifact(model_tensors(train()))).tensors
        return load_classifier(self.study.student, Shape.of(self.test), weights, self.runtime)

    def _figures(self, model: nn.Module) -> Row:
        sites = [row for audit in self.audits for row in audit.report("student", model).rows]
        sites = [{name: value for name, value in row.items() if name != "roc"} for row in sites]
        headline = [row for row in sites if row["headline"]]
        (everywhere,), (worst,) = pooled_rows(headline), worst_site(headline)
        return {
            **accuracy(predict_logits(model, self.test.images, self.runtime), self.test),
            **everywhere,
            "mean_auc": float(np.mean([row["auc"] for row in headline])),
            **{f"worst_{name}": worst[name] for name in ("site", "auc", "auc_low", "auc_high")},
            "loss_auc": next(row["auc"] for row in pooled_rows(sites) if row["attack"] == "loss"),
            "per_site": headline,
        }

    def _share_releases(self) -> None:
        """Give every site the other sites' releases: its references train on them too, as in the study itself."""
        released = [ReleasedSets.of_releases(audit.releases()) for audit in self.audits]
        for audit in self.audits:
            others = [sets for sets, owner in zip(released, self.audits, strict=True) if owner is not audit]
            audit.keep_others(reduce(ReleasedSets.united, others) if others else None)


def accuracy(logits: np.ndarray, test: ImageSet) -> Row:
    """Return accuracy on the test images with its 95 % interval (Wilson's score)."""
    right = int((logits.argmax(1) == test.labels).sum())
    interval = scipy.stats.binomtest(right, len(test)).proportion_ci(method="wilson")
    return {"accuracy": right / len(test), "accuracy_low": interval.low, "accuracy_high": interval.high}


def write_results(results: dict[str, Any], folder: Path) -> Path:
    """Write the curve as JSON, CSV and PNG; return the folder."""
    write_json(folder / "leakage.json", results)
    write_atomic(folder / "leakage.csv", as_csv(results).encode())
    write_atomic(folder / "leakage.png", as_png(results))
    return folder


def _line(row: Row) -> str:
    auc = f"AUC {row['auc']:.3f} ({row['auc_low']:.3f} to {row['auc_high']:.3f})"
    worst = f"worst {row['worst_site']} {row['worst_auc']:.3f}"
    return f"{row['labels']} labels, {row['sweep']} {row['value']:g}: accuracy {row['accuracy']:.3f}, {auc}, {worst}"
