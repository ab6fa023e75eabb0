"""The main job: one whole study, from a composed configuration to a report that one can look at."""

from __future__ import annotations

import contextlib
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from fedkr.config import Study
from fedkr.report import load_results
from fedkr.report.write import write_report
from fedkr.run_files import RunFiles
from simulations.backends import make_backend
from simulations.live import run_folders
from simulations.run_folder import Results, RunFolder
from simulations.study.centralised import NAME as CENTRALISED
from simulations.study.centralised import Oracle, run_centralised, with_audit


def run_study(study: Study) -> Path:
    """Run a study, or continue it where an earlier command stopped; return its run folder.

    A study that is finished already has its report drawn again, with the audit that ``fedkr audit`` gave it since.

    Raises:
        UserError: settings or data that no run could work with, found before anything is started.
        StudyFailedError: the run ended without completing; the same command continues it.
    """
    run = RunFolder.of_study(study)
    run.sites  # noqa: B018 - a partition that cannot be is refused before anything is written
    with run.at_work(run_folders(run.files.folder, study.federation.sites, CENTRALISED in study.strategy.compare)):
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
    started, oracle = time.time(), _run_apps(run)
    results = with_audit(run.study, run.files.folder, merged(run.server_results(), oracle))
    return results | {"seconds": time.time() - started}


def _run_apps(run: RunFolder) -> Oracle | None:
    """Run the two apps on the study's backend and, beside them where they are other processes, the oracle."""
    study, inline = run.study, run.study.backend.kind == "inline"
    oracle = OracleThread(run) if CENTRALISED in study.strategy.compare else None
    if oracle is not None and not inline:
        oracle.start()
    if not finished(run):
        run.run_apps(make_backend(study.backend), study)
    if oracle is None:
        return None
    if inline:
        oracle.start()
    return oracle.result()


class OracleThread(threading.Thread):
    """Trains the centralised model while the apps run in processes of their own."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__(name=CENTRALISED, daemon=True)
        self._work = partial(run_centralised, run.study, run.sites, run.source.test, run.files.folder)
        self._oracle: Oracle | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        """Train; an exception is kept for :meth:`result`."""
        try:
            self._oracle = self._work()
        except Exception as error:
            self._error = error

    def result(self) -> Oracle:
        """Wait for the oracle and return it, or raise what stopped it."""
        self.join()
        if self._error is not None:
            raise self._error
        assert self._oracle is not None
        return self._oracle


def merged(results: dict[str, Any], oracle: Oracle | None) -> dict[str, Any]:
    """Return the apps' results with the oracle's rows in the comparison's order."""
    if oracle is None:
        return results
    rows = {row["name"]: row for row in [*results["strategies"], oracle.row]}
    order = results["study"]["strategy"]["compare"]
    results["strategies"] = [rows[name] for name in order if name in rows]
    results["notes"] = [note for note in results["notes"] if CENTRALISED not in note]
    return results
