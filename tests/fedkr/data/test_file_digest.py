"""The digest of a dataset's files: of all their bytes, before anything of them is opened."""

import json
import os
import time

import pytest

from fedkr.config import DataConfig
from fedkr.data import dataset_files
from fedkr.data.dataset_files import file_digest, file_stamp


@pytest.fixture
def folder(tmp_path):
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def of(path):
    return file_digest(DataConfig(path=str(path)))


def test_a_digest_is_of_the_bytes_wherever_and_whenever_they_were_written(tmp_path):
    one, two = tmp_path / "1.npz", tmp_path / "2.npz"
    one.write_bytes(b"pixels")
    two.write_bytes(b"pixels")
    first = of(one)
    assert len(first) == 64 and first == of(two)
    two.write_bytes(b"pixelz")
    assert of(two) != first


def test_of_a_folder_every_file_counts_and_its_place(folder):
    seen, stamp = {of(folder)}, file_stamp(DataConfig(path=str(folder)))
    (folder / "a" / "1.png").write_bytes(b"A/1.png")
    assert file_stamp(DataConfig(path=str(folder))) != stamp
    seen.add(of(folder))
    (folder / "a" / "1.png").rename(folder / "b" / "1.png")
    seen.add(of(folder))
    assert len(seen) == 3


def test_what_is_not_there_or_has_no_path_has_a_digest_that_says_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_bytes(b"not of the dataset")
    assert of("") == of(tmp_path / "gone.npz")
    assert file_stamp(DataConfig(path="")) == ()


@pytest.fixture
def later(monkeypatch):
    """A clock that says that all files were written long ago."""
    now = time.time_ns()
    monkeypatch.setattr(dataset_files.time, "time_ns", lambda: now + 10 * dataset_files.TICK)


@pytest.fixture
def asked(folder, tmp_path, monkeypatch):
    """Return a function that asks as a new process does, and says how often files were read for it."""
    reads, digest = [], dataset_files._digest
    monkeypatch.setattr(dataset_files, "_digest", lambda *files: reads.append(1) or digest(*files))
    kept = tmp_path.parent / f"{tmp_path.name}-kept"

    def ask():
        dataset_files._digest_once.cache_clear()
        reads.clear()
        return file_digest(DataConfig(path=str(folder)), kept), len(reads)

    ask.kept = kept / dataset_files.DIGEST_FILE
    return ask


def test_files_that_are_as_they_were_are_not_read_by_the_next_process(folder, asked, later):
    (first, read), (second, again) = asked(), asked()
    assert (read, again) == (1, 0) and first == second == of(folder)
    assert asked.kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("size", [7, 70])
def test_a_changed_file_is_found_also_with_its_size_and_times_put_back(folder, asked, later, size):
    first, _ = asked()
    before = (folder / "a" / "1.png").stat()
    (folder / "a" / "1.png").write_bytes(b"x" * size)
    os.utime(folder / "a" / "1.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    second, read = asked()
    assert read == 1 and second == of(folder) != first


@pytest.mark.parametrize("change", ["more", "gone", "moved"])
def test_files_that_come_go_or_move_are_found(folder, asked, later, change):
    first, _ = asked()
    if change == "more":
        (folder / "b" / "3.png").write_bytes(b"")
    else:
        (folder / "a" / "1.png").rename(folder / ".hidden" if change == "gone" else folder / "b" / "1.png")
    second, read = asked()
    assert read == 1 and second == of(folder) != first


def test_files_that_changed_a_moment_ago_are_read_again_since_they_could_change_in_the_same_tick(asked):
    asked()
    assert asked()[1] == 1 and not asked.kept.exists()


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"files": 1, "digest": 2}', "[" * 9999])
def test_what_is_damaged_is_computed_again(asked, later, damage):
    first, _ = asked()
    asked.kept.write_text(damage)
    assert asked() == (first, 1) and asked() == (first, 0)


def test_a_digest_that_is_none_is_not_taken(asked, later):
    first, _ = asked()
    kept = json.loads(asked.kept.read_text())
    asked.kept.write_text(json.dumps(kept | {"digest": "00"}))
    assert asked() == (first, 1)


def test_a_disk_that_refuses_costs_the_time_to_read(asked, later):
    asked.kept.parent.write_text("no folder")
    assert asked()[0] == asked()[0]
