"""Oracles: contestants that need all private images in one place, which only a simulation's driver has."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

from fedkr.config import Study
from fedkr.data import ImageSet, SiteData
from fedkr.foreign import import_named, module_digest
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.progress import FileProgress
from fedkr.recycle.tuned import TUNING
from fedkr.run_files import RunFiles
from fedkr.stages import Artifact, StageStore
from server.contestant import COSTS
from server.targets import Target, measure_model
from simulations.audit_run.server import audit_on_server
from simulations.backends.inline import InlineGrid

Row = dict[str, Any]


class Oracle(Protocol):
    """A module that a contestant's file names as its ``kind``, with ``driver: true``."""

    def train(self, study: Study, sites: Collection[SiteData], job: Job) -> Artifact:
        """Return the study's classifier, trained on whatever of the sites' images the oracle is allowed to see.

        Where ``info`` says how it was tuned (:data:`fedkr.recycle.tuned.TUNING`), the results do, too.
        """


@dataclass(frozen=True)
class OracleOutcome:
    """What an oracle ends with: rows of ``strategies`` and of ``targets`` in ``results.json``."""

    row: Row
    target: Row


def oracle_of(study: Study, name: str) -> Oracle:
    """Return an oracle's module; raise :class:`UserError` where there is none."""
    kind = str(study.strategy.options[name].get("kind"))
    return cast(Oracle, import_named(f"strategy.options.{name}.kind", kind, "function train"))


def run_oracle(name: str, study: Study, sites: Mapping[str, SiteData], test: ImageSet, run_dir: Path) -> OracleOutcome:
    """Train an oracle's model, measure it and keep it.

    Its bytes are those of the raw training images, which is what pooling them would send.
    """
    runtime, folder = Runtime.choose(study.device, study.precision, study.threads), RunFiles(run_dir).oracle(name)

    job = Job(runtime, FileProgress(folder), study.data.flip, (study.seed, "server", name))
    oracle = oracle_of(study, name)

    def train() -> Artifact:
        started = time.perf_counter()
        model = oracle.train(study, list(sites.values()), job)
        return Artifact(model.tensors, model.info | {"seconds": time.perf_counter() - started})

    # This floor's code is not in the version of the stages' own.
    key = {"study": study.identity(), "code": module_digest(cast(ModuleType, oracle)), **job.describe()}
    model = StageStore(folder / "stages").run("model", key, train)
    card = {"channels": test.channels, "size": test.size, "classes": list(test.classes)}
    target = Target(name, "oracle", name, model=model).keep(run_dir, study, card)
    per_site: list[Row] = [
        {"site": site, **measure_model(study, model, data.test, runtime), **dict.fromkeys(COSTS, 0)}
        | {"bytes_up": int(data.train.images.nbytes)}
        for site, data in sites.items()
    ]
    costs = {"bytes_up": sum(row["bytes_up"] for row in per_site), "bytes_down": 0, "seconds": model.info["seconds"]}
    tuning = {"tuning": {key: model.info[key] for key in TUNING if key in model.info}}
    row = {"name": name, **measure_model(study, model, test, runtime), **costs, **tuning, "per_site": per_site}
    return OracleOutcome(row, target)


def merged(results: Row, oracles: Mapping[str, OracleOutcome]) -> Row:
    """Return the apps' results with the oracles' rows, the comparison in its order."""
    rows = {row["name"]: row for row in results["strategies"]} | {name: found.row for name, found in oracles.items()}
    named = [rows[name] for name in results["study"]["strategy"]["compare"] if name in rows]
    targets = [*results["targets"], *(found.target for found in oracles.values())]
    notes = [note for note in results["notes"] if note.split()[0] not in oracles]
    return results | {"strategies": named, "targets": targets, "notes": notes}


def with_audit(study: Study, run_dir: Path, results: Row) -> Row:
    """Return results whose audit holds the oracles too, attacked by the sites' own code in their own workspaces.

    Call it when the apps have ended. What they answered is on disk, and is read; reference models and the scores of
    other targets, which the oracles are compared with, are at the sites, and stay there.
    ``study`` is as the apps ran it, or with other settings of the audit; ``results`` hold the oracles' too.
    """
    oracles = [Target.read(run_dir, row) for row in results["targets"] if row["kind"] == "oracle"]
    wanted = [oracle for oracle in oracles if any(oracle.is_called(name) for name in study.audit.targets)]
    if not study.audit.enabled or not wanted:
        return results
    # Imported here: a driver of other processes needs no site's code until they have ended.
    from sites.app import app

    found = audit_on_server(InlineGrid(app, study.federation.sites, {}), study, run_dir, results)
    notes = [note for note in results["notes"] if note not in results["audit_extras"].get("notes", [])]
    audit = {name: found[name] for name in ("audit", "audit_extras")}
    lost = [f"{site} (left out of the audit)" for site in found["missing_sites"]]
    return results | audit | {"notes": notes + found["audit_extras"]["notes"] + lost}
