"""Which settings of weight sharing are tried, and for how many rounds: as many looks and steps as fedkr has."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkr.config import Allotment, SearchConfig, StudentConfig, Study, allot
from server.weights_search import Candidate, Plan, first_setting, settings, try_settings

SEARCH = SearchConfig(lrs=[0.1, 0.03, 0.3], local_epochs=[5, 2, 10], norms=["batch", "group"])
STUDENT = StudentConfig()
WIDE = Plan(SEARCH, Allotment(100_000, 6), [200.0, 300.0], 64, 500)


def tried(score, plan=WIDE, search=SEARCH, student=STUDENT):
    asked = []

    def look(candidate):
        asked.append(candidate)
        return score(candidate), 0.0

    return asked, try_settings(search, student, plan, look)


def test_one_kind_of_setting_is_varied_after_the_other_at_the_best_so_far():
    asked, _ = tried(lambda c: (c.lr == 0.03) + (c.norm == "group") + (c.local_epochs == 10))
    assert [c.name for c in asked] == [
        *("lr0.1-e5", "lr0.03-e5", "lr0.3-e5"),
        *("lr0.03-e5-group", "lr0.03-e2-group", "lr0.03-e10-group"),
    ]


def test_more_looks_go_to_the_neighbours_of_the_best_and_then_to_the_others():
    best = Candidate(0.03, 10, "group")
    score = lambda c: -abs(c.lr - 0.03) + (c.local_epochs == 10) * (1 + (c.norm == "group"))  # noqa: E731
    asked, scores = tried(score, dataclasses.replace(WIDE, given=Allotment(100_000, 100)))
    assert max(scores, key=lambda c: scores[c]) == best
    assert len(asked) == len(set(asked)) == settings(SEARCH)
    near = [c for c in asked if (c.lr != 0.03) + (c.local_epochs != 10) + (c.norm != "group") < 2]
    assert max(map(asked.index, near)) < len(asked) - 1


@pytest.mark.parametrize("looks", [0, 2, 5])
def test_no_more_settings_are_tried_than_there_are_looks(looks):
    plan = dataclasses.replace(WIDE, given=Allotment(100_000, looks))
    asked, scores = tried(lambda c: c.lr, plan)
    assert len(asked) == len(scores) == looks


def test_a_setting_whose_round_is_longer_than_its_part_of_the_steps_is_not_tried():
    # 20 steps a look: 5 epochs of 250 images are 20 steps, 10 epochs twice as many.
    plan = Plan(SEARCH, Allotment(360, 6), [250.0], 64, 500)
    asked, _ = tried(lambda c: 0.0, plan)
    assert {c.local_epochs for c in asked} == {2, 5}


def test_the_recipes_own_norm_comes_first():
    assert first_setting(SEARCH, STUDENT) == Candidate(0.1, 5, "batch")
    assert first_setting(SEARCH, StudentConfig(norm="group")) == Candidate(0.1, 5, "group")
    assert first_setting(dataclasses.replace(SEARCH, norms=["group"]), STUDENT).norm == "group"


@pytest.mark.parametrize(
    ("images", "looks", "epochs"),
    [([250.0], 6, [5, 2, 10]), ([5000.0], 6, [5, 2, 10, 1]), ([10_000.0], 3, [5, 2, 10, 1]), ([60_000.0], 0, None)],
)
def test_only_looks_that_can_happen_are_paid_and_one_local_epoch_is_tried_where_more_take_too_long(
    images, looks, epochs
):
    plan = Plan(SEARCH, Allotment(2300, 6), images, 64, 500)
    _, scores = tried(lambda c: 0.0, plan)
    assert len(scores) == plan.tried.looks == looks
    if epochs is None:
        assert plan.schedule == 2300
    else:
        assert plan.local_epochs == epochs
        assert {c.local_epochs for c in scores} == ({1} if 1 in epochs else {*epochs})


def test_a_search_of_no_rounds_takes_no_steps_from_the_schedule():
    plan = Plan(dataclasses.replace(SEARCH, search_rounds=0), Allotment(2300, 6), [250.0], 64, 500)
    _, scores = tried(lambda c: 0.0, plan)
    assert (scores, plan.schedule) == ({}, 2300)


def test_the_first_round_of_a_setting_that_is_not_tried_is_paid_by_the_others():
    plan = Plan(SEARCH, Allotment(2300, 6), [5000.0], 64, 500)
    first, best = first_setting(SEARCH, STUDENT), Candidate(0.1, 1)
    looks = 5 * plan.looked(best) * plan.steps_of_round(best)
    assert plan.steps_of_round(first) + looks + plan.rounds(best) * plan.steps_of_round(best) <= 2300
    assert plan.rounds(best) == (2300 - 391 - 5 * 79) // 79


@pytest.mark.parametrize(("rounds", "capped"), [(99, True), (100, False), (200, False)])
def test_the_most_rounds_cap_a_schedule_whose_steps_would_do_for_more(rounds, capped):
    plan = Plan(dataclasses.replace(SEARCH, rounds=rounds), Allotment(500, 0), [60.0], 64, 50)
    assert plan.capped(Candidate(0.1, 5)) is capped


def test_no_two_settings_share_their_files():
    assert Candidate(0.1234567, 5).name != Candidate(0.12345671, 5).name
    assert Candidate(1, 5).name == Candidate(1.0, 5).name


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    st.integers(1, 3000),
    st.integers(0, 400),
    st.sampled_from([1, 8, 64]),
    st.sampled_from([0, 1, 20, 10_000]),
    st.randoms(use_true_random=False),
)
def test_search_and_schedule_take_no_more_steps_than_fedkr_and_none_for_looks_that_do_not_happen(
    images, steps, val, batch, search_rounds, rng
):
    study = Study()
    study.strategy.steps, study.strategy.rounds, study.strategy.search_rounds = steps, 10_000, search_rounds
    plan = Plan(study.strategy, allot(study, study.strategy, settings(SEARCH), val), images, batch, val)
    _, scores = tried(lambda c: rng.random(), plan, study.strategy)
    first = first_setting(study.strategy, STUDENT)
    best = max(scores, key=lambda c: scores[c], default=first)
    spent = sum(plan.looked(c) * plan.steps_of_round(c) for c in scores if c != best)
    if scores and first not in scores:
        spent += plan.steps_of_round(first)
    total = spent + plan.rounds(best) * plan.steps_of_round(best)
    # A model that took no round at all would be no opponent.
    assert total <= steps or (plan.rounds(best) == 1 and not scores)
    assert len(scores) == plan.tried.looks
    # The dearest looks are paid for, and some take a part of that.
    assert total > (steps * 2 / 3 if scores else steps) - plan.steps_of_round(best) - 1
