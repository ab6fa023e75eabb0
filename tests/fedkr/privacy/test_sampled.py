"""The noise of DP-SGD: as much as the guarantee takes, by exact arithmetic or Opacus' RDP accountant."""

import math

import pytest

from fedkr.privacy.accountant import epsilon_of
from fedkr.privacy.sampled import noise_for


def test_where_every_unit_is_in_every_sum_the_noise_is_exact():
    noise = noise_for(3.0, 1e-5, 1.0, 40)
    assert epsilon_of(math.sqrt(40) / noise, 1e-5) == pytest.approx(3.0, abs=1e-4)


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(8.0, 0.3, 20), (8.0, 0.95, 20)])
def test_sampled_sums_keep_the_guarantee_and_waste_little_of_it(epsilon, rate, steps):
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise_for(epsilon, 1e-5, rate, steps), rate, steps)]
    assert 0.85 * epsilon <= accountant.get_epsilon(1e-5) <= epsilon


def test_fewer_units_a_step_take_less_noise():
    assert noise_for(8.0, 1e-5, 0.1, 20) < noise_for(8.0, 1e-5, 0.3, 20) < noise_for(8.0, 1e-5, 1.0, 20)


def test_where_the_accountant_saves_no_noise_that_of_all_units_serves():
    assert noise_for(0.01, 1e-12, 1e-3, 20_000) == noise_for(0.01, 1e-12, 1.0, 20_000)


@pytest.mark.parametrize(("epsilon", "delta", "rate", "steps"), [(90.0, 0.01, 1e-5, 20_000), (90.0, 0.01, 1e-4, 1)])
def test_no_question_is_too_odd_for_an_answer(epsilon, delta, rate, steps):
    assert 0.01 < noise_for(epsilon, delta, rate, steps) < 1
