"""Relabelling of saved releases: whom it asks about which images, and that its labels fit the files."""

import dataclasses

import numpy as np
import pytest
import torch

from fedkr.config import StudentConfig
from fedkr.data.images import Shape
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.release import Release, ReleasedSets
from server.judges import Judges
from server.labels import relabel

STUDENT = StudentConfig(arch="resnet8", width=4, steps=2, batch=4)
SITES = ("site-0", "site-1", "site-2")


@pytest.fixture
def exchanges(tmp_path, release_of):
    """Two exchanges of three sites; a pixel is 100 site + 10 round + slice, the label follows from round and slice."""
    found = []
    for number in (1, 2):
        files = {}
        for site in SITES:
            own = release_of(site, number)
            labels = np.eye(3, dtype=np.float16)[own.images[:, 0, 0, 0] % 3]
            files[site] = tmp_path / f"release-r{number}-{site}.safetensors"
            Release(own.images, labels, own.manifest).save(files[site])
        found.append(files)
    return found


@pytest.fixture
def judges(exchanges):
    return lambda **options: Judges(
        exchanges, STUDENT, Shape(1, 8, 3), Job(Runtime.choose("cpu", "float32", 1), seed=("test",)), **options
    )


def test_each_student_is_trained_once_and_sees_only_images_of_other_sites(judges, monkeypatch):
    trained, asked, know = [], set(), Judges.logits
    monkeypatch.setattr(
        Judges,
        "logits",
        lambda self, site, images: (
            asked.update((site, f"site-{m // 100}") for m in images[:, 0, 0, 0]) or know(self, site, images)
        ),
    )
    relabel(judges(keep=lambda site, train: trained.append(site) or train()), SITES)
    assert sorted(trained) == sorted(SITES)
    assert asked == {(judge, site) for judge in SITES for site in SITES if judge != site}


def test_judges_are_not_trained_behind_class_shares(judges, exchanges):
    config = dataclasses.replace(STUDENT, logit_adjustment=1.0)
    behind = Judges(exchanges, config, Shape(1, 8, 3), Job(Runtime.choose("cpu", "float32", 1), seed=("test",)))
    images = next(iter(behind.sets.values())).arrays()[0].images
    np.testing.assert_array_equal(behind.logits(SITES[0], images), judges().logits(SITES[0], images))


def test_the_same_releases_get_the_same_labels_bit_by_bit(judges):
    first, second = relabel(judges(), SITES), relabel(judges(), SITES)
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert first.info["relabelled"] == second.info["relabelled"]


def test_the_student_learns_the_images_with_the_labels_of_the_same_slice(judges, exchanges):
    labels = {name: tensor.numpy() for name, tensor in relabel(judges(), SITES).tensors.items()}
    assert set(labels) == {path.name for files in exchanges for path in files.values()}
    sets = ReleasedSets.of_files([list(files.values()) for files in exchanges], labels)
    for index in range(len(sets)):
        images, soft = sets(index)
        number, part = 1 + index % 2, slice(4 * (index // 2), 4 * (index // 2) + 4)
        assert {int(m) for m in images[:, 0, 0, 0]} == {100 * s + 10 * number + index // 2 for s in range(3)}
        expected = [labels[f"release-r{number}-{site}.safetensors"][part] for site in SITES]
        np.testing.assert_array_equal(soft, np.concatenate(expected))


def test_who_is_in_quarantine_neither_asks_nor_answers(judges):
    trained = []
    found = relabel(judges(keep=lambda site, train: trained.append(site) or train()), SITES[:2])
    assert sorted(trained) == ["site-0", "site-1"] and set(found.info["relabelled"]) == {"site-0", "site-1"}
    assert not any("site-2" in name for name in found.tensors)
