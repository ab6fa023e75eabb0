"""The terminal during a run: one row per site with its stage, bar, speed and ETA; plain lines where there is none."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedkr.progress import FileProgress, read_progress

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.5
PLAIN_SECONDS = 10.0


@dataclass(frozen=True)
class SiteState:
    """One site's ``progress.json`` after its values were found to be what they should be."""

    stage: str
    done: int
    total: int
    unit: str
    rate: float
    eta: float | None
    finished: bool
    updated: float
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether the stage has nothing left to do."""
        return self.finished or 0 < self.total <= self.done

    @staticmethod
    def read(folder: Path) -> SiteState | None:
        """Return the state in ``folder``, or None for a file that is missing, half written or not a progress file."""
        raw = read_progress(folder)
        try:
            return None if raw is None else SiteState._from_json(raw)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            return None

    @staticmethod
    def _from_json(raw: dict[str, Any]) -> SiteState:
        eta = raw.get("eta_seconds")
        numbers = (raw.get("numbers") or {}).items()
        return SiteState(
            stage=raw["stage"],
            done=int(raw["done"]),
            total=int(raw["total"]),
            unit=str(raw.get("unit", "step")),
            rate=float(raw.get("rate", 0.0)),
            eta=None if eta is None else float(int(eta)),
            finished=bool(raw.get("finished", False)),
            updated=float(raw.get("updated", 0.0)),
            numbers={str(name): float(value) for name, value in numbers if value is not None},
        )


def run_folders(run_dir: Path, sites: int, centralised: bool = True) -> dict[str, Path]:
    """Return where a run's parts report their progress: every site, the server and, if wanted, the oracle."""
    folders = {f"site-{i}": run_dir / "sites" / f"site-{i}" for i in range(sites)}
    folders["server"] = run_dir / "server"
    if centralised:
        folders["centralised"] = run_dir / "centralised"
    return folders


class LiveView:
    """Shows the progress of ``folders`` (which may appear later) while the block runs; never raises into it.

    Example::

        with LiveView(run_folders(run_dir, study.federation.sites)):
            backend.run(...)
    """

    def __init__(self, folders: dict[str, Path], console: Console | None = None) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=watch, args=(folders, self._stop, console), name="live-view", daemon=True
        )

    def __enter__(self) -> LiveView:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)


@contextlib.contextmanager
def shown_progress(name: str) -> Iterator[FileProgress]:
    """Show on stderr, under ``name``, the progress of work that has no folder of its own."""
    with tempfile.TemporaryDirectory() as folder, LiveView({name: Path(folder)}, Console(stderr=True)):
        yield FileProgress(Path(folder))


def watch(
    folders: dict[str, Path],
    stop: threading.Event,
    console: Console | None = None,
    refresh: float = REFRESH_SECONDS,
    plain_every: float = PLAIN_SECONDS,
) -> None:
    """Show the progress of ``folders`` until ``stop`` is set.

    Args:
        folders: what each row is called and where its ``progress.json`` is or will be.
        stop: ends the view after one last look.
        console: where to show it; standard output by default.
        refresh: seconds between two looks.
        plain_every: seconds between two lines of a running stage where the console is no terminal.
    """
    # A view that fails must not take hours of training with it.
    try:
        console = console or Console()
        if console.is_terminal:
            _watch_table(folders, stop, console, refresh)
        else:
            _watch_lines(folders, stop, console, refresh, plain_every)
    except Exception:
        log.warning("the progress display stopped; the run goes on", exc_info=True)


class _Reader:
    """Reads every folder's state, leaving out what an earlier run in the same folders left behind."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = folders
        self._left_behind = {name: SiteState.read(folder) for name, folder in folders.items()}

    def read(self) -> dict[str, SiteState | None]:
        states = {name: SiteState.read(folder) for name, folder in self._folders.items()}
        return {name: None if state == self._left_behind[name] else state for name, state in states.items()}


def _watch_table(folders: dict[str, Path], stop: threading.Event, console: Console, refresh: float) -> None:
    reader = _Reader(folders)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        running = True
        while running:
            running = not stop.wait(refresh)
            live.update(progress_table(reader.read(), console.width, console.height - 4), refresh=True)


def _watch_lines(
    folders: dict[str, Path], stop: threading.Event, console: Console, refresh: float, every: float
) -> None:
    reader, lines = _Reader(folders), PlainLines(every)
    running = True
    while running:
        running = not stop.wait(refresh)
        for line in lines.next(reader.read(), time.monotonic()):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def progress_table(states: dict[str, SiteState | None], width: int = 100, height: int = 40) -> Table:
    """Return the table of one look; where rows outnumber ``height``, the ones last heard of are kept."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("site", "stage", "", "done", "speed", "ETA", ""):
        table.add_column(title, no_wrap=True, justify="right" if title in ("done", "speed", "ETA") else "left")
    bar = max(8, min(30, width - 80))
    shown = set(sorted(states, key=lambda name: -(s.updated if (s := states[name]) else 0.0))[: max(height, 1)])
    for name, state in states.items():
        if name in shown:
            table.add_row(Text(name, style="bold"), *_cells(state, bar))
    if len(shown) < len(states):
        table.caption = f"... and {len(states) - len(shown)} more"
    return table


def _cells(state: SiteState | None, bar: int) -> list[Text | ProgressBar]:
    if state is None:
        return [Text("waiting", style="dim")]
    style = "green" if state.over else "cyan"
    total = float(state.total) if state.total > 0 else None
    done = float(state.total or 1) if state.over else float(state.done)
    return [
        Text(state.stage, style=style),
        ProgressBar(
            total=done if state.over else total,
            completed=done,
            width=bar,
            complete_style="cyan",
            finished_style="green",
        ),
        Text(_count(state)),
        Text(_speed(state)),
        Text("done" if state.over else _clock(state.eta), style=style),
        Text(_numbers(state), style="dim"),
    ]


class PlainLines:
    """Turns states into lines: one when a stage starts, one when it ends, and one every ``every`` seconds between."""

    def __init__(self, every: float = PLAIN_SECONDS) -> None:
        self._every = every
        self._last: dict[str, SiteState] = {}
        self._due: dict[str, float] = {}

    def next(self, states: dict[str, SiteState | None], now: float) -> list[str]:
        """Return the lines that are due at ``now`` (monotonic seconds)."""
        return [line for name, state in states.items() if state for line in self._of_site(name, state, now)]

    def _of_site(self, name: str, state: SiteState, now: float) -> list[str]:
        before, lines = self._last.get(name), []
        self._last[name] = state
        started = before is None or before.stage != state.stage or (before.over and not state.over)
        if started and before is not None and not before.over:
            lines.append(f"{name}: {before.stage} ended")
        if state.over:
            if started or (before is not None and not before.over):
                lines.append(f"{name}: {state.stage} ended, {_details(state)}")
        elif started or now >= self._due[name]:
            lines.append(f"{name}: {state.stage} {'started' if started else 'at'} {_details(state)}")
            self._due[name] = now + self._every
        return lines


def _details(state: SiteState) -> str:
    parts = [f"{_count(state)} {state.unit}", _speed(state)]
    if not state.over and state.eta is not None:
        parts.append(f"ETA {_clock(state.eta)}")
    return ", ".join(part for part in (*parts, _numbers(state)) if part)


def _count(state: SiteState) -> str:
    return f"{state.done:,}/{state.total:,}" if state.total > 0 else f"{state.done:,}"


def _speed(state: SiteState) -> str:
    return f"{state.rate:,.{0 if state.rate >= 100 else 1}f} {state.unit}/s" if state.rate > 0 else ""


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _numbers(state: SiteState) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in list(state.numbers.items())[:2])
