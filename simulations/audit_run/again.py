"""``fedkr audit RUN``: a finished run is audited again, by the same sites' code, with nothing else trained again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedkr.config import AuditConfig, BackendConfig, Study, parse_study
from fedkr.data import content_digest, load_source
from fedkr.errors import UserError
from fedkr.report import Results, load_results, print_tables
from fedkr.report.results import RESULTS_FILE
from fedkr.report.write import write_report
from fedkr.stages import write_atomic
from server.composition import compose_study
from simulations.audit_run import shim as audit_shim
from simulations.audit_run.server import AUDIT_FILE, RUN_RESULTS
from simulations.backends import Backend, RunFailed
from simulations.backends.deploy import DeployBackend
from simulations.backends.inline import InlineBackend
from simulations.backends.ray import RayBackend
from simulations.live import LiveView, run_folders
from simulations.study.centralised import NAME as CENTRALISED
from simulations.study.centralised import with_audit
from simulations.study.run import (
    STUDY_FILE,
    clear_site_reasons,
    collect_samples,
    only_run_in,
    simulated_sites,
    site_reasons,
)

# Nothing but the audit is left to run: one process starts at once and shows errors as they are, and the numbers are
# the same on every backend. `backend=ray` lets the sites work side by side.
BACKEND = "inline"
# A light audit is what the run itself did; whoever asks again asks for more.
PRESET = "full"
# They decide what the sites train on.
OF_THE_DATA = ("canaries", "canary_kinds", "coins")
# Earlier results of the run, by the identity of the study whose audit they hold.
EARLIER = "earlier-audits"


def audit_again(run: Path, overrides: Sequence[str]) -> Path:
    """Audit a finished run of ``fedkr simulate`` again; return the path of its new ``report.html``.

    The run's models and kept releases are attacked in the sites' workspaces. Finished reference models and attacks are
    stages there, so that the same command continues an audit that was stopped. The former ``results.json`` is kept in
    ``earlier-audits/``.

    Args:
        run: the run's folder.
        overrides: as in ``fedkr simulate``, of ``audit`` and ``backend`` only.

    Raises:
        UserError: a run that is not finished or not a simulation, other data, or overrides that change more than the
            audit.
        RunFailed: the audit ended without completing; the same command continues it.
    """
    original = finished_study(run)
    study = with_overrides(original, overrides)
    console = Console()
    say = f"audit of {run}: {describe(study.audit)}; finished parts are kept, the same command continues after a stop"
    console.print(say, highlight=False, soft_wrap=True)
    source = load_source(study.data)
    if content_digest(source.pool) + content_digest(source.test) != study.data_digest:
        raise UserError(f"{run}: the images of data.name={study.data.name} are not those that the run trained on")
    with only_run_in(run):
        before = load_results(run)
        results = _audited(study, run, before)
        results["study"]["backend"] = dataclasses.asdict(original.backend)
        _keep_earlier(run, before, study)
        report = write_report(run, results, collect_samples(results, run, simulated_sites(study, source)))
    print_tables(load_results(run), console)
    for lost in results["audit_extras"].get("notes", []):
        console.print(f"warning: {lost}", style="yellow", highlight=False, soft_wrap=True)
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
    return report


def finished_study(run: Path) -> Study:
    """Return the study of a finished run as it ran, its folder being where it lies now.

    Raises:
        UserError: no run, a deployment's, or one that is not finished.
    """
    if not (run / STUDY_FILE).exists():
        if (run / RESULTS_FILE).exists():
            raise UserError(
                f"{run}: not a run of `fedkr simulate`; the private images are at its sites, so only they can audit: "
                "the server sends them the models, so start the study there again with another audit=..."
            )
        raise UserError(f"{run}: no finished run (it has no {STUDY_FILE}); name a folder that `fedkr simulate` made")
    study = parse_study((run / STUDY_FILE).read_text())
    finished: Mapping[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        finished = json.loads((run / RUN_RESULTS).read_text())
    if finished.get("identity") != study.identity() or not (run / RESULTS_FILE).exists():
        raise UserError(f"{run}: the run is not finished; the command that began it continues it")
    return dataclasses.replace(study, run_dir=str(run.absolute()))


def with_overrides(study: Study, overrides: Sequence[str]) -> Study:
    """Return a run's study with the audit and the backend that the overrides compose.

    ``audit=full`` and ``backend=inline`` are taken where no preset is named. Canaries and coins stay the run's.

    Raises:
        UserError: an override of something else, of what decides the training data, or one that composes no study.
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
    return dataclasses.replace(study, audit=audit, backend=composed.backend)


def describe(audit: AuditConfig) -> str:
    """Return in one phrase how much an audit is going to do."""
    counts = f"{audit.direct_references} direct and {audit.pipeline_references} pipeline reference models a site"
    return f"attacks {', '.join(audit.attacks)}; {counts}"


def _audited(study: Study, run: Path, before: Results) -> dict[str, Any]:
    """Run the audit's apps, then the audit of the centralised model; return the whole new results."""
    results: dict[str, Any] = dict(before)
    centralised = (run / "models" / f"{CENTRALISED}.safetensors").exists()
    with LiveView(run_folders(run, study.federation.sites, centralised)):
        clear_site_reasons(run)
        try:
            backend_of(study.backend).run(study, run)
        except RunFailed as failure:
            raise RunFailed(f"{failure}{site_reasons(run)}; the same command continues this audit") from failure
        found = json.loads((run / AUDIT_FILE).read_text())
        old_notes = set(before.get("audit_extras", {}).get("notes", []))
        results |= {"study": json.loads(study.to_json()), "identity": found["identity"]}
        results |= {name: found[name] for name in ("audit", "audit_extras")}
        results = with_audit(study, run, results)
    extras = results["audit_extras"]
    lost = [f"{lost} (left out of the audit)" for lost in found["missing_sites"]]
    extras["notes"] = [*extras.get("notes", []), *lost, *_not_there(study, results)]
    results["notes"] = [note for note in before.get("notes", []) if note not in old_notes] + extras["notes"]
    return results


def _not_there(study: Study, results: Mapping[str, Any]) -> list[str]:
    """Return a line for each wished target that the run left nothing of."""
    audited = {row["target"] for row in results["audit"]}
    names = {target: study.strategy.kind if target == "weights" else target for target in study.audit.targets}
    absent = [target for target, name in names.items() if name not in audited]
    return [f"{target}: not audited, this run kept nothing of it" for target in absent]


def backend_of(config: BackendConfig) -> Backend:
    """Return the backend, bound to the audit's ServerApp in place of the study's."""
    shim = Path(str(audit_shim.__file__))
    if config.kind == "inline":
        return InlineBackend((audit_shim.server_app, audit_shim.client_app))
    return RayBackend(config, shim) if config.kind == "ray" else DeployBackend(config, shim)


def _keep_earlier(run: Path, before: Results, study: Study) -> None:
    """Keep the results that are about to be replaced, unless they are of this very audit."""
    if before.get("identity") != study.identity():
        path = run / EARLIER / f"results-{before.get('identity', 'unnamed')}.json"
        write_atomic(path, (run / RESULTS_FILE).read_bytes())
