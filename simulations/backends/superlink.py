"""One SuperLink per run: started from an empty folder, given the bundle, watched until the run has ended."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fedkr.errors import StudyFailedError, UserError
from fedkr.failure import read_note
from fedkr.network import bundle
from fedkr.network.processes import LOOPBACK, complaint, last_words, listens, usable_port, write_connection
from fedkr.run_files import RunFiles
from simulations.backends.home import FlowerHome
from simulations.backends.processes import is_running, with_descendants

CONNECTION = "own"
START_DEADLINE = 60.0
COMMAND_DEADLINE = 120.0
TICK = 0.25
# How long Flower may take to end a run itself, once the run's process is gone or the ServerApp has left a note.
SETTLE = 3.0
TASKS = ("flwr-simulation", "flwr-serverapp")
# Flower wraps the cause of a failure in these, which tell the user nothing.
WRAPPERS = ("An error was encountered. Ending simulation.", "Simulation Runtime crashed.")
EXCEPTION_LINE = re.compile(r"^(?:\x1b\[\d+m)?(?:[\w.]+\.)?(\w*(?:Error|Exception|Failed|Failure): .+)$", re.MULTILINE)


@dataclass(frozen=True)
class Transport:
    """How the SuperLink is reached: its flags, and the certificate of its authority for TLS (None without)."""

    flags: tuple[str, ...]
    authority: Path | None = None


def choose_port(wanted: int = 0) -> int:
    """Return ``wanted``, or a free TCP port of the loopback interface for 0; raise :class:`UserError` when in use."""
    try:
        return usable_port(wanted=wanted)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"backend.port={wanted}: cannot be used on {LOOPBACK} ({error}); backend.port=0 takes a free one"
        ) from None


class SuperLink:
    """A running SuperLink of our own; it ends with its :class:`FlowerHome`."""

    def __init__(self, home: FlowerHome, port: int, transport: Transport, environment: dict[str, str]) -> None:
        """Start it and wait; raise :class:`StudyFailedError` if it ended, or did not answer within a minute."""
        self._home = home
        self._transport = transport
        self._environment = environment
        self._log = home.logs / "run.log"
        # Earlier attempts wrote to the same file, and their errors are not this one's.
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self._port, self.address = port, f"{LOOPBACK}:{port}"
        write_connection(home.path, CONNECTION, self.address, transport.authority)
        command = ["flower-superlink", *transport.flags, "--host", LOOPBACK, "--port", str(port)]
        self._process = home.start(command, "superlink.log", environment)
        self._wait_until_healthy()

    def flwr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Flower's command line against this SuperLink and return its output; raise StudyFailedError on a hang."""
        command = ["flwr", *arguments]
        try:
            return subprocess.run(
                command, env=self._environment, cwd=self._home.path, encoding="utf-8", errors="replace",
                capture_output=True, timeout=COMMAND_DEADLINE,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise StudyFailedError(
                f"`flwr {arguments[0]}` did not answer for {COMMAND_DEADLINE:.0f} s", restart=True
            ) from None

    def run(self, app: str, config: Mapping[str, str], watch: Callable[[], None], federation: str = "") -> None:
        """Start the run, follow its log into ``run.log`` and return when it has completed.

        Args:
            app: the bundle's folder, or as ``@publisher/app==version`` the signed one of the SuperLink's hub.
            config: what both apps find in ``context.run_config``.
            watch: called several times a second; raises :class:`StudyFailedError` when something else went wrong.
            federation: Flower's ``--federation-config``, or nothing.

        Raises:
            StudyFailedError: the run failed, or a process that it needs is gone.
        """
        file = bundle.write_toml(self._home.path / "run.toml", config)
        command = ["flwr", "run", app, CONNECTION, "--stream", "--run-config", str(file)]
        command += ["--federation-config", federation] if federation else []
        while True:
            self._follow(command, watch)
            run = self._status()
            if run["status"] == "finished:completed":
                return
            if run["status"].startswith("finished"):
                raise self._failure(run.get("status-details", ""))
            command = ["flwr", "log", str(run["run-id"]), CONNECTION, "--stream"]  # the stream broke, the run did not

    def _wait_until_healthy(self) -> None:
        authority = self._transport.authority
        context = ssl.create_default_context(cafile=str(authority)) if authority else None
        url = f"{'https' if authority else 'http'}://{self.address}/health"
        end = time.monotonic() + START_DEADLINE
        while time.monotonic() < end:
            self._check_process()
            try:
                with urllib.request.urlopen(url, timeout=2, context=context):
                    # On a port that was taken meanwhile another run's SuperLink answers.
                    if listens(self._port, self._process):
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise StudyFailedError(
            f"the SuperLink at {self.address} did not answer for {START_DEADLINE:.0f} s", restart=True
        )

    def _check_process(self) -> None:
        if self._process.poll() is not None:
            log = self._home.logs / "superlink.log"
            raise StudyFailedError(
                f"the SuperLink ended by itself, exit status {self._process.returncode} (log: {log})", True
            )

    def _follow(self, command: list[str], watch: Callable[[], None]) -> None:
        stream = self._home.start(command, "run.log", self._environment)
        task: psutil.Process | None = None
        over_since: float | None = None
        while stream.poll() is None:
            time.sleep(TICK)
            self._check_process()
            watch()
            task = task or self._task()
            note = read_note(RunFiles(self._home.run_dir).server)
            if note is None and (task is None or is_running(task)):
                over_since = None
                continue
            over_since = over_since or time.monotonic()
            if time.monotonic() - over_since > SETTLE:
                raise note or StudyFailedError(f"the process of the run was killed (log: {self._log})", restart=True)

    def _task(self) -> psutil.Process | None:
        for process in with_descendants([psutil.Process(self._process.pid)]):
            with contextlib.suppress(psutil.Error):
                if any(Path(word).name in TASKS for word in process.cmdline()[:3]):
                    return process
        return None

    def _status(self) -> dict[str, Any]:
        listing = self.flwr("ls", CONNECTION, "--format", "json")
        self._check_process()
        try:
            runs: list[dict[str, Any]] = json.loads(listing.stdout)["runs"]
        except (ValueError, KeyError):
            raise StudyFailedError(f"`flwr ls` failed: {complaint(listing)}", restart=True) from None
        if not runs:
            raise StudyFailedError(f"Flower did not start the run: {last_words(self._run_log())}")
        return runs[0]

    def _failure(self, details: str) -> StudyFailedError:
        if note := read_note(RunFiles(self._home.run_dir).server):
            return note
        if not details or any(wrapper in details for wrapper in WRAPPERS):
            causes = [line for line in EXCEPTION_LINE.findall(self._run_log()) if not line.endswith(WRAPPERS)]
            details = causes[-1] if causes else last_words(self._run_log())
        return StudyFailedError(f"{details} (log: {self._log})")

    def _run_log(self) -> str:
        return self._log.read_bytes()[self._log_start :].decode(errors="replace")
