"""A hospital's data while a study runs: others in their place are noticed, and by the site alone."""

import dataclasses
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fedkr import wire
from fedkr.errors import UserError
from sites.admission import check_split, keep_split
from sites.check import check_site
from sites.known_data import MOST_STUDIES, keep_data
from sites.records import read_records
from sites.workspace import open_site, read_site_file, site_source


@pytest.fixture
def change(tmp_path):
    """Put other arrays into the hospital's file, made from those that it has."""

    def change(**changes):
        arrays = dict(np.load(tmp_path / "images.npz"))
        for name, other in changes.items():
            arrays[name] = other(arrays.get(name)) if callable(other) else other
        np.savez(tmp_path / "images.npz", **arrays)

    return change


def flipped(images):
    return 255 - images


CHANGES = [
    ({"train_images": flipped}, "pixels of the training set"),
    ({"test_images": flipped}, "pixels of the test set"),
    ({"test_labels": np.zeros(12, int)}, "labels of the test set"),
    (
        {"train_groups": np.arange(93) // 3, "test_groups": 100 + np.arange(12)},
        "patients of the training set, patients of the test set",
    ),
]


@pytest.mark.parametrize(("changes", "told"), CHANGES, ids=[told for _, told in CHANGES])
def test_a_message_in_the_middle_of_a_study_is_not_answered_from_other_data(hospital, study, change, changes, told):
    file = read_site_file(hospital())
    keep_data(file, study, wire.DESCRIBE)
    keep_data(file, study, wire.RELEASE)
    change(**changes)
    with pytest.raises(
        UserError, match=f"began here, {told} changed; put the data back, or have the coordinator start"
    ):
        keep_data(file, study, wire.EVALUATE)


def test_a_study_that_starts_again_goes_on_with_the_new_data_and_the_site_is_told(hospital, study, change, caplog):
    file = read_site_file(hospital())
    keep_data(file, study, wire.DESCRIBE)
    change(train_images=flipped)
    with caplog.at_level(logging.WARNING):
        keep_data(file, study, wire.DESCRIBE)
    assert "pixels of the training set changed; what rests on them is computed anew" in caplog.text
    keep_data(file, study, wire.RELEASE)


def test_the_records_of_earlier_studies_do_not_grow_without_end(hospital, study, tmp_path, monkeypatch):
    monkeypatch.setattr("sites.known_data.MOST_STUDIES", 3)
    file = read_site_file(hospital())
    for study.seed in range(5):
        keep_data(file, study, wire.DESCRIBE)
    assert MOST_STUDIES > 3 and len(read_records(tmp_path / "site-records" / "data.json")) == 3


def test_studies_that_begin_at_one_time_are_all_written_down(hospital, study, tmp_path, monkeypatch):
    file = read_site_file(hospital())
    studies = [dataclasses.replace(study, seed=seed) for seed in range(4)]
    site_source(file)

    def read_slowly(path):
        found = read_records(path)
        time.sleep(0.02)
        return found

    monkeypatch.setattr("sites.known_data.read_records", read_slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: keep_data(file, one, wire.DESCRIBE), studies))
    assert len(read_records(tmp_path / "site-records" / "data.json")) == 4


@pytest.mark.parametrize(
    "changes",
    [{"train_groups": np.arange(93) // 3}, {"train_labels": lambda labels: labels[::-1]}],
    ids=["ids", "labels"],
)
def test_images_that_were_split_are_not_split_anew_for_other_labels_or_patients(hospital, change, changes):
    file = read_site_file(hospital())
    keep_split(file)
    change(**changes)
    with pytest.raises(UserError, match=r"split\.json: these images were split by .* take back the change"):
        check_split(file)


def test_nothing_that_a_study_says_of_its_data_changes_what_a_hospital_answers(hospital, study):
    """A guess at the images, sent as a study's digest, is neither confirmed nor denied."""
    node = {"site-file": str(hospital())}
    told = open_site(node, study)
    study.data_digest = "0" * 160
    guess = open_site(node, study)
    assert (guess.data_digest, len(guess.data.train)) == (told.data_digest, len(told.data.train))
    assert re.fullmatch("[0-9a-f]{64}", guess.data_digest)


def test_what_flatters_a_sites_figures_is_told_to_its_engineer(hospital, change, tmp_path):
    def copied(images):
        images[:30] = images[40:70]
        return images

    change(train_images=copied)
    card = check_site(hospital())
    (line,) = [line for line in card["warnings"] if "own test images" in line]
    assert re.search(r"selects on, .*: \d+ of \d+ at st-mary$", line)
    assert not any("own test images" in str(value) for value in card["server_sees"].values())
