"""The ServerApp of ``fedkr audit RUN``: it audits what a finished run left behind, and trains nothing of it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedkr.config import Study
from fedkr.disk import write_atomic
from fedkr.learning.runtime import Runtime
from fedkr.progress import FileProgress
from fedkr.run_files import RunFiles
from fedkr.stages import StageStore
from server.app import log_to_stream, read_study
from server.audit import ServerAudit, read_auditable
from server.coordinator import Coordinator
from server.failure import failures_noted

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Audit the run folder that the run config names; leave rows, or why there are none, in it."""
    log_to_stream()
    study, _ = read_study(context)
    run_dir = Path(study.run_dir)
    with failures_noted(run_dir):
        files = RunFiles(run_dir)
        found = audit_on_server(grid, study, run_dir, json.loads(files.server_results.read_text(encoding="utf-8")))
        write_atomic(files.server_audit, json.dumps(found).encode())


def audit_on_server(grid: Grid, study: Study, run_dir: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Gather the sites of a finished run and audit what it left behind; ``study`` is its, but for the new audit.

    Returns:
        ``identity`` (of ``study``), ``audit`` and ``audit_extras`` as in ``results.json``, and ``missing_sites``.
    """
    files = RunFiles(run_dir)
    runtime = Runtime.choose(study.device, study.precision, study.threads)
    coordinator = Coordinator(grid, study, StageStore(files.server / "stages"), study.backend.kind == "ray")
    coordinator.gather_members()
    # The models saw nothing of a site that was lost to the run: all its images are non-members.
    lost = results["missing_sites"]
    took_part = {
        site["name"] for site in results["sites"] if not any(line.startswith(f"{site['name']}: ") for line in lost)
    }
    coordinator.members = {name: member for name, member in coordinator.members.items() if name in took_part}
    found = read_auditable(run_dir, results)
    rows, extras = ServerAudit(coordinator, found, runtime, FileProgress(files.server)).run()
    missing = [f"{site}: {why}" for site, why in coordinator.missing.items()]
    return {"identity": study.identity(), "audit": rows, "audit_extras": extras, "missing_sites": missing}
