"""Progress files of long work."""

import json
import subprocess
import sys
import time

import pytest

from fedkr.progress import METRICS_FILE, PROGRESS_FOLDER, FileProgress, SilentProgress, read_progress


def lines_of(folder):
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]


def only(folder):
    """Return the state that the only process at work for a folder reported."""
    (state,) = read_progress(folder).values()
    return state


def progress_files(folder):
    return list((folder / PROGRESS_FOLDER).iterdir())


def test_progress_file_says_where_a_stage_stands(tmp_path):
    progress = FileProgress(tmp_path / "site-0")
    progress.update("teacher", 0, 100, unit="image")
    time.sleep(0.01)
    progress.update("teacher", 100, 100, unit="image", loss=0.25)
    state = only(tmp_path / "site-0")
    assert (state.stage, state.done, state.total, state.unit) == ("teacher", 100, 100, "image")
    assert state.rate > 0
    assert state.eta_seconds == 0
    assert state.numbers == {"loss": 0.25}
    assert state.started <= state.updated


def test_steps_in_quick_succession_hardly_touch_the_disk(tmp_path, monkeypatch):
    writes = []
    progress = FileProgress(tmp_path)
    write = progress._write
    monkeypatch.setattr(progress, "_write", lambda *a, **k: (writes.append(a), write(*a, **k)))
    for step in range(1, 1001):
        progress.update("generator", step, 100_000, loss=1.0 / step)
    assert 1 <= len(writes) <= 3
    assert len(lines_of(tmp_path)) <= 3


def test_last_step_and_finish_are_written_whatever_the_clock_says(tmp_path):
    progress = FileProgress(tmp_path)
    for step in range(1, 11):
        progress.update("generator", step, 10, loss=float(step))
    assert only(tmp_path).done == 10
    assert lines_of(tmp_path)[-1]["loss"] == 10.0
    progress.update("teacher", 1, 10, loss=5.0)
    progress.update("teacher", 2, 10, loss=4.0)
    progress.finish("teacher")
    assert only(tmp_path).finished is True
    assert only(tmp_path).done == 2
    assert lines_of(tmp_path)[-1]["loss"] == 4.0


def test_a_resumed_stage_does_not_count_earlier_work_in_its_rate(tmp_path):
    progress = FileProgress(tmp_path)
    progress.update("generator", 900, 1000)
    assert only(tmp_path).rate == 0
    assert only(tmp_path).eta_seconds is None


def test_numbers_that_are_none_are_null_in_valid_json(tmp_path):
    progress = FileProgress(tmp_path)
    progress.update("generator", 1, 1, loss=float("nan"))
    for path in (*progress_files(tmp_path), tmp_path / METRICS_FILE):
        assert "NaN" not in path.read_text()
    assert lines_of(tmp_path)[0]["loss"] is None


def test_progress_file_is_replaced_whole_and_leaves_no_temporary_file(tmp_path):
    progress = FileProgress(tmp_path)
    for step in range(5):
        progress.update(f"stage {step}", 5, 5)
        (file,) = progress_files(tmp_path)
        assert json.loads(file.read_text())["stage"] == f"stage {step}"
    assert [p.name for p in tmp_path.iterdir()] == [PROGRESS_FOLDER]


def test_a_disk_that_refuses_does_not_stop_the_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    progress = FileProgress(tmp_path / "file")
    progress.update("teacher", 1, 1, loss=1.0)
    progress.finish("teacher")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_missing_or_half_written_file_reads_as_nothing(tmp_path):
    assert read_progress(tmp_path) == {}
    FileProgress(tmp_path).update("teacher", 1, 2)
    (file,) = progress_files(tmp_path)
    for text in ("", '{"stage": "te', "[1]", '{"done": 1}'):
        file.write_text(text)
        assert read_progress(tmp_path) == {}


@pytest.fixture
def report():
    """Report a stage from a process of its own, and wait until that process is gone."""

    def report(folder, done, total):
        script = f"from pathlib import Path; from fedkr.progress import FileProgress; folder = Path({str(folder)!r}); "
        script += f"FileProgress(folder).update('teacher', {done}, {total})"
        subprocess.run([sys.executable, "-c", script], check=True)

    return report


def test_processes_of_one_folder_report_side_by_side(tmp_path, report):
    FileProgress(tmp_path).update("own model", 1, 10)
    report(tmp_path, 10, 10)
    assert sorted(state.stage for state in read_progress(tmp_path).values()) == ["own model", "teacher"]


def test_a_stage_that_a_dead_process_left_unfinished_does_not_run_and_its_file_goes_with_the_next_report(
    tmp_path, report
):
    report(tmp_path, 3, 10)
    assert len(progress_files(tmp_path)) == 1
    assert read_progress(tmp_path) == {}
    FileProgress(tmp_path).update("own model", 1, 10)
    assert only(tmp_path).stage == "own model"
    assert len(progress_files(tmp_path)) == 1


def test_a_process_of_another_machine_is_taken_to_run(tmp_path):
    FileProgress(tmp_path).update("teacher", 1, 2)
    (file,) = progress_files(tmp_path)
    file.rename(file.with_name("elsewhere-1234567.json"))
    FileProgress(tmp_path).update("own model", 1, 2)
    assert sorted(state.stage for state in read_progress(tmp_path).values()) == ["own model", "teacher"]


def test_silent_progress_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    silent = SilentProgress()
    silent.update("teacher", 1, 2, loss=1.0)
    silent.finish("teacher")
    assert list(tmp_path.iterdir()) == []
