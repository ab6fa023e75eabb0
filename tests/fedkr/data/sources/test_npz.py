from pathlib import Path

import numpy as np
import pytest

from fedkr.config import DataConfig
from fedkr.data import load_source
from fedkr.errors import UserError


def load(path, **options):
    return load_source(DataConfig(name="npz", path=path, **options))


def test_train_and_val_are_the_pool_and_test_the_test_set(arrays, save):
    source = load(save(arrays))
    assert source.pool.images.shape == (50, 6, 6, 1)
    assert len(source.test) == 14
    assert np.array_equal(source.pool.images[40:, :, :, 0], arrays["val_images"])
    assert (
        source.pool.labels.tolist() == np.concatenate([arrays["train_labels"], arrays["val_labels"]]).ravel().tolist()
    )
    assert source.pool.classes == ("0", "1")


def test_class_names_come_from_the_config_then_from_the_file(arrays, save):
    arrays["classes"] = np.array(["benign", "malignant"])
    path = save(arrays)
    assert load(path).pool.classes == ("benign", "malignant")
    assert load(path, classes=["no", "yes"]).pool.classes == ("no", "yes")


def test_without_a_test_split_one_is_set_apart_that_divides_no_patient(arrays, save):
    train_only = {key: arrays[key] for key in ("train_images", "train_labels")}
    train_only["train_groups"] = np.arange(40) // 4
    source = load(save(train_only), test_fraction=0.25)
    assert len(source.pool) + len(source.test) == 40
    assert len(source.test) >= 4
    assert not set(source.pool.groups.tolist()) & set(source.test.groups.tolist())


def test_groups_of_train_and_val_are_kept_together(arrays, save):
    arrays["train_groups"], arrays["val_groups"] = np.arange(40), np.arange(35, 45)
    assert load(save(arrays)).pool.groups.tolist() == [*range(40), *range(35, 45)]


def test_colour_images_stay_colour(arrays, save):
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = np.repeat(arrays[f"{split}_images"][..., None], 3, axis=-1)
    assert load(save(arrays)).pool.channels == 3


def broken(arrays, **changes):
    result = {**arrays, **changes}
    return {key: value for key, value in result.items() if value is not None}


NAN = np.full((40, 6, 6), np.nan, dtype=np.float32)
BAD_FILES = {
    "no images": ({"train_images": None}, "has no array 'train_images'"),
    "no labels": ({"train_labels": None}, "has no array 'train_labels'"),
    "val images alone": ({"val_labels": None}, "has no array 'val_labels'"),
    "floats": ({"train_images": np.zeros((40, 6, 6), np.float32)}, "train_images has dtype float32; save it as uint8"),
    "nan": ({"train_images": NAN}, "train_images holds 1440 NaN values"),
    "flat": ({"train_images": np.zeros((40, 36), np.uint8)}, r"train_images has shape \[40, 36\]"),
    "four channels": ({"train_images": np.zeros((40, 6, 6, 4), np.uint8)}, r"train_images has shape \[40, 6, 6, 4\]"),
    "oblong": ({"train_images": np.zeros((40, 6, 8), np.uint8)}, "train_images has images of 6 x 8 pixels"),
    "empty": ({"val_images": np.zeros((0, 6, 6), np.uint8)}, r"val_images is empty"),
    "mixed sizes": ({"val_images": np.zeros((10, 8, 8), np.uint8)}, r"val_images has images of shape \[8, 8, 1\]"),
    "count": ({"train_labels": np.zeros(39, np.int64)}, r"train_labels has shape \[39\] for 40 images"),
    "multi-label": ({"train_labels": np.zeros((40, 14), np.int64)}, r"train_labels has shape \[40, 14\]"),
    "float labels": ({"train_labels": np.full(40, 0.5)}, "train_labels holds 0.5; give every image a whole number"),
    "nan labels": ({"train_labels": np.full(40, np.nan)}, "train_labels holds 40 NaN"),
    "negative label": ({"train_labels": np.full(40, -1)}, "train_labels holds -1"),
    "label without a name": ({"classes": np.array(["a", "b"]), "test_labels": np.full(14, 2)}, "test_labels holds 2"),
    "one class": (
        {f"{s}_labels": np.zeros(n, int) for s, n in (("train", 40), ("val", 10), ("test", 14))},
        "only one class",
    ),
    "same names": ({"classes": np.array(["a", "a"])}, "two classes have one name"),
    "byte names": ({"classes": np.array([b"a", b"b"])}, "classes has dtype"),
    "objects": (
        {"train_labels": np.array([0, 1] * 20, dtype=object)},
        r"train_labels cannot be read \(Python objects\)",
    ),
    "half the groups": ({"train_groups": np.arange(40)}, "val_groups is missing"),
    "complex groups": ({"train_groups": np.zeros(40, complex)}, "train_groups has dtype complex128"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_array_is_named_with_its_value_and_file(case, arrays, save):
    changes, message = BAD_FILES[case]
    path = save(broken(arrays, **changes), f"{case}.npz".replace(" ", "_"))
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert path in str(caught.value) or case == "same names"


def test_a_missing_path_is_asked_for():
    with pytest.raises(UserError, match=r"data.path=''"):
        load("")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent.npz: no such file"):
        load(str(tmp_path / "absent.npz"))


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_archive_is_refused(content, tmp_path):
    path = tmp_path / "corrupt.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"corrupt.npz: not a readable .npz file") as caught:
        load(str(path))
    assert "pickle" not in str(caught.value)


def test_a_damaged_array_is_refused(arrays, save):
    path = Path(save(arrays))
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"own.npz: train_images cannot be read \(damaged"):
        load(str(path))


def test_a_bare_array_is_refused(tmp_path):
    np.save(tmp_path / "bare.npy", np.zeros(3))
    with pytest.raises(UserError, match="holds one bare array"):
        load(str(tmp_path / "bare.npy"))
