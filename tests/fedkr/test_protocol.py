"""The comparison's protocol: what an opponent may spend is what fedkr spends, and few images choose nothing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkr.config import LEAST_TO_CHOOSE, Study, allot, may_choose, most_tried, pipeline_steps, search_looks


@pytest.fixture
def study():
    return Study()


def test_fedkrs_steps_are_those_of_generator_teacher_every_scoring_student_and_student(study):
    assert search_looks(study) == 3 + 3
    assert pipeline_steps(study, LEAST_TO_CHOOSE) == 700 + 500 + 6 * 100 + 500
    # A generator that learned nothing must be found, whatever val can choose.
    assert pipeline_steps(study, LEAST_TO_CHOOSE - 1) == 700 + 500 + 100 + 500
    study.recycle.tune_balances, study.recycle.tune_filters = ["balanced"], [0.5, 0.9]
    assert search_looks(study) == 9


def test_val_chooses_from_so_many_images_on_that_a_standard_error_of_90_percent_is_3_points():
    assert math.sqrt(0.9 * 0.1 / LEAST_TO_CHOOSE) == pytest.approx(0.03)
    assert may_choose(LEAST_TO_CHOOSE) and not may_choose(LEAST_TO_CHOOSE - 1)


def test_as_many_settings_are_tried_as_fedkr_scores_where_there_are_so_many(study):
    assert allot(study, study.strategy, 18, 500).looks == 6
    assert allot(study, study.strategy, 4, 500).looks == 4
    assert most_tried(study, study.strategy) == 6


@pytest.mark.parametrize(("settings", "val"), [(18, LEAST_TO_CHOOSE - 1), (1, 500)])
def test_where_nothing_can_be_chosen_all_steps_go_to_one_schedule(study, settings, val):
    given_ = allot(study, study.strategy, settings, val)
    assert (given_.looks, given_.per_look, given_.schedule) == (0, 0, pipeline_steps(study, val))


def test_a_study_may_name_other_steps(study):
    study.strategy.steps = 90
    assert allot(study, study.strategy, 18, 500).steps == 90


@given(st.integers(1, 10**6), st.integers(1, 40), st.integers(1, 2000), st.integers(0, 100))
def test_all_looks_and_the_chosen_schedule_take_no_more_than_is_allotted(steps, settings, val, budget):
    study = Study()
    study.strategy.steps, study.recycle.tuning_budget = steps, budget
    found = allot(study, study.strategy, settings, val)
    assert max(0, found.looks - 1) * found.per_look + found.schedule <= steps
    assert found.looks <= search_looks(study)
