"""``centralised``: the oracle that pools all private images, which only a simulation can have, and its audit."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

from fedkr.audit.targets import row_key
from fedkr.config import Study
from fedkr.data import ImageSet, SiteData, joined
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.learning.classifier import train_on_real
from fedkr.learning.job import Job
from fedkr.learning.models import load_classifier
from fedkr.learning.runtime import Runtime
from fedkr.progress import FileProgress
from fedkr.stages import Artifact, StageStore, model_tensors, read_artifact, write_artifact
from fedkr.wire import Pair, weights_digest
from server.audit import common_row, paired_row, with_summaries
from server.comparison import describe_model, measure_model
from sites.audit import SiteAudit
from sites.workspace import Site, open_site

Results = dict[str, Any]
NAME = "centralised"


@dataclasses.dataclass(frozen=True)
class Oracle:
    """The centralised model's row of the comparison."""

    row: dict[str, Any]


def run_centralised(study: Study, sites: dict[str, SiteData], test: ImageSet, run_dir: Path) -> Oracle:
    """Train on the union of the sites' training splits with the comparison's recipe; measure and keep the model.

    Its bytes are those of the raw training images, which is what pooling them would send.
    """
    runtime = Runtime.choose(study.device, study.precision, study.threads)
    folder = run_dir / NAME
    model = StageStore(folder / "stages").run(
        "model", {"study": study.identity()}, lambda: _train(study, pooled(sites), runtime, folder)
    )
    card = {"channels": test.channels, "size": test.size, "classes": list(test.classes)}
    write_artifact(
        run_dir / "models" / f"{NAME}.safetensors",
        Artifact(model.tensors, model.info | describe_model(study, card)),
    )
    per_site: list[dict[str, Any]] = [
        {"site": name, **measure_model(study, model, data.test, runtime), **_raw_cost(data)}
        for name, data in sites.items()
    ]
    row = {
        "name": NAME,
        **measure_model(study, model, test, runtime),
        "bytes_up": sum(entry["bytes_up"] for entry in per_site),
        "bytes_down": 0,
        "seconds": model.info["seconds"],
        "per_site": per_site,
    }
    return Oracle(row)


def pooled(sites: dict[str, SiteData]) -> ImageSet:
    """Return the union of the sites' training splits."""
    return joined([data.train for data in sites.values()])


def _train(study: Study, data: ImageSet, runtime: Runtime, folder: Path) -> Artifact:
    started = time.perf_counter()
    job = Job(runtime, FileProgress(folder), study.data.flip, (study.seed, "server", NAME))
    model = train_on_real(study.student, data, job, NAME)
    return Artifact(model_tensors(model), {"seconds": time.perf_counter() - started})


def _raw_cost(data: SiteData) -> dict[str, int]:
    return {"bytes_up": int(data.train.images.nbytes), "bytes_down": 0}


def with_audit(study: Study, run_dir: Path, results: Results) -> Results:
    """Return results with the audit of the run's centralised model, by the sites' own code in their own workspaces.

    Call it when the apps have ended: reference models and the student's scores are at the sites, and stay there.

    Args:
        study: as the apps ran it, or with other settings of the audit.
        run_dir: the run's folder, with the model in ``models/``.
        results: the apps' results; rows of an earlier audit of this model are replaced.
    """
    path = run_dir / "models" / f"{NAME}.safetensors"
    if not study.audit.enabled or NAME not in study.audit.targets or not path.exists():
        return results
    model, stages = read_artifact(path), StageStore(run_dir / NAME / "stages")
    about = weights_digest(model.tensors)
    rows = [row for row in results["audit"] if row["target"] != NAME]
    extras: dict[str, list[Any]] = {name: _without_centralised(old) for name, old in results["audit_extras"].items()}
    for index in range(study.federation.sites):
        site = open_site({"partition-id": index}, study)
        if site.name not in {entry["name"] for entry in results["sites"]}:
            continue
        key = {"study": study.identity(), "model": about, "student": _student_digest(run_dir)}
        keys = {row_key(row["attack"], row["references"]) for row in rows if _is_of(row, site.name, "student")}
        work = partial(_audit_site, site, model, about, _student_digest(run_dir), keys)
        try:
            found = stages.run(f"audit-{site.name}", key | {"rows": sorted(keys)}, work).info
        except UserError as error:
            extras.setdefault("notes", []).append(f"{site.name} is left out (audit of {NAME}): {error}")
            continue
        rows += found["rows"]
        for name, values in found["extras"].items():
            extras.setdefault(name, []).extend(values)
    audit, summed = with_summaries(rows, extras)
    return {**results, "audit": audit, "audit_extras": summed}


def _audit_site(site: Site, model: Artifact, about: str, student: str, student_rows: set[str]) -> Artifact:
    """Attack the model at one site and compare it with the student that was attacked there before."""
    train, work = site.data.train, SiteAudit(site)
    network = load_classifier(site.study.student, Shape.of(train), model.tensors, site.runtime)
    report = work.attack(NAME, network, about)
    row = common_row(site.study.audit.headline, student_rows, {row.key for row in report.rows})
    extras = report.extras()
    if row is not None:
        pair = Pair(row, "student", student, NAME, about)
        found = work.compare(row, ("student", student), (NAME, about))
        extras["paired"] = [paired_row(site.name, pair, found.difference, found.low, found.high)]
    work.write_report()
    return Artifact({}, {"rows": [row.as_row() for row in report.rows], "extras": extras})


def _student_digest(run_dir: Path) -> str:
    path = run_dir / "models" / "student.safetensors"
    return weights_digest(read_artifact(path).tensors) if path.exists() else ""


def _is_of(row: dict[str, Any], site: str, target: str) -> bool:
    return row["site"] == site and row["target"] == target


def _without_centralised(rows: list[Any]) -> list[Any]:
    return [row for row in rows if isinstance(row, str) or NAME not in (row.get("target"), row.get("other"))]
