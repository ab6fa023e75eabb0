"""What long work reports while it runs: a stage, how far it is, and a few numbers; never anything about an image."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from fedkr.disk import create, temporary_name

PROGRESS_FOLDER = "progress"
METRICS_FILE = "metrics.jsonl"
PROGRESS_INTERVAL = 0.5
METRICS_INTERVAL = 1.0


class Progress(Protocol):
    """What every long loop is handed; cheap enough to be called at every step."""

    def update(self, stage: str, done: int, total: int, unit: str = "step", **numbers: float) -> None:
        """Say that ``done`` of ``total`` units of ``stage`` are finished (``total`` 0: not known)."""

    def finish(self, stage: str) -> None:
        """Say that ``stage`` is over, be it early or at its last unit."""


class SilentProgress:
    """Reports nothing."""

    def update(self, stage: str, done: int, total: int, unit: str = "step", **numbers: float) -> None:
        """Do nothing."""

    def finish(self, stage: str) -> None:
        """Do nothing."""


class RelayedProgress:
    """Reports to another progress: stages by names that begin with ``prefix``, a step as ``width`` steps."""

    def __init__(self, progress: Progress, prefix: str = "", width: int = 1) -> None:
        self.progress, self.prefix, self.width = progress, prefix, width

    def update(self, stage: str, done: int, total: int, unit: str = "step", **numbers: float) -> None:
        """See :meth:`Progress.update`."""
        self.progress.update(self.prefix + stage, done * self.width, total * self.width, unit, **numbers)

    def finish(self, stage: str) -> None:
        """See :meth:`Progress.finish`."""
        self.progress.finish(self.prefix + stage)


@dataclass(frozen=True)
class StageState:
    """How far a stage was when its process last said so.

    Attributes:
        rate: units a second since the process began with the stage.
        eta_seconds: time left at that rate; None where it is not known.
        started: when the process began with the stage, in seconds since the epoch, as ``updated``.
        finished: whether the process said that the stage is over.
        numbers: such as the loss; in the file, null for one that is not finite.
    """

    stage: str
    done: int
    total: int
    unit: str = "step"
    rate: float = 0.0
    eta_seconds: float | None = None
    started: float = 0.0
    updated: float = 0.0
    finished: bool = False
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether the stage has nothing left to do."""
        return self.finished or 0 < self.total <= self.done


@dataclass(slots=True)
class _Stage:
    """Clocks and latest figures of one running stage; all but ``started`` are monotonic seconds."""

    name: str
    began: float
    started: float
    first: int
    done: int = 0
    total: int = 0
    unit: str = "step"
    file_due: float = 0.0
    line_due: float = 0.0
    numbers: dict[str, float] = field(default_factory=dict)
    unwritten: bool = False

    def state(self, finished: bool) -> StageState:
        elapsed = time.monotonic() - self.began
        rate = (self.done - self.first) / elapsed if elapsed > 0 else 0.0
        eta = max(self.total - self.done, 0) / rate if rate > 0 and self.total > 0 else None
        return StageState(
            self.name, self.done, self.total, self.unit, rate, eta, self.started, time.time(), finished, self.numbers
        )


class FileProgress:
    """Keeps this process's file in ``folder/progress`` current and appends numbers to ``folder/metrics.jsonl``.

    Several processes may be at work for one folder: each has a file of its own, named by its machine and its number,
    and the first report of each removes the files of processes that are gone. The file is replaced at most twice a
    second (always at a stage's first and last update); the metrics grow by at most one line a second and stage, and
    by the last one. A disk that refuses is ignored here: the work itself will meet it where the remedy can be named.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stages: dict[str, _Stage] = {}
        self._tidied = False

    def update(self, stage: str, done: int, total: int, unit: str = "step", **numbers: float) -> None:
        """Note where ``stage`` stands; touch the disk only when something is due."""
        now = time.monotonic()
        current = self._stages.get(stage)
        if current is None or done < current.done:
            current = self._stages[stage] = _Stage(stage, now, time.time(), done)
        current.done, current.total, current.unit = done, total, unit
        if numbers:
            current.numbers = numbers
            current.unwritten = True
        last = 0 < total <= done
        if last or now >= current.file_due:
            current.file_due = now + PROGRESS_INTERVAL
            self._write(current.state(finished=False))
        if numbers and (last or now >= current.line_due):
            current.line_due = now + METRICS_INTERVAL
            self._append(current)

    def finish(self, stage: str) -> None:
        """Write the stage's last state and forget its clocks."""
        current = self._stages.pop(stage, None) or _Stage(stage, time.monotonic(), time.time(), 0)
        if current.unwritten:
            self._append(current)
        self._write(current.state(finished=True))

    def _write(self, state: StageState) -> None:
        path = self.folder / PROGRESS_FOLDER / f"{platform.node()}-{os.getpid()}.json"
        # Not flushed to the disk: after a crash the file is only a picture of work that no longer runs.
        temporary = temporary_name(path)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._tidied:
                _remove_files_of_the_dead(path.parent)
                self._tidied = True
            with create(temporary) as handle:
                handle.write(json.dumps(dataclasses.asdict(state) | {"numbers": _finite(state.numbers)}).encode())
            temporary.replace(path)

    def _append(self, stage: _Stage) -> None:
        stage.unwritten = False
        line = {"time": time.time(), "stage": stage.name, "done": stage.done, "total": stage.total}
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / METRICS_FILE).open("a") as handle:
                handle.write(json.dumps(line | _finite(stage.numbers)) + "\n")


def read_progress(folder: Path) -> dict[str, StageState]:
    """Return what each process last wrote by :class:`FileProgress` in ``folder``, by the names of their files.

    A stage that a dead process left unfinished does not run, and is left out. So is a file that cannot be read.
    """
    states = {}
    for path in sorted((folder / PROGRESS_FOLDER).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
            state = _checked(json.loads(path.read_text(encoding="utf-8")))
            if state.over or _is_alive(path):
                states[path.stem] = state
    return states


def _checked(raw: dict[str, Any]) -> StageState:
    kinds = {"stage": str, "done": int, "total": int, "unit": str, "rate": float, "started": float, "updated": float}
    values = {name: kind(raw[name]) for name, kind in kinds.items()} | {"finished": bool(raw["finished"])}
    numbers = {name: float(value) for name, value in raw["numbers"].items() if value is not None}
    eta = raw["eta_seconds"]
    return StageState(**values, eta_seconds=None if eta is None else float(int(eta)), numbers=numbers)


def _is_alive(path: Path) -> bool:
    """Tell whether the process that writes this file runs; one of another machine is taken to."""
    machine, _, number = path.stem.rpartition("-")
    return machine != platform.node() or psutil.pid_exists(int(number))


def _remove_files_of_the_dead(folder: Path) -> None:
    for path in folder.glob("*.json"):
        with contextlib.suppress(ValueError):
            if not _is_alive(path):
                path.unlink(missing_ok=True)


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in numbers.items()}
