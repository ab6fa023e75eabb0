import os
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image, ImageOps

from fedkr.config import DataConfig
from fedkr.data import load_source
from fedkr.errors import UserError


@pytest.fixture
def scans(tmp_path):
    """Two classes of ten grey 12 x 12 images in several formats."""
    root = tmp_path / "scans"
    for label, name in enumerate(("healthy", "ill")):
        (root / name).mkdir(parents=True)
        for index in range(10):
            suffix = ("png", "bmp", "tiff", "jpg")[index % 4]
            Image.fromarray(np.full((12, 12), 100 * label + index, np.uint8)).save(root / name / f"{index}.{suffix}")
    return root


def load(root, **options):
    return load_source(DataConfig(name="folder", path=str(root), **options))


def test_sub_folders_are_the_classes_and_a_share_is_set_apart(scans):
    source = load(scans)
    assert source.pool.classes == ("healthy", "ill")
    assert source.pool.images.shape == (16, 12, 12, 1)
    assert source.test.class_counts().tolist() == [2, 2]
    assert all(
        (image.mean() > 50) == label for image, label in zip(source.pool.images, source.pool.labels, strict=True)
    )


def test_images_are_cropped_at_the_centre_and_resized(scans):
    stripes = np.zeros((12, 36), np.uint8)
    stripes[:, 12:24] = 240
    Image.fromarray(stripes).save(scans / "ill" / "wide.png")
    source = load(scans, size=6)
    everything = np.concatenate([source.pool.images, source.test.images])
    assert everything.shape == (21, 6, 6, 1)
    middles = everything[:, 1:-1, 1:-1, 0]
    assert (abs(middles.astype(int) - 240) <= 3).all(axis=(1, 2)).sum() == 1


def test_one_colour_image_makes_all_of_them_colour(scans):
    Image.fromarray(np.full((12, 12, 3), (200, 0, 0), np.uint8)).save(scans / "ill" / "red.png")
    assert load(scans).pool.channels == 3


def test_named_classes_keep_their_order_and_may_be_missing_here(scans):
    source = load(scans, classes=["ill", "rare", "healthy"])
    assert source.pool.classes == ("ill", "rare", "healthy")
    assert source.pool.class_counts().tolist() == [8, 0, 8]


def test_files_that_are_no_images_are_passed_over(scans):
    (scans / "ill" / "notes.txt").write_text("follow-up in May")
    assert len(load(scans).pool) == 16


BROKEN = {
    "cut.png": b"\x89PNG\r\n\x1a\n cut",
    "empty.jpg": b"",
    "text.tif": b"see the other folder",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_costs_itself_only_and_is_told_with_its_reason(scans, name):
    (scans / "ill" / name).write_bytes(BROKEN[name])
    source = load(scans)
    assert len(source.pool) + len(source.test) == 20
    assert [item.name for item in source.left_out] == [f"ill/{name}"] and source.left_out[0].reason
    assert source.warnings == [f"1 of 21 files cannot be read and are left out (1: {source.left_out[0].reason})"]


def test_below_the_least_usable_share_the_folder_is_refused_with_the_list(scans):
    for index in range(2):
        (scans / "ill" / f"broken{index}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 22 files.*least_usable=0.95.*ill/broken0.png \(.*; ill/broken1.png \("):
        load(scans)
    assert len(load(scans, least_usable=0.9).left_out) == 2


def test_not_even_a_least_share_of_nothing_starts_without_an_image(scans):
    for file in scans.rglob("*.*"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"20 of 20 files cannot be read"):
        load(scans, least_usable=0)


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("nowhere.png"), os.mkfifo], ids=["dead link", "pipe"])
def test_what_is_no_file_is_left_out_and_never_waited_for(scans, make):
    make(scans / "ill" / "odd.png")
    assert [item.name for item in load(scans).left_out] == ["ill/odd.png"]


def test_16_bits_of_which_few_are_used_are_refused_with_the_range_to_set(scans):
    for index in range(3):
        Image.fromarray(np.full((12, 12), 4000 + index, np.uint16)).save(scans / "ill" / f"deep{index}.png")
    with pytest.raises(UserError, match=r"3 image\(s\) of 16 bits is 4002 of 65535.*set data.range=\[0,4095\]"):
        load(scans)
    source = load(scans, range=[0, 4095])
    assert 249 in np.concatenate([source.pool.images, source.test.images])


def test_a_range_that_concerns_only_some_images_is_told(scans):
    Image.fromarray(np.full((12, 12), 4000, np.uint16)).save(scans / "ill" / "deep.png")
    told = "20 image(s) have 8 bits, which data.range and data.scale do not change"
    assert told in load(scans, range=[0, 4095]).warnings and told in load(scans, scale="image").warnings
    (scans / "ill" / "deep.png").unlink()
    assert load(scans).warnings == []


def stack(path, count=3):
    frames = [Image.fromarray(np.full((12, 12), 10 * level, np.uint8)) for level in range(1, count + 1)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def test_of_several_pages_the_first_is_taken_and_told(scans):
    stack(scans / "ill" / "stack.tiff")
    source = load(scans)
    assert len(source.pool) + len(source.test) == 21
    assert "1 file(s) hold several pages or frames, of which the first was taken" in source.warnings[0]


def test_all_pages_of_a_file_stay_together(scans):
    for index in range(8):
        stack(scans / "ill" / f"stack{index}.tiff", 4)
    source = load(scans, frames="all")
    assert len(source.pool) + len(source.test) == 52
    assert not set(source.pool.groups.tolist()) & set(source.test.groups.tolist())


def test_folders_within_a_class_are_walked_and_can_be_patients(scans):
    for label in ("healthy", "ill"):
        for patient in range(4):
            (scans / label / f"p{patient}" / "study").mkdir(parents=True)
            for index in range(2):
                grey = 50 + 8 * (label == "ill") + 2 * patient + index
                Image.fromarray(np.full((12, 12), grey, np.uint8)).save(
                    scans / label / f"p{patient}" / "study" / f"{index}.png"
                )
    assert load(scans).pool.groups is None
    source = load(scans, patients="folder")
    groups = np.concatenate([source.pool.groups, source.test.groups])
    # p0 of one class is p0 of the other; images in no such folder are patients of their own.
    assert sorted(np.unique(groups, return_counts=True)[1].tolist()) == [1] * 20 + [4] * 4
    assert source.warnings == ["20 file(s) name no patient, and each counts as a patient of its own"]


def test_links_in_circles_come_to_an_end(scans):
    (scans / "ill" / "round").symlink_to(scans / "ill")
    assert len(load(scans).pool) == 16


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "valid", "Test"), ("training", "testing")])
def test_folders_of_official_splits_are_recognised(scans, tmp_path, names):
    for name in names:
        shutil.copytree(scans, tmp_path / "splits" / name)
    source = load(tmp_path / "splits")
    assert source.pool.classes == ("healthy", "ill")
    assert (len(source.pool), len(source.test), source.val) == (20 * (len(names) - 1), 20, 20 * (len(names) - 2))


def test_train_and_val_without_test_have_a_share_set_apart(scans, tmp_path):
    for name in ("train", "val"):
        shutil.copytree(scans, tmp_path / "splits" / name)
    source = load(tmp_path / "splits")
    assert (len(source.pool), len(source.test), source.val) == (32, 8, 0)


def test_official_splits_beside_other_folders_are_refused(scans, tmp_path):
    for name in ("train", "test", "extra"):
        shutil.copytree(scans, tmp_path / "splits" / name)
    with pytest.raises(UserError, match=r"official splits beside others \(extra, test, train\)"):
        load(tmp_path / "splits")


def test_classes_that_are_called_train_and_test_can_be_named(scans):
    (scans / "healthy").rename(scans / "train")
    (scans / "ill").rename(scans / "test")
    assert load(scans, classes=["test", "train"]).pool.classes == ("test", "train")
    with pytest.raises(UserError, match=r"\(test, train\).*with a sub-folder a class in each, or name the classes"):
        load(scans)


@pytest.mark.parametrize("beside", ["test", "more"])
@pytest.mark.parametrize("flat", [True, False])
def test_a_split_beside_what_is_none_is_no_class(scans, tmp_path, beside, flat):
    shutil.copytree(scans, tmp_path / "splits" / "train")
    shutil.copytree(scans / "ill" if flat else scans, tmp_path / "splits" / beside)
    if beside == "test" and not flat:
        assert load(tmp_path / "splits").pool.classes == ("healthy", "ill")
        return
    for options in ({}, {"classes": ["healthy", "ill"]}):
        with pytest.raises(
            UserError, match=rf"official splits beside others \({', '.join(sorted([beside, 'train']))}\)"
        ):
            load(tmp_path / "splits", **options)
    assert load(tmp_path / "splits", classes=["train", beside]).pool.classes == ("train", beside)


def test_a_class_that_is_called_as_one_split_is_a_class(scans):
    (scans / "ill").rename(scans / "train")
    assert load(scans).pool.classes == ("healthy", "train")


def test_one_name_in_two_spellings_of_unicode_is_one_class(scans):
    for form in ("NFC", "NFD"):
        (scans / "healthy").rename(scans / unicodedata.normalize(form, "größe"))
        named = [unicodedata.normalize("NFD" if form == "NFC" else "NFC", "größe"), "ill"]
        assert load(scans, classes=named).pool.classes == (unicodedata.normalize("NFC", "größe"), "ill")
        (scans / unicodedata.normalize(form, "größe")).rename(scans / "healthy")


@pytest.mark.parametrize("other", ["Ill", "ill ", "ILL"])
def test_classes_that_differ_by_case_or_spaces_are_refused_unless_named(scans, other):
    shutil.copytree(scans / "ill", scans / other)
    with pytest.raises(UserError, match=r"differ only by case or spaces"):
        load(scans)
    assert len(load(scans, classes=["healthy", "ill", other]).pool.classes) == 3


def test_what_is_passed_over_is_counted(scans):
    for name in ("a.gif", "b.gif", "notes.txt", "IM0001", ".DS_Store", "Thumbs.db"):
        (scans / "ill" / name).write_bytes(b"nothing that is read")
    (scans / "loose.png").write_bytes(b"")
    assert load(scans).warnings == [
        "4 file(s) were passed over, of no kind that is read: 2 .gif, 1 .txt, 1 of no known ending",
        "1 image(s) lie beside the classes' folders, in none of them, and are not taken",
    ]


@pytest.mark.parametrize("name", ["1 .meier", "scan.anna", "x.m1234", "a.Müller"])
def test_what_follows_a_point_is_told_only_where_it_is_a_formats(scans, name):
    (scans / "ill" / name).write_bytes(b"nothing that is read")
    assert load(scans).warnings == ["1 file(s) were passed over, of no kind that is read: 1 of no known ending"]


def test_grey_among_colour_is_told_and_can_be_chosen(scans):
    Image.fromarray(np.full((12, 12, 3), (200, 0, 0), np.uint8)).save(scans / "ill" / "red.png")
    assert load(scans).warnings == ["20 grey image(s) were made colour as 1 others are; data.channels=1 makes all grey"]
    grey = load(scans, channels=1)
    assert (grey.pool.channels, grey.warnings) == (1, [])
    assert load(scans, channels=3).pool.channels == 3


def test_a_file_that_is_replaced_is_noticed_in_the_same_process(scans):
    before, file = load(scans), scans / "ill" / "0.png"
    times = file.stat()
    Image.fromarray(np.full((12, 12), 101, np.uint8)).save(file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load(scans).identity != before.identity


def as_before(file, size):
    """How PNG and JPEG were read before any other format was."""
    with Image.open(file) as image:
        grey = image.mode in ("1", "L", "LA")
        upright = ImageOps.exif_transpose(image).convert("L" if grey else "RGB")
    return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC).convert("RGB"))


@pytest.mark.parametrize("size", [8, 20])
def test_a_folder_of_plain_files_gives_the_pixels_that_it_always_gave(tmp_path, size):
    rng = np.random.default_rng(5)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(8):
            pixels, exif = rng.integers(0, 256, (14, 10, 3), dtype=np.uint8), Image.Exif()
            exif[0x0112] = 1 + index
            picture = Image.fromarray(pixels if index % 2 else pixels[..., 0])
            picture.save(tmp_path / name / f"{index}.{('png', 'jpg')[index % 3 == 0]}", exif=exif)
    source = load(tmp_path, size=size)
    found = {image.tobytes() for part in (source.pool, source.test) for image in part.images}
    assert found == {as_before(file, size).tobytes() for file in tmp_path.rglob("*.*")}


def test_mixed_sizes_ask_for_a_size(scans):
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(scans / "ill" / "small.png")
    with pytest.raises(UserError, match=r"small.png: 9 x 9 pixels.*set data.size"):
        load(scans)


def test_a_folder_that_is_not_among_the_named_classes_is_refused(scans):
    with pytest.raises(UserError, match=r"ill: not in data.classes"):
        load(scans, classes=["healthy", "sick"])


def test_an_empty_class_is_refused(scans):
    (scans / "unknown").mkdir()
    with pytest.raises(UserError, match=r"unknown: a class without images"):
        load(scans)


def test_a_single_class_is_refused(scans):
    with pytest.raises(UserError, match=r"0 sub-folder\(s\); at least two classes"):
        load(scans / "ill")


@pytest.mark.parametrize(("path", "message"), [("", "data.path=''"), ("absent", "absent: no such folder")])
def test_a_missing_folder_is_named(path, message):
    with pytest.raises(UserError, match=message):
        load_source(DataConfig(name="folder", path=path))
