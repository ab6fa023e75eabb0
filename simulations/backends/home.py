"""Flower's home during one run: a short temporary folder, the environment of its processes, and their end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from fedkr.config import Study
from fedkr.disk import write_atomic
from fedkr.errors import UserError
from fedkr.failure import clear_note
from fedkr.network.offline import direct_loopback, flower_environment
from fedkr.run_files import RunFiles
from simulations.backends import processes

PREFIX = "fedkr-run-"
# Ray puts Unix sockets 68 characters below its folder, and a socket's path holds 107 (103 on macOS).
LONGEST_HOME = 34


class FlowerHome:
    """Owns every process of a run, as a context manager: what was started inside is gone afterwards.

    The folder is temporary and short, whatever the run folder is called; logs stay in ``run_dir/flower``, and
    ``run_dir/flower/home.json`` says where the home is, so that the next run can end what a crash left over.

    Raises:
        UserError: another process is at work in the same run folder.
    """

    def __init__(self, study: Study, run_dir: Path) -> None:
        self.run_dir = run_dir.absolute()
        self.logs = self.run_dir / "flower"
        self._study = study
        self._record = self.logs / "home.json"
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> FlowerHome:
        self.logs.mkdir(parents=True, exist_ok=True)
        self._end_leftovers()
        clear_note(RunFiles(self.run_dir).server)  # only now: what an earlier run left behind could still write one
        os.environ.update(direct_loopback())  # this process calls the SuperLink too
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_short_temporary_folder()))
        driver = psutil.Process()
        record = {"home": str(self.path), "driver": driver.pid, "created": driver.create_time()}
        write_atomic(self._record, json.dumps(record).encode())
        self._watchdog = self._start_watchdog()
        return self

    def __exit__(self, *raised: object) -> None:
        self._watchdog.communicate()
        processes.end_run(self.path)  # where the watchdog itself was killed
        for child in self._started:
            child.wait()
        self._record.unlink(missing_ok=True)

    def environment(self, **extra: str) -> dict[str, str]:
        """Return the environment of a process of this run; the number of threads is part of a study's numbers."""
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self._study.threads)
        )
        own = {**threads, "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5", "FLWR_HOME": str(self.path)}
        return flower_environment(self.path) | own | extra

    def start(self, command: list[str], log: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a process of this run in an empty folder and a session of its own; it writes to ``logs/<log>``."""
        empty = self.path / "empty"
        empty.mkdir(exist_ok=True)
        with (self.logs / log).open("ab") as output:
            child = subprocess.Popen(
                command, cwd=empty, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self._started.append(child)
        return child

    def _start_watchdog(self) -> subprocess.Popen[bytes]:
        """Start what ends the run when this process closes its end of a pipe, which it does even when it is killed."""
        command = [sys.executable, "-m", "simulations.backends.watchdog", str(self.path)]
        return subprocess.Popen(
            command, cwd=self.path, env=self.environment(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def _end_leftovers(self) -> None:
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            home, driver, created = Path(record["home"]), int(record["driver"]), float(record["created"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        if driver != os.getpid() and _alive(driver, created):
            raise UserError(f"{self.run_dir}: process {driver} is running a study here; wait for it or set run_dir")
        if home.name.startswith(PREFIX):
            processes.end_run(home)
        self._record.unlink(missing_ok=True)


def _alive(pid: int, created: float) -> bool:
    with contextlib.suppress(psutil.Error):
        # A pid is given again to other processes: only the time of creation tells them apart.
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 1 and processes.is_running(process)
    return False


def _short_temporary_folder() -> str:
    """Return the system's temporary folder, or ``/tmp`` where that is too long for Ray's sockets."""
    folder = tempfile.gettempdir()
    return folder if len(folder) + len(PREFIX) + len("/12345678") <= LONGEST_HOME else "/tmp"
