import numpy as np
import pytest
from PIL import Image

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


def test_an_unreadable_image_is_named(scans):
    (scans / "ill" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(UserError, match=r"broken.png: not a readable image"):
        load(scans)


def test_an_image_of_16_bits_is_refused(scans):
    Image.fromarray(np.full((12, 12), 40000, np.uint16)).save(scans / "ill" / "deep.png")
    with pytest.raises(UserError, match=r"deep.png: has more than 8 bits a pixel; save it as"):
        load(scans)


def test_an_image_of_several_frames_is_refused(scans):
    frames = [Image.fromarray(np.full((12, 12), level, np.uint8)) for level in (0, 50)]
    frames[0].save(scans / "ill" / "stack.tiff", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=r"stack.tiff: has several frames"):
        load(scans)


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
