"""The digest of a dataset's files: of all their bytes, before anything of them is opened."""

import pytest

from fedkr.config import DataConfig
from fedkr.data.registry import file_digest, file_stamp


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
