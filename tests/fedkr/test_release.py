"""Releases: what they must be, on disk and off."""

import numpy as np
import pytest
import torch
from safetensors.torch import save

from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.release import Release, check_release, read_slice, slice_count
from fedkr.stages import Artifact, read_artifact, write_artifact


def release(count=6, **manifest):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    soft = np.full((count, 2), 0.5, np.float16)
    return Release(images, soft, {"site": "a", "round": 1, "slices": 3, "count": count, "left_out": []} | manifest)


def check(found, **settings):
    check_release(found, Shape(1, 4, 2), where="release of a", **settings)


def changed(images=None, soft=None, **manifest):
    usual = release()
    return Release(
        usual.images if images is None else images,
        usual.soft_labels if soft is None else soft,
        usual.manifest | manifest,
    )


def labels(*rows):
    return np.array([rows[i % len(rows)] for i in range(6)], np.float16)


def test_a_saved_release_comes_back_as_it_was(tmp_path):
    release().save(tmp_path / "r")
    found = Release.load(tmp_path / "r")
    assert np.array_equal(found.images, release().images)
    assert np.array_equal(found.soft_labels, release().soft_labels)
    assert (found.images.dtype, found.soft_labels.dtype) == (np.uint8, np.float16)
    assert (found.manifest, len(found)) == (release().manifest, 6)


def test_a_release_as_it_should_be_passes():
    check(release(), max_images=6)


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (changed(images=release().images.astype(np.float32)), "images must be uint8"),
        (changed(images=release().images[:, :3]), r"got uint8 \[6, 3, 4, 1\]"),
        (changed(images=release().images[..., 0]), "images must be uint8"),
        (changed(soft=release().soft_labels.astype(np.float32)), "soft labels must be float16"),
        (changed(soft=release().soft_labels[:4]), r"soft labels must be float16 \[6, 2\], got float16 \[4, 2\]"),
        (changed(soft=labels([1, 0, 0])), "soft labels must be float16"),
        (changed(soft=labels([0.5, 0.5], [np.nan, 1])), "finite and not negative"),
        (changed(soft=labels([0.5, 0.5], [np.inf, 0])), "finite and not negative"),
        (changed(soft=labels([1.5, -0.5])), "finite and not negative"),
        (changed(soft=labels([0.5, 0.5], [0.5, 0.4])), r"rows must sum to one, one is off by 0\.1"),
        (release(0), "holds no images"),
        (release(6, slices=4), "slices=4 must divide the 6 images"),
        (release(6, slices=0), "slices=0"),
        (release(6, slices="2"), "slices='2'"),
        (release(6, note="hello"), "manifest field 'note'"),
    ],
)
def test_what_is_wrong_with_a_release_is_named_with_its_site(found, named):
    with pytest.raises(UserError, match=f"release of a: .*{named}"):
        check(found)


def test_more_images_than_the_cap_are_refused():
    with pytest.raises(UserError, match="6 images, more than the cap of 5"):
        check(release(), max_images=5)


def test_rounding_to_float16_is_no_error():
    rows = np.random.default_rng(0).dirichlet(np.ones(300), 6).astype(np.float16)
    check_release(changed(soft=rows), Shape(1, 4, 300))


def test_a_slice_is_read_alone_and_indices_begin_again_behind_the_last(tmp_path):
    release().save(tmp_path / "r")
    assert slice_count(tmp_path / "r") == 3
    assert [read_slice(tmp_path / "r", i)[0][:, 0, 0, 0].tolist() for i in range(4)] == [[0, 1], [2, 3], [4, 5], [0, 1]]
    assert read_slice(tmp_path / "r", 1)[1].shape == (2, 2)


@pytest.mark.parametrize(
    "artifact",
    [
        Artifact({}, {}),
        Artifact({"images": torch.zeros(6, 4, 4, 1, dtype=torch.uint8)}, {}),
        Artifact({"images": torch.zeros(6, 4, 4, 1), "soft-labels": torch.zeros(6, 2, dtype=torch.float16)}, {}),
        Artifact(
            {"images": torch.zeros((), dtype=torch.uint8), "soft-labels": torch.zeros((), dtype=torch.float16)}, {}
        ),
        Artifact(release().as_artifact().tensors, {"slices": "many"}),
        Artifact(release().as_artifact().tensors, {"slices": 0}),
        Artifact(release().as_artifact().tensors, []),
    ],
)
def test_a_file_that_is_no_release_is_one_line(artifact, tmp_path):
    write_artifact(tmp_path / "r", artifact)
    for read in (Release.load, slice_count, lambda path: read_slice(path, 0)):
        with pytest.raises(UserError, match="r: not a readable release"):
            read(tmp_path / "r")


def test_a_document_without_an_end_is_no_stage(tmp_path):
    (tmp_path / "r").write_bytes(save({}, {"info": "[" * 100_000}))
    with pytest.raises(UserError, match="nested without end"):
        read_artifact(tmp_path / "r")
