"""The terminal during a run: one row per running stage with its bar, speed and ETA; plain lines where there is none."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn

from fedkr.progress import FileProgress, StageState, read_progress
from fedkr.run_files import RunFiles

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.5
PLAIN_SECONDS = 10.0
WAITING = StageState("waiting", 0, 0)

# By the part of the run (a site, the server), then by the process that reports.
States = dict[str, dict[str, StageState]]


def run_folders(run_dir: Path, sites: int, oracles: Iterable[str] = ()) -> dict[str, Path]:
    """Return where a run's parts report their progress: every site, the server and the oracles, by name."""
    files = RunFiles(run_dir)
    folders = {f"site-{i}": files.sites / f"site-{i}" for i in range(sites)} | {"server": files.server}
    return folders | {name: files.oracle(name) for name in oracles}


@contextlib.contextmanager
def live_view(folders: Mapping[str, Path], console: Console | None = None) -> Iterator[None]:
    """Show the progress of ``folders`` (which may appear later) while the block runs; never raise into it."""
    stop = threading.Event()
    thread = threading.Thread(target=watch, args=(folders, stop, console), name="live", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5.0)


@contextlib.contextmanager
def shown_progress(name: str) -> Iterator[FileProgress]:
    """Show on stderr, under ``name``, the progress of work that has no folder of its own."""
    with tempfile.TemporaryDirectory() as folder, live_view({name: Path(folder)}, Console(stderr=True)):
        yield FileProgress(Path(folder))


def watch(
    folders: Mapping[str, Path],
    stop: threading.Event,
    console: Console | None = None,
    refresh: float = REFRESH_SECONDS,
    plain_every: float = PLAIN_SECONDS,
) -> None:
    """Show the progress of ``folders``, looked at every ``refresh`` seconds, until ``stop`` is set and one last time.

    Where the console (standard output by default) is no terminal, a running stage gets a line every ``plain_every``
    seconds.
    """
    # A view that fails must not take hours of training with it.
    try:
        console, looks = console or Console(), _looks(folders, stop, refresh)
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                for states in looks:
                    live.update(progress_table(states, console.width, console.height - 4), refresh=True)
            return
        lines = PlainLines(plain_every)
        for states in looks:
            for line in lines.next(states, time.monotonic()):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    except Exception:
        log.warning("the progress display stopped; the run goes on", exc_info=True)


def _looks(folders: Mapping[str, Path], stop: threading.Event, refresh: float) -> Iterator[States]:
    """Yield how far all parts are until ``stop`` is set, without what an earlier run in these folders left behind."""
    before = {name: read_progress(folder).items() for name, folder in folders.items()}
    running = True
    while running:
        running = not stop.wait(refresh)
        yield {
            name: dict(item for item in read_progress(folder).items() if item not in before[name])
            for name, folder in folders.items()
        }


def progress_table(states: States, width: int = 100, height: int = 40) -> Group:
    """Return the rows of one look; where they outnumber ``height``, the ones last heard of are kept."""
    rows = [(name, stage) for name, found in states.items() for stage in _stages_to_show(found)]
    shown = sorted(rows, key=lambda row: -row[1].updated)[: max(height, 1)]
    table = Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        TextColumn("{task.fields[stage]}", markup=False),
        BarColumn(max(8, min(30, width - 80)), complete_style="cyan", finished_style="green"),
        *(TextColumn(f"{{task.fields[{name}]}}", justify="right", markup=False) for name in ("done", "speed", "eta")),
        TextColumn("{task.fields[numbers]}", style="dim", markup=False),
    )
    for name, state in (row for row in rows if row in shown):
        table.add_task(
            name,
            total=1 if state.over or state is WAITING else state.total or None,
            completed=1 if state.over else state.done,
            stage=state.stage,
            done=_count(state),
            speed=_speed(state),
            eta=_eta(state),
            numbers=_numbers(state),
        )
    return Group(table, *([f"... and {len(rows) - len(shown)} more"] if len(shown) < len(rows) else []))


def _stages_to_show(states: dict[str, StageState]) -> list[StageState]:
    """Return the stages that run, the oldest first; where none does, the one that ended last."""
    running = sorted((state for state in states.values() if not state.over), key=lambda state: state.started)
    return running or [max(states.values(), key=lambda state: state.updated, default=WAITING)]


class PlainLines:
    """Turns states into lines: one when a stage starts, one when it ends, and one every ``every`` seconds between."""

    def __init__(self, every: float = PLAIN_SECONDS) -> None:
        self._every = every
        self._last: dict[tuple[str, str], StageState] = {}
        self._due: dict[tuple[str, str], float] = {}

    def next(self, states: States, now: float) -> list[str]:
        """Return the lines that are due at ``now`` (monotonic seconds)."""
        found = {(name, process): state for name, by_process in states.items() for process, state in by_process.items()}
        lines = [
            f"{key[0]}: {before.stage} ended"
            for key, before in self._last.items()
            if not before.over and (key not in found or found[key].stage != before.stage)
        ]
        for key, state in found.items():
            if event := self._event(key, state, now):
                lines.append(f"{key[0]}: {state.stage} {event} {_details(state)}")
        self._last = found
        return lines

    def _event(self, key: tuple[str, str], state: StageState, now: float) -> str:
        before = self._last.get(key)
        started = before is None or before.stage != state.stage or (before.over and not state.over)
        if state.over:
            return "ended," if started or (before is not None and not before.over) else ""
        if not started and now < self._due[key]:
            return ""
        self._due[key] = now + self._every
        return "started" if started else "at"


def _details(state: StageState) -> str:
    eta = "" if state.over or state.eta_seconds is None else f"ETA {_eta(state)}"
    parts = (f"{_count(state)} {state.unit}", _speed(state), eta, _numbers(state))
    return ", ".join(part for part in parts if part)


def _count(state: StageState) -> str:
    return f"{state.done:,}/{state.total:,}" if state.total > 0 else f"{state.done:,}"


def _speed(state: StageState) -> str:
    return f"{state.rate:,.{0 if state.rate >= 100 else 1}f} {state.unit}/s" if state.rate > 0 else ""


def _eta(state: StageState) -> str:
    if state.over:
        return "done"
    return "" if state.eta_seconds is None else str(timedelta(seconds=int(state.eta_seconds)))


def _numbers(state: StageState) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in list(state.numbers.items())[:2])
