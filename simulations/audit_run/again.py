"""``fedkr audit RUN``: a finished run is audited again, by the same sites' code, with nothing else trained again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkr.config import AuditConfig, Study
from fedkr.errors import UserError
from fedkr.learning.public_features import check_installed
from fedkr.report.results import Results, load_results
from fedkr.stages import code_version
from server.composition import compose_study
from simulations.backends import make_backend
from simulations.live import run_folders
from simulations.run_folder import RunFolder
from simulations.study.oracles import with_audit

# Nothing but the audit is left to run: one process starts at once and shows errors as they are, and the numbers are
# the same on every backend. `backend=ray` lets the sites work side by side.
BACKEND = "inline"
# Binds the audit's ServerApp in place of the study's.
SHIM = "simulations.audit_run.shim"
# A light audit is what the run itself did; whoever asks again asks for more.
PRESET = "full"
# They decide what the sites train on.
OF_THE_DATA = ("canaries", "canary_kinds", "canary_toss", "coins")


def audit_again(run: Path, overrides: Sequence[str]) -> Path:
    """Audit a finished run of ``fedkr simulate`` again; return the path of its new ``report.html``.

    The run's models and kept releases are attacked in the sites' workspaces. Finished reference models and attacks are
    stages there, so that the same command continues an audit that was stopped. The former ``results.json`` is kept in
    ``earlier-audits/``. Overrides are as in ``fedkr simulate``, of ``audit`` and ``backend`` only.

    Raises:
        UserError: a run that is not finished or not a simulation, other data, or overrides that change more than the
            audit.
        StudyFailedError: the audit ended without completing; the same command continues it.
    """
    folder = RunFolder.of_run(run)
    study = with_overrides(finished_study(folder), overrides)
    folder.say(
        f"audit of {run}: {describe(study.audit)}; finished parts are kept, the same command continues after a stop"
    )
    with folder.at_work(run_folders(folder.files.folder, study.federation.sites, study.strategy.names(driver=True))):
        results = _audited(study, folder, load_results(run))
        report = folder.write_report(results)
    folder.tell(report, results["audit_extras"].get("notes", []))
    return report


def finished_study(run: RunFolder) -> Study:
    """Return the study of a run; raise :class:`UserError` for one that is not finished, or was run by other code."""
    if run.server_results().get("identity") != run.study.identity() or not run.files.results.exists():
        raise UserError(f"{run.files.folder}: the run is not finished; the command that began it continues it")
    if run.server_results().get("versions", {}).get("code") != code_version():
        # The sites' stages are named by the code: with other code they would train everything again, and audit that.
        raise UserError(
            f"{run.files.folder}: run by other code or other package versions than are installed now, so its models "
            "cannot be audited again; install those, or run the study again"
        )
    return run.study


def with_overrides(study: Study, overrides: Sequence[str]) -> Study:
    """Return a run's study with the audit and the backend that the overrides compose.

    ``audit=full`` and ``backend=inline`` are taken where no preset is named. Canaries and coins stay the run's. An
    override of something else, of what decides the training data, or one that composes no study is a
    :class:`UserError`.
    """
    for override in overrides:
        group = override.lstrip("+~").partition("=")[0].partition(".")[0]
        if group not in ("audit", "backend"):
            raise UserError(
                f"{override}: would be another study; `fedkr audit` takes audit=..., audit.OPTION=... and backend=... "
                "only, `fedkr simulate` the rest"
            )
    presets = {"audit": PRESET, "backend": BACKEND}
    named = {override.partition("=")[0] for override in overrides}
    usual = [f"{group}={choice}" for group, choice in presets.items() if group not in named]
    composed = compose_study([*usual, *overrides])
    if not composed.audit.enabled:
        raise UserError("audit.enabled=false: nothing to do; take audit=light or audit=full")
    audit = dataclasses.replace(composed.audit)
    for name in OF_THE_DATA:
        own, asked = getattr(study.audit, name), getattr(audit, name)
        if asked != own and (f"audit.{name}" in named or asked != getattr(AuditConfig(), name)):
            raise UserError(
                f"audit.{name}={asked}: it decides what the sites train on, and this run trained with {own}; "
                "start a new `fedkr simulate` with it"
            )
        setattr(audit, name, own)
    check_installed(audit)
    return dataclasses.replace(study, audit=audit, backend=composed.backend)


def describe(audit: AuditConfig) -> str:
    """Return in one phrase how much an audit is going to do."""
    counts = f"{audit.direct_references} direct and {audit.pipeline_references} pipeline reference models a site"
    return f"attacks {', '.join(audit.attacks)}; {counts}"


def _audited(study: Study, run: RunFolder, before: Results) -> dict[str, Any]:
    """Run the audit's apps, then the audit of the oracles; return the whole new results."""
    run.run_apps(make_backend(study.backend, SHIM), study)
    found = json.loads(run.files.server_audit.read_text(encoding="utf-8"))
    # Where the numbers came from stays what it was.
    as_audited = dataclasses.asdict(dataclasses.replace(study, backend=run.study.backend))
    results: dict[str, Any] = dict(before)
    results |= {"study": as_audited, "identity": found["identity"], "run_identity": run.study.identity()}
    results |= {name: found[name] for name in ("audit", "audit_extras")}
    results = with_audit(study, run.files.folder, results)
    extras, old_notes = results["audit_extras"], set(before.get("audit_extras", {}).get("notes", []))
    lost = [f"{lost} (left out of the audit)" for lost in found["missing_sites"]]
    extras["notes"] = [*extras.get("notes", []), *lost, *_not_there(study, results)]
    results["notes"] = [note for note in before.get("notes", []) if note not in old_notes] + extras["notes"]
    return results


def _not_there(study: Study, results: Mapping[str, Any]) -> list[str]:
    """Return a line for each wished target that the run left nothing of."""
    audited = {row["target"] for row in results["audit"]}
    known = [(row["name"], row["kind"], row["contestant"]) for row in results["targets"] if row["name"] in audited]
    named = {name for names in known for name in names} | audited
    absent = [target for target in study.audit.targets if target not in named]
    return [f"{target}: not audited, this run kept nothing of it" for target in absent]
