"""Decoded images are kept, for this account alone, and nothing that goes wrong with that costs more than time."""

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedkr.config import DataConfig
from fedkr.data import decoding, load_source
from fedkr.data.decoded import Decoded, kept
from fedkr.data.listing import LeftOut
from fedkr.data.registry import _load_once
from fedkr.data.withdrawn import drop_withdrawn
from fedkr.errors import UserError


@pytest.fixture
def scans(tmp_path):
    root = tmp_path / "scans"
    for label, name in enumerate(("healthy", "ill")):
        (root / name).mkdir(parents=True)
        for index in range(15):
            Image.fromarray(np.full((8, 8), 100 * label + index, np.uint8)).save(root / name / f"{index}.png")
    (root / "ill" / "broken.png").write_bytes(b"")
    return root


@pytest.fixture
def load(scans, tmp_path, monkeypatch):
    """Return a function that loads as a new process does, and says how many files were decoded for it."""
    reads = []
    read = decoding._read
    monkeypatch.setattr(decoding, "_read", lambda file, *rest: reads.append(file) or read(file, *rest))

    def load_anew(**options):
        _load_once.cache_clear()
        reads.clear()
        config = DataConfig(**{"name": "folder", "path": str(scans), **options})
        source = load_source(config, tmp_path / "decoded")
        return source, len(reads)

    return load_anew


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "decoded").iterdir() if path.name.startswith("decoded-"))


def test_each_file_is_decoded_once(load):
    (first, decoded), (second, again) = load(), load()
    assert (decoded, again) == (31, 0)
    assert first.identity == second.identity
    assert (first.left_out, first.warnings) == (second.left_out, second.warnings)
    assert len(second.left_out) == 1 and second.warnings


def test_what_is_kept_is_for_one_account_alone(load, tmp_path):
    before = os.umask(0)
    try:
        load()
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "decoded").iterdir()} == {0o600}
    assert (tmp_path / "decoded" / "left-out.txt").read_text().startswith("ill/broken.png: ")


def test_another_file_or_option_is_decoded_anew_and_what_was_kept_before_goes(load, scans, tmp_path):
    load()
    names = files(tmp_path)
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(scans / "ill" / "3.png")
    assert load()[1] == 31 and len(files(tmp_path)) == 2 and not set(files(tmp_path)) & set(names)
    assert load(size=4)[1] == 31 and load(size=4, limit=9, test_fraction=0.5)[1] == 0
    assert load(size=4, patients="none", remove_leaks=True, near_leaks=1.0)[1] == 0
    (scans / "ill" / "broken.png").unlink()
    assert load(size=4)[0].left_out == ()
    assert (tmp_path / "decoded" / "left-out.txt").read_text() == ""


def test_of_images_that_were_withdrawn_nothing_is_kept_though_the_rest_cannot_be_used(load, scans, tmp_path):
    load()
    assert len(files(tmp_path)) == 2
    Image.fromarray(np.full((9, 9), 9, np.uint8)).save(scans / "ill" / "3.png")
    with pytest.raises(UserError, match="9 x 9 pixels, where all must be square and of one size"):
        load()
    assert files(tmp_path) == []


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


CHANGES = {
    "none": lambda scans: None,
    "one withdrawn": lambda scans: (scans / "ill" / "3.png").unlink(),
    "a class withdrawn": lambda scans: empty(scans / "ill"),
    "a class withdrawn with its folder": lambda scans: shutil.rmtree(scans / "ill"),
    "all withdrawn": lambda scans: [empty(scans / name) for name in ("healthy", "ill")],
    "share away": lambda scans: scans.rename(scans.parent / "away"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["folder", "table"])
def test_what_is_kept_of_withdrawn_images_goes_without_anything_being_decoded(load, scans, tmp_path, name, change):
    table, cache = scans / "table.csv", tmp_path / "decoded"
    config = DataConfig(name=name, path=str(table if name == "table" else scans))
    rows = [f"{label}/{index}.png,{label}" for label in ("healthy", "ill") for index in range(15)]
    table.write_text("\n".join(["path,label", *rows]))
    load(name=name, path=config.path)
    CHANGES[change](scans)
    drop_withdrawn(config, cache)
    assert bool(files(tmp_path)) is (change in ("none", "share away"))
    if change == "none":
        assert load(name=name, path=config.path)[1] == 0


TABLES = {"only its header": b"path,label\n", "one class": b"path,label\nill/1.png,ill\n", "no table": b"\xff\0"}


@pytest.mark.parametrize("content", TABLES)
@pytest.mark.parametrize("by_loading", [False, True])
def test_nothing_is_kept_of_a_table_that_lists_no_dataset_any_longer(load, scans, tmp_path, content, by_loading):
    table = scans / "table.csv"
    rows = [f"{label}/{index}.png,{label}" for label in ("healthy", "ill") for index in range(15)]
    table.write_text("\n".join(["path,label", *rows]))
    load(name="table", path=str(table))
    assert len(files(tmp_path)) == 2
    table.write_bytes(TABLES[content])
    if by_loading:
        with pytest.raises(UserError, match=r"table\.csv: "):
            load(name="table", path=str(table))
    else:
        drop_withdrawn(DataConfig(name="table", path=str(table)), tmp_path / "decoded")
    assert files(tmp_path) == []


@pytest.mark.parametrize("change", ["a class withdrawn", "all withdrawn", "share away"])
def test_nothing_is_kept_of_a_folder_that_is_refused_when_it_is_loaded(load, scans, tmp_path, change):
    load()
    CHANGES[change](scans)
    with pytest.raises(UserError, match="scans"):
        load()
    assert bool(files(tmp_path)) is (change == "share away")


def test_nothing_is_kept_when_the_dataset_is_another_one(load, tmp_path):
    load()
    drop_withdrawn(DataConfig(name="npz", path=str(tmp_path / "own.npz")), tmp_path / "decoded")
    assert files(tmp_path) == [] and (tmp_path / "decoded" / "left-out.txt").exists()


def test_where_nothing_was_ever_kept_there_is_nothing_to_remove(scans, tmp_path):
    drop_withdrawn(DataConfig(name="folder", path=str(scans)), tmp_path / "decoded")
    assert not (tmp_path / "decoded").exists()


def failing(monkeypatch, error):
    """Have the system or memory fail at each file of one class."""
    read = Path.read_bytes

    def fail(path):
        if path.parent.name == "ill":
            raise error
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), PermissionError(errno.EACCES, "no"), MemoryError()])
def test_a_failure_that_may_pass_is_not_kept(load, tmp_path, monkeypatch, error):
    with monkeypatch.context() as patch:
        failing(patch, error)
        with pytest.raises(UserError, match="16 of 31 files cannot be read"):
            load()
        assert files(tmp_path) == []
    source, decoded = load()
    assert decoded == 31 and len(source.left_out) == 1 and load()[1] == 0


def test_what_changes_while_it_is_decoded_is_not_kept(load, scans, tmp_path, monkeypatch):
    (scans / "ill" / "broken.png").unlink()
    away = tmp_path / "away"
    read = decoding.decode

    def with_share_gone(listing, config):
        scans.rename(away)
        try:
            return read(listing, config)
        finally:
            scans.mkdir()

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", with_share_gone)
        with pytest.raises(UserError, match="30 of 30 files cannot be read"):
            load()
    scans.rmdir()
    away.rename(scans)
    assert load()[1] == 30 and load()[1] == 0


@pytest.mark.parametrize("suffix", ["npy", "json"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\0", b"{}", b"[]", b"\x80\x04N.", None])
def test_what_is_damaged_is_decoded_again(load, tmp_path, suffix, content):
    first, _ = load()
    (path,) = (tmp_path / "decoded").glob(f"decoded-*.{suffix}")
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    second, decoded = load()
    assert decoded == 31 and second.identity == first.identity
    assert load()[1] == 0


def test_a_full_disk_costs_only_the_time_to_decode(load, tmp_path, monkeypatch, caplog):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    source, _ = load()
    assert len(source.pool) + len(source.test) == 30
    assert list((tmp_path / "decoded").iterdir()) == []
    assert "decoded images are not kept" in caplog.text and "No space left on device" in caplog.text


def test_a_folder_that_cannot_be_made_costs_only_the_time_to_decode(load, tmp_path):
    (tmp_path / "decoded").write_text("a file")
    assert load()[1] == load()[1] == 31


def test_several_at_once_find_whole_files(tmp_path):
    images = np.arange(4 * 9, dtype=np.uint8).reshape(4, 3, 3, 1)
    made = Decoded(images, np.arange(4), np.full(4, -1), [LeftOut("a", "b")], ["w"])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: kept(tmp_path, {"key": index % 2}, lambda: made), range(64)))
    for one in found:
        assert np.array_equal(one.images, images) and one.document() == made.document()
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]
