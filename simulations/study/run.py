"""The main job: one whole study, from a composed configuration to a report that one can look at."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from fedkr.config import Study
from fedkr.learning.runtime import Runtime
from fedkr.report.results import load_results
from fedkr.report.write import write_report
from fedkr.run_files import RunFiles
from server.predictions import with_intervals
from simulations.backends import make_backend
from simulations.exits import BESIDE
from simulations.live import run_folders
from simulations.run_folder import Results, RunFolder
from simulations.study.oracles import OracleOutcome, merged, run_oracle, with_audit


def run_study(study: Study) -> Path:
    """Run a study, or continue it where an earlier command stopped; return its run folder.

    A study that is finished already has its report drawn again, with the audit that ``fedkr audit`` gave it since.

    Raises:
        UserError: settings or data that no run could work with, found before anything is started.
        StudyFailedError: the run ended without completing; the same command continues it.
    """
    run = RunFolder.of_study(study)
    # A partition that cannot be is refused here, before anything is written.
    run.warn(*run.data_facts["warnings"])
    with run.at_work(run_folders(run.files.folder, study.federation.sites, study.strategy.names(driver=True))):
        results = finished_results(run) or _compute(run)
        report = run.write_report(results)
    run.tell(report, (f"without {lost}" for lost in results["missing_sites"]))
    return run.files.folder


def redraw_report(folder: Path) -> Path:
    """Draw the report of a finished run again; return the path of ``report.html``."""
    results = load_results(folder)
    if not RunFiles(folder).study.exists():
        return write_report(folder, results, None)
    run = RunFolder.of_run(folder)
    with run.held():
        return run.write_report(results)


def finished_results(run: RunFolder) -> Results | None:
    """Return the results of a study that ended with every site, audited as it says or again since; else None."""
    if finished(run) and run.files.results.exists():
        results = load_results(run.files.folder)
        if run.study.identity() in (results.get("identity"), results.get("run_identity")):
            return results
    return None


def finished(run: RunFolder) -> bool:
    """Whether the apps completed this very study before, with every site in every part of it."""
    found = run.server_results()
    with contextlib.suppress(KeyError):
        left_out = found["missing_sites"] or found["audit_extras"].get("notes")
        return bool(found["identity"] == run.study.identity() and not left_out)
    return False


def _compute(run: RunFolder) -> Results:
    started, oracles = time.time(), _run_apps(run)
    results = with_audit(run.study, run.files.folder, merged(run.server_results(), oracles))
    runtime = Runtime.choose(run.study.device, run.study.precision, run.study.threads)
    results = with_intervals(results, run.study, run.files.folder, run.source.test, runtime)
    return results | {"data": run.data_facts, "seconds": time.time() - started}


def _run_apps(run: RunFolder) -> dict[str, OracleOutcome]:
    """Run the two apps on the study's backend and, beside them where they are other processes, the oracles."""
    oracles, beside = Future[dict[str, OracleOutcome]](), run.study.backend.kind != "inline"
    if beside:
        threading.Thread(target=_train_oracles, args=(run, oracles), name=BESIDE, daemon=True).start()
    if not finished(run):
        run.run_apps(make_backend(run.study.backend), run.study)
    if not beside:
        _train_oracles(run, oracles)
    return oracles.result()


def _train_oracles(run: RunFolder, found: Future[dict[str, OracleOutcome]]) -> None:
    """Train the study's oracles, if any; ``found`` gets them by name, or the exception that stopped one."""
    study, folder = run.study, run.files.folder
    try:
        names = study.strategy.names(driver=True)
        found.set_result({name: run_oracle(name, study, run.sites, run.source.test, folder) for name in names})
    except Exception as error:
        found.set_exception(error)
