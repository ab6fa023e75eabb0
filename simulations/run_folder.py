"""A run's folder while a command works in it: prepared, held, shown, written, and told on the terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from fedkr.config import Study, explained, parse_study
from fedkr.data import SiteData, Source, check_facts, load_source, partition_sites, prepare_site, study_source
from fedkr.data.images import Shape
from fedkr.data.leaks import shared_own_tests
from fedkr.data.listing import write_left_out
from fedkr.data.partition import left_out
from fedkr.disk import from_home, write_atomic
from fedkr.errors import StudyFailedError, UserError, few
from fedkr.failure import clear_note, read_note
from fedkr.generators import build_generator
from fedkr.learning.job import Job
from fedkr.learning.models import build_classifier
from fedkr.learning.public_features import check_installed
from fedkr.learning.runtime import Runtime
from fedkr.report.results import DataFacts, load_results
from fedkr.report.selection import data_warnings
from fedkr.report.tables import print_tables
from fedkr.report.write import write_report
from fedkr.run_files import RunFiles
from server.contestant import check_contestants
from simulations.backends import Backend
from simulations.live import live_view
from simulations.study.command import differences
from simulations.study.oracles import oracle_of
from simulations.study.samples import collect_samples

Results = Mapping[str, Any]
# Of the files that gave no image; the run's folder lists all of them.
MOST_NAMED = 20


class RunFolder:
    """One study with its data, and the folder that its run fills: the study names it, and the digest of the data."""

    def __init__(self, study: Study) -> None:
        self.study, self.files, self.console = study, RunFiles(Path(study.run_dir)), Console()

    @staticmethod
    def of_study(study: Study, prefix: str = "") -> RunFolder:
        """Read a study's data and check its models; return the folder of its run, a new one or one to go on in.

        ``prefix`` begins the folder's name where the study does not give it.

        Raises:
            UserError: data or settings that no run could work with, or a folder with another study's results.
        """
        study = dataclasses.replace(study, data=study.data.located())
        source = load_source(study.data)
        check_facts(study, source)
        study = dataclasses.replace(study, data_digest=source.identity)
        run = RunFolder(dataclasses.replace(study, run_dir=str(study.run_folder(prefix))))
        for item in source.left_out[:MOST_NAMED]:
            run.say(f"left out: {item.name}: {item.reason}", "yellow")
        _check_models(study, source)
        run._check_no_other_study()
        return run

    @staticmethod
    def of_run(folder: Path) -> RunFolder:
        """Return the folder of a run of ``fedkr simulate``, wherever it lies; raise :class:`UserError` for another."""
        files = RunFiles(from_home(folder).absolute())
        if not files.study.exists() and files.results.exists():
            raise UserError(
                f"{folder}: not a run of `fedkr simulate`; the private images are at its sites, so only they can audit "
                "it: the server sends them the models, so start the study there again with another audit=..."
            )
        if not files.study.exists():
            raise UserError(f"{files.study}: not there, so this is no finished run of `fedkr simulate`; name one")
        try:
            study = parse_study(files.study.read_text(encoding="utf-8"))
        except (UserError, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{files.study}: {error}; the command that began the run writes it anew") from None
        return RunFolder(dataclasses.replace(study, run_dir=str(files.folder)))

    @cached_property
    def source(self) -> Source:
        """The data of the run; raises :class:`UserError` where others have taken their place since it began."""
        return study_source(self.study)

    @cached_property
    def dealt(self) -> list[NDArray[np.int64]]:
        """Which images of the pool each simulated site has."""
        return partition_sites(self.source.pool, self.study)

    @cached_property
    def sites(self) -> dict[str, SiteData]:
        """Every simulated site's splits, as the sites themselves draw them."""
        pool, study = self.source.pool, self.study
        dealt = {f"site-{i}": pool.subset(held) for i, held in enumerate(self.dealt)}
        return {name: prepare_site(images, study, name) for name, images in dealt.items()}

    @cached_property
    def data_facts(self) -> DataFacts:
        """What a reader of any figure of the run has to know of its data."""
        missing = left_out(self.source.pool, self.dealt)
        told = f"partition={self.study.partition.kind} left classes out, which no site has: {few(missing)}"
        return facts_of(self.source, *([told] if missing else []), *shared_own_tests(self.sites))

    def server_results(self) -> dict[str, Any]:
        """Return what the ServerApp found, nothing where it has not ended."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads(self.files.server_results.read_text(encoding="utf-8")))
        return {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for this process while the block runs.

        Raises:
            UserError: another process holds it, it cannot be made, or its data are no longer the run's.
        """
        self.source  # noqa: B018 - other data are noticed before anything is written
        with only_one_in(self.files.folder):
            yield

    @contextlib.contextmanager
    def at_work(self, parts: Mapping[str, Path]) -> Iterator[None]:
        """Hold the folder, say where it is, and show the progress of its ``parts`` while the block runs."""
        with self.held():
            write_atomic(self.files.study, self.study.to_json().encode())
            write_left_out(self.files.folder, self.source.left_out)
            self.say(f"run folder: {self.files.folder}")
            self.say(f"schedule: {explained(self.study)}")
            with live_view(parts):
                yield

    def run_apps(self, backend: Backend, study: Study) -> None:
        """Run the two apps of ``study``, this folder's own or one with another audit, on a backend.

        Raises:
            StudyFailedError: with what the simulated sites wrote into their own workspaces; the server is told less.
        """
        for site in self.files.sites.glob("*/"):
            clear_note(site)
        try:
            backend.run(study, self.files.folder)
        except StudyFailedError as failure:
            notes = {site.name: read_note(site) for site in sorted(self.files.sites.glob("*/"))}
            reasons = "; ".join([str(failure), *(f"{site}: {note}" for site, note in notes.items() if note)])
            raise StudyFailedError(f"{reasons}; the same command continues it") from failure

    def write_report(self, results: Results) -> Path:
        """Write a run's results and their report; return the path of ``report.html``.

        Results of the same study under another audit are kept in ``earlier-audits/``.
        """
        with contextlib.suppress(UserError):
            before = load_results(self.files.folder).get("identity", "unnamed")
            if before != results["identity"]:
                write_atomic(self.files.earlier_results(before), self.files.results.read_bytes())
        return write_report(self.files.folder, dict(results), collect_samples(results, self.files.folder, self.sites))

    def tell(self, report: Path, warnings: Iterable[str]) -> None:
        """Print the tables of the run's results, warnings of its data and others, and where the report is."""
        results = load_results(self.files.folder)
        print_tables(results, self.console)
        self.warn(*data_warnings(results), *warnings)
        self.say(f"report: {report}")

    def say(self, line: str, style: str | None = None) -> None:
        """Print a line as it is."""
        self.console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def warn(self, *lines: str) -> None:
        """Print warnings, a line each."""
        for line in lines:
            self.say(f"warning: {line}", "yellow")

    def _check_no_other_study(self) -> None:
        """Raise :class:`UserError` for results of a study that differs in more than its comparison and its audit."""
        if not self.files.results.exists():
            return
        try:
            before = parse_study(json.dumps(json.loads(self.files.results.read_text(encoding="utf-8"))["study"]))
        except (OSError, ValueError, KeyError, TypeError, UserError):
            difference = "its results cannot be read"
        else:
            before = dataclasses.replace(before, strategy=self.study.strategy, audit=self.study.audit)
            if before.identity() == self.study.identity():
                return
            difference = next(differences(before, self.study), "other data")
        raise UserError(
            f"{self.files.folder}: holds another study ({difference}), which this one would overwrite; set another "
            "run_dir=..., or out=... for a folder of its own"
        )


def facts_of(source: Source, *more: str) -> DataFacts:
    """Return what a reader of figures has to know of a dataset, ``more`` warnings of how it is used beside its own."""
    leaks = None if source.leaks is None else dataclasses.asdict(source.leaks)
    return cast(DataFacts, {"warnings": [*source.warnings, *more], "leaks": leaks})


@contextlib.contextmanager
def only_one_in(folder: Path) -> Iterator[None]:
    """Make a folder and hold it for this process; raise :class:`UserError` when another one holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{folder}: cannot be the run folder ({error.strerror}); set out=... or run_dir=...") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process runs this study; wait for it or set run_dir=...") from None
        yield


def _check_models(study: Study, source: Source) -> None:
    """Build each model once and throw it away, so that a wrong option stops the run before it starts."""
    runtime = Runtime.choose(study.device, study.precision, study.threads)
    for name, config in (("teacher", study.teacher), ("student", study.student)):
        try:
            build_classifier(config, Shape.of(source.pool), "check")
        except UserError as error:
            raise UserError(f"{name}.{error}") from None
    check_installed(study.audit)
    build_generator(study.generator, Shape.of(source.pool), Job(runtime, flip=study.data.flip))
    check_contestants(study)
    for name in study.strategy.names(driver=True):
        oracle_of(study, name)
