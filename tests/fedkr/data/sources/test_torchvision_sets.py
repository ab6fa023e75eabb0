import numpy as np
import pytest

from fedkr.config import DataConfig
from fedkr.data import load_source
from fedkr.errors import UserError


def write_idx(path, values):
    """Write the idx format of the MNIST family: type 8 (uint8), number of axes, their lengths, the values."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(length.to_bytes(4, "big") for length in values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def fashion_files(root):
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 30), ("t10k", 20)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", np.full((count, 28, 28), 7))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 10)
    return raw


def test_fashionmnist_is_read_from_its_own_files(tmp_path):
    fashion_files(tmp_path)
    source = load_source(DataConfig(name="fashionmnist", root=str(tmp_path)))
    assert source.pool.images.shape == (30, 28, 28, 1)
    assert source.test.class_counts().tolist() == [2] * 10
    assert source.pool.classes[9] == "Ankle boot"


def test_a_cut_off_file_is_one_line(tmp_path):
    raw = fashion_files(tmp_path)
    (raw / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03 cut")
    with pytest.raises(UserError, match="fashionmnist cannot be read") as caught:
        load_source(DataConfig(name="fashionmnist", root=str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["fashionmnist", "cifar10", "cifar100"])
def test_a_missing_set_asks_for_the_download(name, tmp_path):
    with pytest.raises(UserError, match=f"{name} cannot be read .*; set data.download=true"):
        load_source(DataConfig(name=name, root=str(tmp_path)))
