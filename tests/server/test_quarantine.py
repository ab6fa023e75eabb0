"""Releases of five skewed sites, real digits in the place of synthetic ones: only honest ones teach."""

import numpy as np
import pytest

from fedkr.config import DataConfig, StudentConfig
from fedkr.data import load_source
from fedkr.data.images import Shape
from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.release import Release, SoftSet
from server.evidence import LEAST_IMAGES, Judged, Witness, agreed, contradicted_share, strangeness
from server.judges import Judges
from server.quarantine import judge_releases
from simulations.evidence.poison import (
    blank,
    flat_labels,
    hidden_mass,
    low_rank,
    noise,
    random_labels,
    remembering,
    replay,
    shifted_labels,
    trigger,
)

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
        soft = (labels / labels.sum(axis=1, keepdims=True)).astype(np.float16)
        releases[f"site-{site}"] = SoftSet(pool.images[mine], soft)
    return releases


@pytest.fixture(scope="module")
def students():
    """Students of releases that tests share are trained once."""
    return {}


@pytest.fixture
def judge(tmp_path, students):
    def judge(releases, slices=None, guaranteed=False):
        files = {}
        for site, (images, labels) in releases.items():
            files[site] = tmp_path / f"{site}.safetensors"
            Release(images, labels, {"site": site, "slices": (slices or {}).get(site, 1)}).save(files[site])
        job = Job(Runtime.choose("cpu", "float32", 1), seed=("test",))
        keep = remembering(students, releases)
        return judge_releases(Judges([files], STUDENT, Shape(1, 8, CLASSES), job, keep), guaranteed=guaranteed)

    return judge


def one_image(own, other, rng):
    return SoftSet(np.repeat(own.images[:1], len(own.images), axis=0), own.soft_labels)


def test_sites_that_know_other_classes_than_the_rest_are_no_suspects(honest, judge):
    assert judge(honest) == {}


def faint(rng, images=360, rare=0.16, seen=15):
    """Images of two classes, one of them rare, that a faint mark among noise tells apart, and soft labels that know."""
    labels = (rng.random(images) < rare).astype(int)
    pixels = rng.normal(128, 30, (images, 12, 12, 1))
    pixels[:, :4, :4] += seen * labels[:, None, None, None]
    soft = 0.9 * np.eye(2)[labels] + 0.05
    return SoftSet(pixels.clip(0, 255).astype(np.uint8), soft.astype(np.float16))


@pytest.mark.parametrize("slices", [1, 4])
def test_images_whose_classes_are_hard_to_tell_apart_make_nobody_a_suspect(tmp_path, slices):
    found = []
    for seed in range(5):
        honest = faint(np.random.default_rng(seed))
        found.append(bool(judged_alone(honest, slices, tmp_path)))
        found.append(bool(judged_alone(random_labels(honest, None, np.random.default_rng(seed)), slices, tmp_path)))
    assert found == [False, True] * 5


def judged_alone(release, slices, folder):
    file = folder / "release.safetensors"
    Release(*release, {"site": VICTIM, "slices": slices}).save(file)
    job = Job(Runtime.choose("cpu", "float32", 1), seed=("test",))
    return judge_releases(
        Judges([{VICTIM: file}], STUDENT, Shape(1, 12, 2), job, lambda key, train: train()), guaranteed=False
    )


def test_junk_is_found_by_itself_however_many_sites_send_it(honest, judge):
    kinds, rng = (
        {"site-1": noise, "site-2": blank, "site-3": one_image, VICTIM: random_labels},
        np.random.default_rng(1),
    )
    found = judge(honest | {site: poison(honest[site], honest["site-0"], rng) for site, poison in kinds.items()})
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
    found = judge(honest | {VICTIM: poison(honest[VICTIM], honest["site-0"], np.random.default_rng(1))})
    assert list(found) == [VICTIM] and reason in found[VICTIM]


def test_with_a_guarantee_contradictions_convict_nobody_and_all_else_does(honest, judge):
    bad = {
        kind: kind(honest[VICTIM], honest["site-0"], np.random.default_rng(1))
        for kind in (shifted_labels, trigger, one_image)
    }
    found = {kind: judge(honest | {VICTIM: release}, guaranteed=True) for kind, release in bad.items()}
    assert found[shifted_labels] == {}
    assert list(found[trigger]) == list(found[one_image]) == [VICTIM]


@pytest.mark.parametrize("again", [replay, lambda own, other, rng: other])
def test_nobody_is_convicted_for_images_that_another_site_sent_too_whoever_was_first(honest, judge, again):
    copied = again(honest[VICTIM], honest["site-0"], np.random.default_rng(0))
    for order in (["site-0", VICTIM], [VICTIM, "site-0"]):
        releases = {"site-0": honest["site-0"], VICTIM: copied}
        assert judge({site: releases[site] for site in order} | {"site-1": honest["site-1"]}) == {}


def test_noise_under_one_label_is_found_by_the_images_of_the_others(honest, judge):
    images = noise(honest[VICTIM], honest["site-0"], np.random.default_rng(1)).images
    found = judge(honest | {VICTIM: SoftSet(images, np.tile(np.eye(CLASSES, dtype=np.float16)[3], (len(images), 1)))})
    assert list(found) == [VICTIM] and "like none of any other site" in found[VICTIM]


def test_one_bad_slice_behind_good_ones_is_found(honest, judge):
    images, labels = honest[VICTIM].images[:300].copy(), honest[VICTIM].soft_labels[:300]
    images[150:] = noise(SoftSet(images[150:], labels[150:]), None, np.random.default_rng(1)).images
    found = judge({"site-0": honest["site-0"], VICTIM: SoftSet(images, labels)}, slices={VICTIM: 2})
    assert found == {VICTIM: "its labels have nothing to do with its images"}


def test_images_in_an_order_of_a_sites_choice_end_no_study(honest, judge):
    few = 2 * LEAST_IMAGES
    labels = np.eye(CLASSES, dtype=np.float16)[np.repeat([0, 1], few)]
    found = judge({VICTIM: SoftSet(honest[VICTIM].images[: 2 * few], labels), "site-0": honest["site-0"]})
    assert set(found) <= {VICTIM}


@pytest.mark.parametrize("others", [1, 2, 4])
def test_images_that_few_components_rebuild_convict_nobody_but_their_own_site(honest, judge, others):
    sites = [site for site in honest if site != VICTIM][:others]
    bad = low_rank(honest[VICTIM], honest["site-0"], np.random.default_rng(0))
    assert set(judge({site: honest[site] for site in sites} | {VICTIM: bad})) <= {VICTIM}


@pytest.mark.parametrize("poison", [one_image, random_labels, noise])
def test_slices_of_one_image_hide_nothing(honest, judge, poison):
    bad = poison(honest[VICTIM], None, np.random.default_rng(1))
    assert list(judge({"site-0": honest["site-0"], VICTIM: bad}, slices={VICTIM: len(bad.images)})) == [VICTIM]


def test_mass_on_another_class_behind_the_right_one_is_contradicted(honest, judge):
    found = judge(honest | {VICTIM: hidden_mass(honest[VICTIM], None, np.random.default_rng(1))})
    assert list(found) == [VICTIM] and "students of other sites contradict" in found[VICTIM]


def test_uncertain_teachers_of_the_right_class_are_not_contradicted(honest):
    images, labels = honest[VICTIM]
    sure = Judged.of(honest[VICTIM])
    witnesses = [Witness(sure, sure, np.ones(CLASSES, bool), party) for party in "ab"]
    assert contradicted_share(Judged(images, 0.65 * labels + 0.035), witnesses) == 0
    hidden = hidden_mass(honest[VICTIM], None, np.random.default_rng(1))
    assert contradicted_share(Judged.of(hidden), witnesses) > 0.9
    assert contradicted_share(Judged.of(hidden), witnesses[:1]) == 0


def test_soft_labels_that_say_the_same_of_every_image_are_found(honest, judge):
    found = judge({VICTIM: flat_labels(honest[VICTIM], None, np.random.default_rng(1))})
    assert found == {VICTIM: "its soft labels say the same of every image"}


def test_sites_that_share_images_are_one_witness(honest):
    release, votes = Judged.of(honest["site-0"]), [("a", 5.0), ("a", 5.0), ("b", 1.0)]
    assert agreed(votes) == 1.0 and agreed(votes[:2]) is None
    witness = Witness(release, release, np.ones(CLASSES, bool), "a")
    junk = Judged.of(SoftSet(noise(honest[VICTIM], None, np.random.default_rng(1)).images, honest[VICTIM].soft_labels))
    assert strangeness(junk, [witness, witness]) == 1.0


def test_a_release_of_one_image_makes_nobody_a_suspect(honest, judge):
    tiny = SoftSet(honest[VICTIM].images[:1], honest[VICTIM].soft_labels[:1])
    assert judge({"site-9": tiny, "site-0": honest["site-0"], "site-2": honest["site-2"]}) == {}


def test_one_site_alone_cannot_have_another_convicted(honest, judge):
    liar = shifted_labels(honest["site-1"], honest["site-0"], np.random.default_rng(1))
    assert judge({"site-0": honest["site-0"], "site-1": liar}) == {}


def test_a_single_release_is_judged_by_itself(honest, judge):
    assert judge({VICTIM: honest[VICTIM]}) == {}
    assert list(judge({VICTIM: blank(honest[VICTIM], None, None)})) == [VICTIM]
