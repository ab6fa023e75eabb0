import re
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


def changed(arrays, change):
    return {name: change(array) if name.endswith("images") else array for name, array in arrays.items()}


MAPPED = {
    "from 0 to 1": (lambda x: x / 255, {}),
    "halves": (lambda x: (x / 255).astype(np.float16), {}),
    "big-endian": (lambda x: x.astype(">f8") / 255, {}),
    "16 bits": (lambda x: x.astype(np.uint16) * 256 + 7, {}),
    "whole floats": (lambda x: x.astype(np.float32), {"range": [0, 255]}),
    "long numbers": (lambda x: x.astype(np.int64), {"range": [0, 255]}),
    "from -1 to 1": (lambda x: x / 127.5 - 1, {"range": [-1, 1]}),
    "in another unit": (lambda x: x * 4.0 - 1000, {"range": [-1000, 20]}),
    "column by column": (lambda x: np.asfortranarray(x / 255), {}),
    "with an axis": (lambda x: x[..., None] / 255, {}),
    "with an axis first": (lambda x: x[:, None] / 255, {}),
}


@pytest.mark.parametrize("case", MAPPED)
def test_images_of_other_types_become_8_bits_as_files_do(case, arrays, save):
    change, options = MAPPED[case]
    source, plain = load(save(changed(arrays, change)), **options), load(save(arrays, "plain.npz"))
    assert np.array_equal(source.pool.images, plain.pool.images)
    assert np.array_equal(source.test.images, plain.test.images)
    told = [w for w in source.warnings if "read as [N, channels, S, S]" in w]
    assert source.warnings == told and bool(told) is (case == "with an axis first")


def test_each_image_may_have_its_own_range(arrays, save):
    source = load(save(changed(arrays, lambda x: x * 3.0 - 100)), scale="image")
    ends = source.pool.images.min(axis=(1, 2, 3)), source.pool.images.max(axis=(1, 2, 3))
    assert set(ends[0].tolist()) == {0} and set(ends[1].tolist()) == {255}


def test_yes_and_no_become_white_and_black(arrays, save):
    source = load(save(changed(arrays, lambda x: x > 127)))
    assert np.array_equal(source.pool.images[:40, :, :, 0], np.where(arrays["train_images"] > 127, 255, 0))


def test_colours_that_stand_first_are_moved_and_told_and_three_by_three_is_left(arrays, save):
    colours = changed(arrays, lambda x: np.stack([x, x // 2, x // 3], axis=3))
    source = load(save(changed(colours, lambda x: np.moveaxis(x, 3, 1)), "first.npz"))
    assert np.array_equal(source.pool.images, load(save(colours, "last.npz")).pool.images)
    assert source.warnings == [
        "first.npz: train_images, val_images, test_images: read as [N, channels, S, S], since no other axis can be "
        "colours"
    ]
    small = load(save(changed(colours, lambda x: x[:, :3, :3]), "small.npz"))
    assert np.array_equal(small.pool.images[:40], colours["train_images"][:, :3, :3]) and not small.warnings


def test_a_range_for_images_of_8_bits_is_told_to_change_nothing(arrays, save):
    source = load(save(arrays), range=[0, 100])
    assert np.array_equal(source.pool.images[:40, :, :, 0], arrays["train_images"])
    assert source.warnings == [
        "own.npz: train_images, val_images, test_images: 8 bits, so data.range and data.scale change nothing"
    ]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 16), (250, 255), (0, 0)])
def test_images_that_show_next_to_nothing_are_told(low, high, arrays, save):
    dark = changed(arrays, lambda x: (x % (high - low + 1) + low).astype(np.uint8))
    told = f"all pixels of all images are from {low} to {high} of 255, so they show next to nothing: are they scaled?"
    warnings = load(save(dark)).warnings
    assert told in warnings and told.replace("all images", "all test images") in warnings


def test_test_images_alone_that_show_next_to_nothing_are_told(arrays, save):
    arrays["test_images"] = arrays["test_images"] // 64
    told = "all pixels of all test images are from 0 to 3 of 255, so they show next to nothing: are they scaled?"
    assert load(save(arrays)).warnings == [told]


@pytest.mark.parametrize("value", [7.0, -0.25, 70_000.0, 1_234_567.0])
@pytest.mark.parametrize("more", [0, 0.5])
def test_the_range_that_is_proposed_is_taken(value, more, arrays, save):
    path = save(changed(arrays, lambda x: np.where(x > 127, value, value + more)))
    with pytest.raises(UserError, match=r"set data\.range=") as caught:
        load(path)
    proposed = [float(end) for end in re.findall(r"data\.range=\[(.*),(.*)\]", str(caught.value))[0]]
    images = load(path, range=proposed).pool.images
    assert set(np.unique(images).tolist()) <= {0, 255} and np.ptp(images) == (255 if more else 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 3}, "data.channels=3: the images of 'npz' have 1; use data.channels=0 or 1"),
        ({"range": [0, 1], "scale": "image"}, "choose one of them"),
    ],
)
def test_options_that_the_file_does_not_fit_are_refused(options, message, arrays, save):
    with pytest.raises(UserError, match=message):
        load(save(arrays), **options)


def broken(arrays, **changes):
    result = {**arrays, **changes}
    return {key: value for key, value in result.items() if value is not None}


NAN = np.full((40, 6, 6), np.nan, dtype=np.float32)
BAD_FILES = {
    "no images": ({"train_images": None}, "has no array 'train_images'"),
    "no labels": ({"train_labels": None}, "has no array 'train_labels'"),
    "val images alone": ({"val_labels": None}, "has no array 'val_labels'"),
    "floats": (
        {"train_images": np.full((40, 6, 6), 7, np.float32), "val_images": np.full((10, 6, 6), -9, np.int64)},
        r"train_images has dtype float32 and values .*: set data.range=\[-9,7\] or data.scale=image",
    ),
    "large numbers": ({"train_images": np.full((40, 6, 6), 70_000)}, r"dtype int64 .*: set data.range=\[0,70000\]"),
    "one value": (
        {f"{s}_images": np.full((n, 6, 6), -7, np.float32) for s, n in (("train", 40), ("val", 10), ("test", 14))},
        r"file's are all -7, which shows nothing: set data.range=\[-7,0\] or data.scale=image",
    ),
    "a dark split": (
        {"train_images": np.full((40, 6, 6), 65535, np.uint16), "test_images": np.full((14, 6, 6), 255)},
        r"test_images: the brightest pixel of 14 image\(s\) of 16 bits is 255 .*save all splits in one scale",
    ),
    "nan": ({"train_images": NAN}, "train_images holds 1440 NaN values"),
    "infinite": ({"train_images": NAN * 0 + np.inf}, "train_images holds"),
    "complex": ({"train_images": np.zeros((40, 6, 6), complex)}, "train_images has dtype complex128; save it as uint8"),
    "dates": ({"train_images": np.zeros((40, 6, 6), "M8[s]")}, r"train_images has dtype datetime64\[s\]"),
    "bytes": ({"train_images": np.array([b"x"] * 40)}, r"train_images has dtype \|S1"),
    "few bits": (
        {f"{s}_images": np.full((n, 6, 6), 255) for s, n in (("train", 40), ("val", 10), ("test", 14))},
        r"the brightest pixel of 64 image\(s\) of 16 bits is 255 of 65535, .*; set data.range=\[0,255\]",
    ),
    "slices first": ({"train_images": np.zeros((40, 3, 6, 8), np.uint8)}, r"train_images has shape \[40, 3, 6, 8\]"),
    "four channels first": ({"train_images": np.zeros((40, 4, 6, 6), np.uint8)}, r"has shape \[40, 4, 6, 6\]"),
    "images last": ({"train_images": np.zeros((6, 6, 40), np.uint8)}, "train_images has images of 6 x 40 pixels"),
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
