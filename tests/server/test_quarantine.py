"""Releases of five skewed sites, real digits in the place of synthetic ones: only honest ones teach."""

import numpy as np
import pytest

from fedkr.config import DataConfig, StudentConfig
from fedkr.data import load_source
from fedkr.data.images import Shape
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.release import Release
from server.quarantine import judge_releases

SITES, CLASSES, VICTIM = 5, 10, "site-4"
STUDENT = StudentConfig(arch="resnet8", width=8, steps=70)


@pytest.fixture(scope="module")
def honest():
    """Each site's images and soft labels; each knows six of ten classes."""
    pool, rng = load_source(DataConfig()).pool, np.random.default_rng(0)
    knows = np.array([[(label - 2 * site) % CLASSES < 6 for site in range(SITES)] for label in range(CLASSES)])
    owner = np.array([rng.choice(np.flatnonzero(knows[label])) for label in pool.labels])
    releases = {}
    for site in range(SITES):
        mine = np.flatnonzero(owner == site)
        labels = np.full((len(mine), CLASSES), 0.01, np.float32)
        labels[np.arange(len(mine)), pool.labels[mine]] = 1
        releases[f"site-{site}"] = pool.images[mine], (labels / labels.sum(axis=1, keepdims=True)).astype(np.float16)
    return releases


@pytest.fixture
def judge(tmp_path):
    def judge(releases):
        files = {}
        for site, (images, labels) in releases.items():
            files[site] = tmp_path / f"{site}.safetensors"
            Release(images, labels, {"site": site}).save(files[site])
        job = Job(Runtime.choose("cpu", "float32", 1), seed=("test",))
        return judge_releases([files], STUDENT, Shape(1, 8, CLASSES), job)

    return judge


def noise(images, labels, rng):
    return rng.integers(0, 256, images.shape, dtype=np.uint8), labels


def blank(images, labels, rng):
    return np.full_like(images, 7), labels


def one_image(images, labels, rng):
    return np.repeat(images[:1], len(images), axis=0), labels


def random_labels(images, labels, rng):
    return images, labels[rng.permutation(len(labels))]


def shifted_labels(images, labels, rng):
    return images, np.roll(labels, 1, axis=1)


def trigger(images, labels, rng):
    images, labels = images.copy(), labels.copy()
    held = rng.permutation(len(images))[: len(images) // 10]
    target = int(labels.sum(axis=0).argmax())
    images[held, -3:, -3:], labels[held] = 255, np.eye(CLASSES, dtype=np.float16)[target]
    return images, labels


def test_sites_that_know_other_classes_than_the_rest_are_no_suspects(honest, judge):
    assert judge(honest) == {}


def test_junk_is_found_by_itself_however_many_sites_send_it(honest, judge):
    kinds, rng = (
        {"site-1": noise, "site-2": blank, "site-3": one_image, VICTIM: random_labels},
        np.random.default_rng(1),
    )
    found = judge(honest | {site: poison(*honest[site], rng) for site, poison in kinds.items()})
    assert list(found) == list(kinds)
    for site in ("site-1", VICTIM):
        assert found[site] == "its labels have nothing to do with its images"
    for site in ("site-2", "site-3"):
        assert "100% of its images are blank or repeated" in found[site]


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (shifted_labels, "students of other sites contradict"),
        (trigger, "one small patch that decides their label"),
    ],
)
def test_a_release_that_only_others_can_judge_is_found_and_no_other(honest, judge, poison, reason):
    found = judge(honest | {VICTIM: poison(*honest[VICTIM], np.random.default_rng(1))})
    assert list(found) == [VICTIM] and reason in found[VICTIM]


def test_other_sites_releases_sent_again_are_found_even_with_some_noise(honest, judge):
    images, labels = honest["site-1"]
    shaken = np.clip(images.astype(int) + np.random.default_rng(0).integers(-2, 3, images.shape), 0, 255)
    found = judge(honest | {"site-3": honest["site-0"], VICTIM: (shaken.astype(np.uint8), labels)})
    assert list(found) == ["site-3", VICTIM]
    for site, original in (("site-3", "site-0"), (VICTIM, "site-1")):
        assert f"are copies of those of {original}, which came before" in found[site]


def test_noise_under_one_label_is_found_by_the_images_of_the_others(honest, judge):
    images, _ = noise(*honest[VICTIM], np.random.default_rng(1))
    found = judge(honest | {VICTIM: (images, np.tile(np.eye(CLASSES, dtype=np.float16)[3], (len(images), 1)))})
    assert list(found) == [VICTIM] and "like none of any other site" in found[VICTIM]


def test_a_single_release_is_judged_by_itself(honest, judge):
    assert judge({VICTIM: honest[VICTIM]}) == {}
    assert list(judge({VICTIM: blank(*honest[VICTIM], None)})) == [VICTIM]
