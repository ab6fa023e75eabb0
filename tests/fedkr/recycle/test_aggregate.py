"""Which of the other sites' releases a site trains with: what helps, nothing that does not, nothing by chance."""

import dataclasses

import numpy as np
import pytest

from fedkr.data import SiteData
from fedkr.data.images import CanarySet
from fedkr.documents import FOLDED, TOO_FEW, VAL
from fedkr.learning.job import Job
from fedkr.recycle import aggregate
from fedkr.recycle.aggregate import Aggregation, Choice, Verdict, forward_selection, judged_folds, with_real
from fedkr.release import ReleasedSets

COUNT = 200
USUAL = np.ones(COUNT)


def judge_of(helped):
    """Return a judge for whom each name in ``helped`` takes away the errors of a range of images."""
    asked = []

    def judge(chosen):
        asked.append(chosen)
        errors = USUAL.copy()
        for name in chosen:
            part = helped.get(name, slice(0, 0))
            errors[part] = 0
        return Verdict(errors)

    return judge, asked


def test_a_helpful_release_is_chosen_and_a_useless_one_is_not():
    judge, _ = judge_of({"good": slice(0, 80)})
    assert forward_selection(["useless", "good"], judge)[0] == ("good",)
    assert forward_selection(["useless"], judge)[0] == ()


def test_the_best_is_taken_first_and_what_adds_nothing_to_it_is_left_out():
    judge, _ = judge_of({"some": slice(0, 60), "most": slice(0, 100), "rest": slice(100, 180)})
    assert forward_selection(["some", "rest", "most"], judge)[0] == ("most", "rest")


def test_of_two_equal_choices_the_one_with_fewer_releases_is_kept():
    judge, _ = judge_of({"one": slice(0, 80), "copy": slice(0, 80)})
    assert forward_selection(["one", "copy"], judge)[0] == ("one",)
    assert not Verdict(USUAL).beats(Verdict(USUAL))


def test_a_harmful_release_is_not_chosen():
    good, bad = Verdict(np.zeros(COUNT)), Verdict(np.tile([0.0, 1.0], COUNT // 2))
    assert forward_selection(["bad"], lambda chosen: bad if chosen else good)[0] == ()


def test_a_gain_within_noise_chooses_nothing():
    # 30 images are right instead of wrong, and 26 wrong instead of right: 4 more, where luck is worth 7.5.
    before, after = np.zeros(COUNT), np.zeros(COUNT)
    before[:30], after[30:56] = 1, 1
    assert Verdict(after).accuracy > Verdict(before).accuracy
    assert not Verdict(after).beats(Verdict(before))
    after[30:44] = 0
    assert Verdict(after).beats(Verdict(before))


def test_a_classifier_that_is_only_less_sure_is_no_better():
    logits, labels = np.array([[4.0, 0.0], [4.0, 0.0]], np.float32), np.array([0, 1])
    sure, unsure = Verdict.of(logits, labels), Verdict.of(logits / 4, labels)
    assert unsure.loss < sure.loss and unsure.accuracy == sure.accuracy == 0.5
    assert not unsure.beats(sure)


def test_no_more_than_two_trainings_for_each_release_are_asked_for():
    judge, asked = judge_of({str(n): slice(20 * n, 20 * n + 20) for n in range(6)})
    assert len(forward_selection(map(str, range(6)), judge)[0]) == 6
    assert len(asked) == len(set(asked)) == 12


@pytest.fixture
def job(runtime):
    return Job(runtime, seed=(0, "site-0"))


@pytest.fixture
def lacking(pictures):
    """A site whose val has a class that its train lacks; with one set of that class, and one of noise."""
    rng, labels = np.random.default_rng(1), np.full((40, 4), 0.25, np.float16)
    striped = pictures((0, 0, 40), seed=3)
    offered = {
        "noise": ReleasedSets.of_arrays(rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8), labels, [20, 20]),
        "striped": ReleasedSets.of_arrays(striped.images, np.eye(4, dtype=np.float16)[striped.labels], [20, 20]),
    }
    data = SiteData(pictures((24, 24, 0)), pictures((20, 20, 20), seed=1), None, None)
    return data, offered


def test_a_site_chooses_the_images_of_a_class_that_it_lacks_by_training_on_them(lacking, tiny_study, job, monkeypatch):
    monkeypatch.setattr(aggregate, "LEAST_VAL", 60)
    tiny_study.recycle.search_steps = 12
    data, offered = lacking
    found = Aggregation(tiny_study, data, offered, job).choose(lambda chosen, judge: judge())
    assert (found.how, found.judged, found.chosen) == (VAL, 60, ("striped",))
    assert found.own <= 2 / 3 < found.alone["striped"]
    assert list(found.alone) == ["noise", "striped"]


def test_too_few_images_choose_nothing_and_train_nothing(lacking, pictures, tiny_study, job):
    few = SiteData(pictures((20, 20, 10)), pictures((3, 3, 3), seed=1), None, None)
    found = Aggregation(tiny_study, few, lacking[1], job).choose(lambda *_: pytest.fail("trained"))
    assert found == Choice(TOO_FEW)


def test_nothing_that_was_offered_is_nothing_chosen(lacking, tiny_study, job):
    assert Aggregation(tiny_study, lacking[0], {}, job).choose(lambda *_: pytest.fail("trained")).chosen == ()


def test_where_val_is_small_each_image_of_train_and_val_is_judged_once_by_others(pictures, job):
    data = SiteData(pictures((20, 20, 20)), pictures((4, 4, 4), seed=1), None, None)
    how, folds = judged_folds(data, job)
    assert (how, len(folds), sum(len(judged) for _, judged in folds)) == (FOLDED, 3, 72)
    for train, judged in folds:
        assert len(train) + len(judged) == 72
        assert set(judged.labels) == {0, 1, 2}


def test_no_patient_is_judged_by_a_classifier_that_saw_others_of_its_images(pictures, job):
    parts = [pictures((20, 20, 20), seed=seed) for seed in (0, 1)]
    train, val = (dataclasses.replace(p, groups=np.arange(60) // 4 + 100 * n) for n, p in enumerate(parts))
    for learnt, judged in judged_folds(SiteData(train, val, None, None), job)[1]:
        assert not set(learnt.groups) & set(judged.groups)


def test_planted_canaries_take_no_part_in_the_choice(pictures, job):
    planted = CanarySet(
        np.zeros((4, 8, 8, 1), np.uint8), np.zeros(4, np.int64), np.ones(4, bool), np.zeros(4, np.int64)
    )
    data = SiteData(pictures((20, 20, 20)), pictures((4, 4, 4), seed=1), None, None, canaries=planted)
    assert sum(len(judged) for _, judged in judged_folds(data, job)[1]) == 60 - 4 + 12


def test_a_sites_own_images_are_in_every_round_beside_a_slice_of_each_chosen_release(lacking):
    data, offered = lacking
    sets = with_real(data.train, offered, ("striped",))
    assert len(sets) == 2
    for index in range(2):
        images, labels = sets(index)
        assert np.array_equal(images[:48], data.train.images) and len(images) == 48 + 20
        assert labels[:48].argmax(axis=1).tolist() == data.train.labels.tolist()
        assert np.array_equal(images[48:], offered["striped"](index).images)
    assert len(with_real(data.train, offered, ())(0).images) == 48
