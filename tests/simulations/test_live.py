"""The live view of a run."""

import contextlib
import dataclasses
import io
import json
import os
import platform
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console
from rich.text import Text

from fedkr.progress import PROGRESS_FOLDER, FileProgress, StageState
from simulations.live import PlainLines, live_view, progress_table, run_folders, watch

# A report that may be shown, to be spoilt.
WHOLE = json.dumps(dataclasses.asdict(StageState("x", 1, 2)))
# What a process of a site does: it reports one stage at every step, and has not ended it when the test is over.
REPORT = """
import sys, time
from pathlib import Path
from fedkr import progress
progress.PROGRESS_INTERVAL = 0.0
reports = progress.FileProgress(Path(sys.argv[1]))
for step in range(1, 30):
    reports.update(sys.argv[2], step, 1000)
    time.sleep(0.01)
print(flush=True)
sys.stdin.read()
"""


def state(stage="teacher", done=1, total=10, finished=False):
    return StageState(stage, done, total, "step", 5.0, 60.0, 1.0, 2.0, finished, {"loss": 0.5})


def one(state):
    """Return the states of a part with a single process."""
    return {"machine-1": state}


def shown(renderable, width=140):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()


def view(folders, work, terminal):
    console = Console(file=io.StringIO(), width=140, force_terminal=terminal)
    stop = threading.Event()
    thread = threading.Thread(target=watch, args=(folders, stop, console, 0.02, 10.0))
    thread.start()
    time.sleep(0.05)
    work()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    return console.file.getvalue()


@pytest.fixture
def reporting():
    """Start a process for each stage, and wait until all have reported many steps; they end with the test."""
    with contextlib.ExitStack() as stack:

        def start(folder, *stages):
            processes = []
            for stage in stages:
                command = [sys.executable, "-c", REPORT, str(folder), stage]
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                stack.callback(process.communicate)
                processes.append(process)
            for process in processes:
                assert process.stdout.readline()
            time.sleep(0.1)

        yield start


@pytest.mark.parametrize("terminal", [True, False])
def test_folders_that_appear_later_are_shown(tmp_path, terminal):
    folders = run_folders(tmp_path, 2)
    output = view(folders, lambda: FileProgress(folders["site-1"]).update("generator", 3, 10), terminal)
    assert "site-1" in output
    assert "generator" in output
    assert "3/10" in output


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"stage": "x"',
        '{"stage": "x"}',
        '{"stage": "x", "done": "many", "total": null}',
        '{"stage": "x", "done": 1, "total": 2, "numbers": [1]}',
        '{"stage": "x", "done": 1e999, "total": 2}',
        WHOLE.replace('"done": 1', '"done": 1e999'),
        WHOLE.replace('"done": 1', '"done": "many"'),
        WHOLE.replace("{}", "[1]"),
        WHOLE.replace('"eta_seconds": null', '"eta_seconds": 1e999'),
    ],
)
def test_corrupt_files_are_taken_for_no_news(tmp_path, text, terminal, caplog):
    def work():
        folder = tmp_path / "site" / PROGRESS_FOLDER
        folder.mkdir(parents=True)
        folder.joinpath(f"{platform.node()}-{os.getpid()}.json").write_text(text)

    output = view({"site": tmp_path / "site", "other": tmp_path / "other"}, work, terminal)
    assert "stopped" not in caplog.text
    assert "started" not in output


def test_a_terminal_that_fails_does_not_raise_into_the_run(tmp_path):
    class Broken(io.StringIO):
        def write(self, text):
            raise OSError("gone")

    FileProgress(tmp_path / "site-0").update("teacher", 1, 2)
    with live_view({"site-0": tmp_path / "site-0"}, Console(file=Broken(), force_terminal=True)):
        result = 1 + 1
    assert result == 2


def test_errors_of_the_run_pass_through_the_view(tmp_path):
    with pytest.raises(RuntimeError, match="of the run"), live_view({"site-0": tmp_path}, Console(file=io.StringIO())):
        raise RuntimeError("of the run")


@pytest.mark.parametrize("terminal", [True, False])
def test_two_processes_of_one_site_are_shown_side_by_side(tmp_path, reporting, terminal):
    output = view({"site-0": tmp_path}, lambda: reporting(tmp_path, "teacher", "own model"), terminal)
    lines = Text.from_ansi(output).plain.splitlines()
    lines = lines[-2:] if terminal else lines
    assert len(lines) == 2
    assert all(sum(f" {stage} " in line for line in lines) == 1 for stage in ("teacher", "own model"))


def test_what_an_earlier_run_left_is_not_shown_as_running(tmp_path):
    FileProgress(tmp_path).update("generator", 3, 10)
    assert "generator" not in view({"site-0": tmp_path}, lambda: None, terminal=False)


def test_plain_lines_come_at_start_and_end_and_every_ten_seconds():
    lines = PlainLines(every=10.0)
    first = lines.next({"site-0": one(state(done=1)), "site-1": {}}, 0.0)
    assert first == ["site-0: teacher started 1/10 step, 5.0 step/s, ETA 0:01:00, loss 0.5"]
    assert lines.next({"site-0": one(state(done=2))}, 1.0) == []
    assert "at 5/10" in lines.next({"site-0": one(state(done=5))}, 10.5)[0]
    assert "ended" in lines.next({"site-0": one(state(done=10))}, 11.0)[0]
    assert lines.next({"site-0": one(state(done=10, finished=True))}, 30.0) == []


def test_plain_lines_say_that_a_stage_ended_when_the_next_is_seen():
    lines = PlainLines()
    lines.next({"site-0": one(state("teacher", 3))}, 0.0)
    assert [line.split(",")[0] for line in lines.next({"site-0": one(state("generator", 1))}, 1.0)] == [
        "site-0: teacher ended",
        "site-0: generator started 1/10 step",
    ]


def test_plain_lines_say_that_a_stage_ended_whose_process_is_gone():
    lines = PlainLines()
    lines.next({"site-0": one(state("teacher", 3))}, 0.0)
    assert lines.next({"site-0": {}}, 1.0) == ["site-0: teacher ended"]
    assert lines.next({"site-0": {}}, 2.0) == []


def test_table_has_one_row_a_running_stage_with_speed_and_eta():
    both = {"machine-1": state(), "machine-2": state("own model"), "machine-3": state("generator", 10)}
    text = shown(progress_table({"site-0": both, "site-1": {}, "server": one(state("student", 10, 10))}, width=140))
    assert [line.split()[:2] for line in text.splitlines()] == [
        ["site-0", "teacher"],
        ["site-0", "own"],
        ["site-1", "waiting"],
        ["server", "student"],
    ]
    assert "5.0 step/s" in text
    assert "1:00" in text
    assert "done" in text.splitlines()[-1]


def test_table_of_many_sites_fits_the_terminal():
    text = shown(progress_table({f"site-{i}": one(state()) for i in range(50)}, width=140, height=10))
    assert len(text.splitlines()) <= 12
    assert "40 more" in text
