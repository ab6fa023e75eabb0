"""Labels by consensus, of annotators that a test makes: their errors are drawn, the truth is known."""

import numpy as np
import pytest

from server.consensus import consensus

SITES, CLASSES, IMAGES = 4, 4, 600


def soft(labels, confidence=0.94):
    """Return soft labels ``[N, K]`` that are sure of ``labels``."""
    rest = (1 - confidence) / (CLASSES - 1)
    return np.where(np.eye(CLASSES, dtype=bool)[labels], confidence, rest)


def agreement(labels, truth):
    return float((labels.argmax(axis=1) == truth).mean())


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    return {f"site-{i}": rng.integers(0, CLASSES, IMAGES) for i in range(SITES)}


@pytest.fixture
def opinions(truth):
    """Return a function that gives every site's teacher, and its student, what it says of images of a class."""

    def of(**by_site):
        def says(site, labels):
            return soft(by_site[site.replace("-", "_")](labels) if site.replace("-", "_") in by_site else labels)

        released = {site: says(site, labels) for site, labels in truth.items()}
        seen = {site: {p: says(p, labels) for p in truth if p != site} for site, labels in truth.items()}
        return released, seen

    return of


def never_a_three(labels):
    """A site that hardly met class 3 takes it for class 0."""
    return np.where(labels == 3, 0, labels)


def next_class(labels):
    return (labels + 1) % CLASSES


def noise(labels):
    return np.random.default_rng(len(labels) + 7).integers(0, CLASSES, len(labels))


def test_where_everybody_is_right_labels_stay_nearly_as_they_were(opinions, truth):
    released, seen = opinions()
    for site, labels in consensus(released, seen).items():
        assert agreement(labels, truth[site]) == 1.0
        assert np.abs(labels - released[site]).max() < 0.08


def test_a_teacher_that_misses_a_class_is_corrected_by_those_who_know_it(opinions, truth):
    released, seen = opinions(site_0=never_a_three)
    found = consensus(released, seen)
    assert agreement(released["site-0"], truth["site-0"]) < 0.8
    assert agreement(found["site-0"], truth["site-0"]) > 0.99


def test_what_no_third_site_bears_witness_to_changes_nothing(opinions, truth):
    """A student is only known by a third site of one class: what it says of others is not listened to."""
    released, seen = opinions(site_0=never_a_three)
    kept = {"site-0": truth["site-0"] < CLASSES, "site-1": truth["site-1"] == 1, "site-2": truth["site-2"] == 1}
    few = {site: released[site][images] for site, images in kept.items()}
    found = consensus(few, {s: {p: seen[s][p][kept[s]] for p in few if p != s} for s in few})
    assert (found["site-0"].argmax(axis=1) == released["site-0"].argmax(axis=1)).mean() > 0.99


def test_students_that_never_met_a_class_do_not_talk_its_only_expert_out_of_it(opinions, truth):
    released, seen = opinions(site_1=never_a_three, site_2=never_a_three, site_3=never_a_three)
    assert agreement(consensus(released, seen)["site-0"], truth["site-0"]) > 0.99


@pytest.mark.parametrize("habit", [next_class, noise])
def test_one_bad_site_cannot_turn_the_labels_of_the_others(opinions, truth, habit):
    found = consensus(*opinions(site_0=habit))
    for site in list(truth)[1:]:
        assert agreement(found[site], truth[site]) > 0.99


@pytest.mark.parametrize("sites", [1, 2])
def test_without_a_third_site_to_bear_witness_labels_stay(opinions, sites):
    released, seen = opinions(site_0=never_a_three)
    few = list(released)[:sites]
    found = consensus({s: released[s] for s in few}, {s: {p: seen[s][p] for p in few if p != s} for s in few})
    for site in few:
        np.testing.assert_allclose(found[site], released[site], atol=1e-3)


def test_labels_are_distributions_also_of_one_image_and_of_certain_teachers(truth):
    one = {site: np.eye(CLASSES, dtype=np.float16)[labels[:1]] for site, labels in truth.items()}
    for labels in consensus(one, {site: {p: one[p] for p in one if p != site} for site in one}).values():
        assert np.isfinite(labels).all() and labels.sum(axis=1) == pytest.approx(1)
