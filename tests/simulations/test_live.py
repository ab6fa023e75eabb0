"""The live view of a run."""

import io
import threading
import time

import pytest
from rich.console import Console

from fedkr.progress import PROGRESS_FILE, FileProgress
from simulations.live import LiveView, PlainLines, SiteState, progress_table, run_folders, watch


def state(stage="teacher", done=1, total=10, finished=False):
    return SiteState(stage, done, total, "step", 5.0, 60.0, finished, 1.0, {"loss": 0.5})


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
    ],
)
def test_corrupt_files_are_taken_for_no_news(tmp_path, text, terminal, caplog):
    def work():
        tmp_path.joinpath("site").mkdir()
        tmp_path.joinpath("site", PROGRESS_FILE).write_text(text)

    output = view({"site": tmp_path / "site", "other": tmp_path / "other"}, work, terminal)
    assert "stopped" not in caplog.text
    assert "started" not in output


def test_a_terminal_that_fails_does_not_raise_into_the_run(tmp_path):
    class Broken(io.StringIO):
        def write(self, text):
            raise OSError("gone")

    FileProgress(tmp_path / "site-0").update("teacher", 1, 2)
    with LiveView({"site-0": tmp_path / "site-0"}, Console(file=Broken(), force_terminal=True)):
        result = 1 + 1
    assert result == 2


def test_errors_of_the_run_pass_through_the_view(tmp_path):
    with pytest.raises(RuntimeError, match="of the run"), LiveView({"site-0": tmp_path}, Console(file=io.StringIO())):
        raise RuntimeError("of the run")


def test_what_an_earlier_run_left_is_not_shown_as_running(tmp_path):
    FileProgress(tmp_path).update("generator", 3, 10)
    assert "generator" not in view({"site-0": tmp_path}, lambda: None, terminal=False)


def test_plain_lines_come_at_start_and_end_and_every_ten_seconds():
    lines = PlainLines(every=10.0)
    assert lines.next({"site-0": state(done=1), "site-1": None}, 0.0)[0].startswith("site-0: teacher started 1/10")
    assert lines.next({"site-0": state(done=2)}, 1.0) == []
    assert "at 5/10" in lines.next({"site-0": state(done=5)}, 10.5)[0]
    assert "ended" in lines.next({"site-0": state(done=10)}, 11.0)[0]
    assert lines.next({"site-0": state(done=10, finished=True)}, 30.0) == []


def test_plain_lines_say_that_a_stage_ended_when_the_next_is_seen():
    lines = PlainLines()
    lines.next({"site-0": state("teacher", 3)}, 0.0)
    assert [line.split(",")[0] for line in lines.next({"site-0": state("generator", 1)}, 1.0)] == [
        "site-0: teacher ended",
        "site-0: generator started 1/10 step",
    ]


def test_table_has_one_row_a_site_with_speed_and_eta():
    text = shown(progress_table({"site-0": state(), "site-1": None, "server": state("student", 10, 10)}, width=140))
    assert "5.0 step/s" in text
    assert "1:00" in text
    assert "waiting" in text
    assert "done" in text.splitlines()[-1]


def test_table_of_many_sites_fits_the_terminal():
    text = shown(progress_table({f"site-{i}": state() for i in range(50)}, width=140, height=10))
    assert len(text.splitlines()) <= 12
    assert "40 more" in text
