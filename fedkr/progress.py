"""What long work reports while it runs: a stage, how far it is, and a few numbers; never anything about an image."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

PROGRESS_FILE = "progress.json"
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


@dataclass(slots=True)
class _Stage:
    """Clocks (monotonic seconds) and latest figures of one running stage."""

    name: str
    began: float
    began_wall: float
    first: int
    done: int = 0
    total: int = 0
    unit: str = "step"
    file_due: float = 0.0
    line_due: float = 0.0
    numbers: dict[str, float] = field(default_factory=dict)
    unwritten: bool = False


class FileProgress:
    """Keeps ``folder/progress.json`` current and appends numbers to ``folder/metrics.jsonl``.

    The first is replaced at most twice a second (always at a stage's first and last update), the second grows by at
    most one line a second and stage, and by the last one. A disk that refuses is ignored here: the work itself will
    meet it where the remedy can be named.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stages: dict[str, _Stage] = {}

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
            self._write(current, now, finished=False)
        if numbers and (last or now >= current.line_due):
            current.line_due = now + METRICS_INTERVAL
            self._append(current)

    def finish(self, stage: str) -> None:
        """Write the stage's last state and forget its clocks."""
        current = self._stages.pop(stage, None)
        if current is None:
            now = time.monotonic()
            current = _Stage(stage, now, time.time(), 0)
        if current.unwritten:
            self._append(current)
        self._write(current, time.monotonic(), finished=True)

    def _write(self, stage: _Stage, now: float, finished: bool) -> None:
        elapsed = now - stage.began
        rate = (stage.done - stage.first) / elapsed if elapsed > 0 else 0.0
        left = max(stage.total - stage.done, 0)
        state = {
            "stage": stage.name,
            "done": stage.done,
            "total": stage.total,
            "unit": stage.unit,
            "rate": rate,
            "eta_seconds": left / rate if rate > 0 and stage.total > 0 else None,
            "started": stage.began_wall,
            "updated": time.time(),
            "pid": os.getpid(),
            "finished": finished,
            "numbers": _finite(stage.numbers),
        }
        path = self.folder / PROGRESS_FILE
        # Not flushed to the disk: after a crash the file is only a picture of work that no longer runs.
        temporary = path.with_name(f".{PROGRESS_FILE}.{os.getpid()}.{threading.get_ident()}.tmp")
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(state))
            temporary.replace(path)

    def _append(self, stage: _Stage) -> None:
        stage.unwritten = False
        line = {"time": time.time(), "stage": stage.name, "done": stage.done, "total": stage.total}
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / METRICS_FILE).open("a") as handle:
                handle.write(json.dumps(line | _finite(stage.numbers)) + "\n")


def read_progress(folder: Path) -> dict[str, Any] | None:
    """Return the state that :class:`FileProgress` last wrote in ``folder``, or None while there is none to read."""
    try:
        state = json.loads((folder / PROGRESS_FILE).read_text())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and isinstance(state.get("stage"), str) else None


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in _floats(numbers)}


def _floats(numbers: dict[str, float]) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in numbers.items()]
