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


def test_more_looks_go_to_the_neighbours_of_the_best_and_end_when_none_is_untried():
    best = Candidate(0.03, 10, "group")
    plan = dataclasses.replace(WIDE, given=Allotment(100_000, 100))
    asked, scores = tried(lambda c: -abs(c.lr - 0.03) + (c.local_epochs == 10) * (1 + (c.norm == "group")), plan)
    assert max(scores, key=lambda c: scores[c]) == best
    assert len(asked) == len(set(asked)) < settings(SEARCH)


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


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    st.integers(1, 3000),
    st.integers(0, 400),
    st.sampled_from([1, 8, 64]),
    st.randoms(use_true_random=False),
)
def test_search_and_schedule_together_take_no_more_steps_than_fedkr(images, steps, val, batch, rng):
    study = Study()
    study.strategy.steps, study.strategy.rounds, study.strategy.search_rounds = steps, 10_000, 10_000
    plan = Plan(study.strategy, allot(study, study.strategy, settings(SEARCH), val), images, batch, val)
    _, scores = tried(lambda c: rng.random(), plan, study.strategy)
    best = max(scores, key=lambda c: scores[c], default=first_setting(study.strategy, STUDENT))
    spent = sum(plan.looked(c) * plan.steps_of_round(c) for c in scores if c != best)
    total = spent + plan.rounds(best) * plan.steps_of_round(best)
    # A model that took no round at all would be no opponent.
    assert total <= steps or (plan.rounds(best) == 1 and not scores)
