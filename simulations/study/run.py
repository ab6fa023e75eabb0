"""The main job: one whole study, from a composed configuration to a report that one can look at."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fedkr.config import Study, parse_study
from fedkr.data import ImageSet, SiteData, Source, content_digest, load_source, partition_sites, prepare_site
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.generators import build_generator
from fedkr.learning.job import Job
from fedkr.learning.models import build_classifier
from fedkr.learning.runtime import Runtime
from fedkr.release import read_slice
from fedkr.report import SiteSamples, load_results, print_tables
from fedkr.report.write import write_report
from fedkr.stages import write_atomic
from server.strategies.weights import make_strategy
from simulations.backends import RunFailed, make_backend
from simulations.live import LiveView, run_folders
from simulations.study.centralised import NAME as CENTRALISED
from simulations.study.centralised import Oracle, run_centralised, with_audit

# Enough for the report's grids; the release itself stays in the run folder.
SAMPLES_SHOWN = 400
# Written by this driver only: a run without it is a deployment's, and its sites' images are not here.
STUDY_FILE = "study.json"


def run_study(study: Study) -> Path:
    """Run a study, or continue it where an earlier command stopped; return its run folder.

    Raises:
        UserError: settings or data that no run could work with, found before anything is started.
        RunFailed: the run ended without completing; the same command continues it.
    """
    started, console = time.time(), Console()
    study, source = prepared(study, console)
    run_dir = Path(study.run_dir)
    sites = simulated_sites(study, source)
    with only_run_in(run_dir):
        write_atomic(run_dir / STUDY_FILE, study.to_json().encode())
        repeated = finished(study, run_dir) and (run_dir / "results.json").exists()
        console.print(f"run folder: {run_dir}", highlight=False, soft_wrap=True)
        oracle = _run_apps(study, run_dir, sites, source)
        results = json.loads((run_dir / "server" / "results.json").read_text())
        results = with_audit(study, run_dir, merged(results, oracle))
        results["seconds"] = load_results(run_dir)["seconds"] if repeated else time.time() - started
        report = write_report(run_dir, results, collect_samples(results, run_dir, sites))
    print_tables(load_results(run_dir), console)
    for lost in results["missing_sites"]:
        console.print(f"warning: without {lost}", style="yellow", highlight=False, soft_wrap=True)
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
    return run_dir


def prepared(study: Study, console: Console, prefix: str = "") -> tuple[Study, Source]:
    """Read a study's data and check its models; return it as it will run, with its data.

    Args:
        study: as it was composed.
        console: where the data's warnings go.
        prefix: begins the run folder's name where it is not given.

    Raises:
        UserError: data or settings that no run could work with.
    """
    study = located(study)
    source = load_source(study.data)
    for warning in source.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True)
    check_models(study, source)
    return settled(study, source, prefix), source


def located(study: Study) -> Study:
    """Return the study with absolute paths to its data: the apps run in other folders."""
    data = dataclasses.replace(study.data, root=str(Path(study.data.root).expanduser().absolute()))
    if data.path:
        data.path = str(Path(data.path).expanduser().absolute())
    return dataclasses.replace(study, data=data)


def settled(study: Study, source: Source, prefix: str = "") -> Study:
    """Return the study with what its data are and where its run folder is: other images make another study.

    ``prefix`` begins the folder's name where it is not given.
    """
    digest = content_digest(source.pool) + content_digest(source.test)
    study = dataclasses.replace(study, data_digest=digest)
    folder = Path(study.run_dir) if study.run_dir else Path(study.out) / f"{prefix}{study.folder_name()}"
    return dataclasses.replace(study, run_dir=str(folder.expanduser().absolute()))


def simulated_sites(study: Study, source: Source) -> dict[str, SiteData]:
    """Return every site's splits, as the sites themselves will draw them."""
    partition = partition_sites(source.pool, study)
    return {
        f"site-{i}": prepare_site(source.pool.subset(indices), study, f"site-{i}")
        for i, indices in enumerate(partition.indices)
    }


def check_models(study: Study, source: Source) -> None:
    """Build each model once and throw it away, so that a wrong option stops the run before it starts."""
    pool = source.pool
    runtime = Runtime.choose(study.device, study.precision, study.threads)
    for name, config in (("teacher", study.teacher), ("student", study.student)):
        try:
            build_classifier(config, Shape.of(pool), "check")
        except UserError as error:
            raise UserError(f"{name}.{error}") from None
    build_generator(study.generator, Shape.of(pool), Job(runtime, flip=study.data.flip))
    if study.strategy.kind in study.strategy.compare:
        make_strategy(study.strategy.kind, study.strategy.options, study.federation.sites)


@contextlib.contextmanager
def only_run_in(run_dir: Path) -> Iterator[None]:
    """Hold the run folder for this process; raise :class:`UserError` when another one holds it."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        handle = (run_dir / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{run_dir}: cannot be the run folder ({error.strerror}); set out=... or run_dir=...") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{run_dir}: another process runs this study; wait for it or set run_dir=...") from None
        yield


def _run_apps(study: Study, run_dir: Path, sites: dict[str, SiteData], source: Source) -> Oracle | None:
    """Run the two apps on the study's backend and, beside them where they are other processes, the oracle."""
    oracle = OracleThread(study, run_dir, sites, source) if CENTRALISED in study.strategy.compare else None
    with LiveView(run_folders(run_dir, study.federation.sites, centralised=oracle is not None)):
        if oracle is not None and study.backend.kind != "inline":
            oracle.start()
        if not finished(study, run_dir):
            clear_site_reasons(run_dir)
            try:
                make_backend(study.backend).run(study, run_dir)
            except RunFailed as failure:
                raise RunFailed(f"{failure}{site_reasons(run_dir)}; the same command continues this run") from failure
        if oracle is None:
            return None
        if study.backend.kind == "inline":
            oracle.start()
        return oracle.result()


class OracleThread(threading.Thread):
    """Trains the centralised model while the apps run in processes of their own."""

    def __init__(self, study: Study, run_dir: Path, sites: dict[str, SiteData], source: Source) -> None:
        super().__init__(name="centralised", daemon=True)
        self._work = lambda: run_centralised(study, sites, source.test, run_dir)
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


def finished(study: Study, run_dir: Path) -> bool:
    """Whether the apps completed this very study before, with every site in every part of it."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        results = json.loads((run_dir / "server" / "results.json").read_text())
        left_out = results["missing_sites"] or results["audit_extras"].get("notes")
        return bool(results["identity"] == study.identity() and not left_out)
    return False


def clear_site_reasons(run_dir: Path) -> None:
    """Remove what the simulated sites wrote down in an earlier run, so that it is not taken for this run's reason."""
    for path in (run_dir / "sites").glob("*/failure.json"):
        path.unlink(missing_ok=True)


def site_reasons(run_dir: Path) -> str:
    """Return what the simulated sites wrote into their own workspaces; the server is told less."""
    reasons = []
    for path in sorted((run_dir / "sites").glob("*/failure.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            reasons.append(f"{path.parent.name}: {json.loads(path.read_text())['reason']}")
    return "".join(f"; {reason}" for reason in reasons)


def merged(results: dict[str, Any], oracle: Oracle | None) -> dict[str, Any]:
    """Return the apps' results with the oracle's rows in the comparison's order."""
    if oracle is None:
        return results
    rows = {row["name"]: row for row in [*results["strategies"], oracle.row]}
    order = results["study"]["strategy"]["compare"]
    results["strategies"] = [rows[name] for name in order if name in rows]
    results["notes"] = [note for note in results["notes"] if CENTRALISED not in note]
    return results


def collect_samples(results: dict[str, Any], run_dir: Path, sites: dict[str, SiteData]) -> dict[str, SiteSamples]:
    """Return some real and some released images of each site; only a simulation has both in one place."""
    samples = {}
    for name, paths in results.get("releases", {}).items():
        images, soft = read_slice(run_dir / paths[0], 0)
        train: ImageSet = sites[name].train
        shown = spread(train.labels, SAMPLES_SHOWN)
        labels = soft.argmax(axis=1)
        chosen = spread(labels, SAMPLES_SHOWN)
        samples[name] = SiteSamples(
            list(train.classes), train.images[shown], train.labels[shown], images[chosen], labels[chosen]
        )
    return samples


def spread(labels: np.ndarray, count: int) -> np.ndarray:
    """Return indices of at most ``count`` examples, as many of each class as possible, first ones first."""
    rank = np.zeros(len(labels), np.int64)
    for k in np.unique(labels):
        members = np.flatnonzero(labels == k)
        rank[members] = np.arange(len(members))
    return np.argsort(rank, kind="stable")[:count]


def redraw_report(run: Path) -> Path:
    """Draw the report of a finished run again; return the path of ``report.html``."""
    results = dict(load_results(run))
    if not (run / STUDY_FILE).exists():
        return write_report(run, results, None)
    study = parse_study(json.dumps(results["study"]))
    samples = collect_samples(results, run, simulated_sites(study, load_source(study.data)))
    return write_report(run, results, samples)
