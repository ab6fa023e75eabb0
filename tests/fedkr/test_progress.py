"""Progress files of long work."""

import json
import time

from fedkr.progress import METRICS_FILE, PROGRESS_FILE, FileProgress, SilentProgress, read_progress


def lines_of(folder):
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]


def test_progress_file_says_where_a_stage_stands(tmp_path):
    progress = FileProgress(tmp_path / "site-0")
    progress.update("teacher", 0, 100, unit="image")
    time.sleep(0.01)
    progress.update("teacher", 100, 100, unit="image", loss=0.25)
    state = read_progress(tmp_path / "site-0")
    assert (state["stage"], state["done"], state["total"], state["unit"]) == ("teacher", 100, 100, "image")
    assert state["rate"] > 0
    assert state["eta_seconds"] == 0
    assert state["numbers"] == {"loss": 0.25}
    assert state["started"] <= state["updated"]


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
    assert read_progress(tmp_path)["done"] == 10
    assert lines_of(tmp_path)[-1]["loss"] == 10.0
    progress.update("teacher", 1, 10, loss=5.0)
    progress.update("teacher", 2, 10, loss=4.0)
    progress.finish("teacher")
    assert read_progress(tmp_path)["finished"] is True
    assert read_progress(tmp_path)["done"] == 2
    assert lines_of(tmp_path)[-1]["loss"] == 4.0


def test_a_resumed_stage_does_not_count_earlier_work_in_its_rate(tmp_path):
    progress = FileProgress(tmp_path)
    progress.update("generator", 900, 1000)
    state = read_progress(tmp_path)
    assert state["rate"] == 0
    assert state["eta_seconds"] is None


def test_numbers_that_are_none_are_null_in_valid_json(tmp_path):
    progress = FileProgress(tmp_path)
    progress.update("generator", 1, 1, loss=float("nan"))
    for text in ((tmp_path / PROGRESS_FILE).read_text(), (tmp_path / METRICS_FILE).read_text()):
        assert "NaN" not in text
    assert lines_of(tmp_path)[0]["loss"] is None


def test_progress_file_is_replaced_whole_and_leaves_no_temporary_file(tmp_path):
    progress = FileProgress(tmp_path)
    for step in range(5):
        progress.update(f"stage {step}", 5, 5)
        assert json.loads((tmp_path / PROGRESS_FILE).read_text())["stage"] == f"stage {step}"
    assert [p.name for p in tmp_path.iterdir()] == [PROGRESS_FILE]


def test_a_disk_that_refuses_does_not_stop_the_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    progress = FileProgress(tmp_path / "file")
    progress.update("teacher", 1, 1, loss=1.0)
    progress.finish("teacher")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_missing_or_half_written_file_reads_as_nothing(tmp_path):
    assert read_progress(tmp_path) is None
    for text in ("", '{"stage": "te', "[1]", '{"done": 1}'):
        (tmp_path / PROGRESS_FILE).write_text(text)
        assert read_progress(tmp_path) is None


def test_silent_progress_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    silent = SilentProgress()
    silent.update("teacher", 1, 2, loss=1.0)
    silent.finish("teacher")
    assert list(tmp_path.iterdir()) == []
