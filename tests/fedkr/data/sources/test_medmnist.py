import hashlib
from pathlib import Path

import medmnist
import pytest
import torchvision.datasets.utils

from fedkr.config import DataConfig
from fedkr.data import load_source
from fedkr.errors import UserError


def load(root, name="breastmnist", **options):
    return load_source(DataConfig(name=name, root=str(root), **options))


@pytest.fixture
def arrays28(arrays):
    return {
        key: value.repeat(5, 1).repeat(5, 2)[:, :28, :28] if "images" in key else value for key, value in arrays.items()
    }


def test_a_local_file_that_fails_the_checksum_is_used_with_one_warning(arrays28, save):
    root = Path(save(arrays28, "breastmnist.npz")).parent
    source = load(root)
    assert source.pool.classes == ("malignant", "normal, benign")
    assert len(source.warnings) == 1
    assert "breastmnist.npz: MD5" in source.warnings[0]


def test_a_file_with_the_official_checksum_gives_no_warning(arrays28, save, monkeypatch):
    path = Path(save(arrays28, "octmnist.npz"))
    monkeypatch.setitem(medmnist.INFO["octmnist"], "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    source = load(path.parent, "octmnist")
    assert len(source.pool.classes) == 4
    # What is told is told of the labels in the made-up file.
    assert source.warnings == ["classes that have no image at all: drusen, normal"]


def test_a_missing_file_is_named_with_both_remedies(tmp_path):
    with pytest.raises(UserError, match=r"breastmnist_64.npz: no such file; set data.download=true, or put it there"):
        load(tmp_path, size=64)


def test_a_download_lands_whole_under_the_official_name(arrays28, save, tmp_path, monkeypatch):
    prepared = Path(save(arrays28, "prepared.npz")).read_bytes()
    asked = {}

    def download_url(url, root, filename, md5):
        asked.update(filename=filename, md5=md5)
        (Path(root) / filename).write_bytes(prepared)

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download_url)
    folder = tmp_path / "new"
    assert len(load(folder, download=True).pool) == 50
    assert asked == {"filename": "breastmnist.npz", "md5": medmnist.INFO["breastmnist"]["MD5"]}
    assert [path.name for path in folder.iterdir()] == ["breastmnist.npz"]


def test_a_failed_download_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def download_url(url, root, filename, md5):
        (Path(root) / filename).write_bytes(b"half of i")
        raise OSError("connection reset")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download_url)
    with pytest.raises(UserError, match=r"breastmnist.npz: the download failed \(connection reset\)") as caught:
        load(tmp_path, download=True)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("chestmnist", "multi-label"), ("organmnist3d", "3D volumes"), ("synapsemnist3d", "3D volumes")],
)
def test_multi_label_and_3d_sets_are_refused_in_one_line(name, message, tmp_path):
    with pytest.raises(UserError, match=f"data.name='{name}': .*{message}") as caught:
        load(tmp_path, name)
    assert "\n" not in str(caught.value)


def test_every_single_label_2d_set_is_known(tmp_path):
    names = [name for name in medmnist.INFO if not name.endswith("3d") and name != "chestmnist"]
    assert len(names) == 11
    for name in names:
        for size, suffix in ((0, ""), (28, ""), (64, "_64"), (128, "_128"), (224, "_224")):
            with pytest.raises(UserError, match=f"{name}{suffix}.npz: no such file"):
                load(tmp_path, name, size=size)


def test_an_unknown_size_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"data.size=32: breastmnist comes in 28, 64, 128, 224"):
        load(tmp_path, size=32)


def test_a_file_of_another_size_is_refused(arrays, save):
    with pytest.raises(UserError, match=r"holds images of 6 pixels, expected 28"):
        load(Path(save(arrays, "breastmnist.npz")).parent)


def test_a_corrupt_file_is_refused(tmp_path):
    (tmp_path / "breastmnist.npz").write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"breastmnist.npz: not a readable .npz file"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "pool", "test", "channels"),
    [("breastmnist", 624, 156, 1), ("pneumoniamnist", 5232, 624, 1), ("bloodmnist", 13671, 3421, 3)],
)
def test_real_files_have_the_official_counts(real_data, name, pool, test, channels):
    if not (real_data / f"{name}.npz").exists():
        pytest.skip(f"no {name}.npz in the folder of real data")
    source = load(real_data, name)
    assert (len(source.pool), len(source.test), source.pool.channels) == (pool, test, channels)
    assert source.pool.class_counts().min() > 0
    assert len([line for line in source.warnings if "MD5" in line]) <= 1
    known = ("MD5", "equal an image of the pool", "equal one of another class")
    assert all(any(words in line for words in known) for line in source.warnings)
