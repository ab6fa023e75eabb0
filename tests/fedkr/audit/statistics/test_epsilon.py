import math

import numpy as np
import pytest

from fedkr.audit.statistics.epsilon import correct_guesses, epsilon_lower_bound, one_run_bound, p_value
from fedkr.errors import UserError


def loop_p_value(coins, guesses, correct, epsilon, delta):
    right = math.exp(epsilon) / (math.exp(epsilon) + 1)
    mass = [math.comb(guesses, k) * right**k * (1 - right) ** (guesses - k) for k in range(guesses + 1)]
    beta = sum(mass[correct:])
    alpha = 0.0
    for i in range(1, correct + 1):
        alpha = max(alpha, sum(mass[correct - i : correct]) / i)
    return min(1.0, beta + 2 * coins * delta * alpha)


@pytest.mark.parametrize("coins_guesses_correct", [(10, 10, 8), (40, 20, 20), (60, 30, 17), (100, 50, 0)])
@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("delta", [0.0, 1e-4])
def test_the_p_value_equals_the_theorem_in_a_loop(coins_guesses_correct, epsilon, delta):
    expected = loop_p_value(*coins_guesses_correct, epsilon, delta)
    assert p_value(*coins_guesses_correct, epsilon, delta) == pytest.approx(expected, abs=1e-9)


def test_the_bound_of_all_guesses_right_without_delta_is_known_in_closed_form():
    # All right has probability q^r under randomised response, so the bound solves q^r = 0.05.
    q = 0.05 ** (1 / 100)
    assert epsilon_lower_bound(100, 100, 100, delta=0) == pytest.approx(math.log(q / (1 - q)), abs=1e-6)


def test_the_bound_sits_where_the_p_value_reaches_five_percent():
    bound = epsilon_lower_bound(500, 100, 85, delta=1e-5)
    assert loop_p_value(500, 100, 85, bound, 1e-5) == pytest.approx(0.05, abs=1e-6)


def test_guessing_right_half_the_time_shows_nothing():
    assert epsilon_lower_bound(1000, 200, 100) == 0.0


def test_a_larger_delta_weakens_the_bound():
    bounds = [epsilon_lower_bound(200, 100, 95, delta=delta) for delta in (0, 1e-5, 1e-4, 1e-2)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == 0.0


def test_an_attack_that_knows_the_coins_reaches_the_largest_bound():
    included = np.random.default_rng(0).random(200) < 0.5
    count = 2 * min(included.sum(), (~included).sum())
    correct = correct_guesses(included.astype(float), included, int(count))
    result = one_run_bound(200, int(count), correct)
    assert result.correct == result.guesses == count
    assert 4.0 < result.epsilon == result.largest


def test_the_largest_bound_is_that_of_the_guesses_made_and_not_of_all_coins():
    result = one_run_bound(1000, 30, 22)
    assert 0 < result.epsilon < result.largest == epsilon_lower_bound(1000, 30, 30) < 2.4
    assert one_run_bound(1000, 4, 4).largest == 0


def test_the_guesses_are_the_highest_and_the_lowest_scores():
    included = np.array([True, False, True, False, False])
    # Highest two: in, out. Lowest one: out. So two of three are right.
    assert correct_guesses(np.array([0.9, 0.8, 0.5, 0.2, 0.1]), included, 3) == 2


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_randomised_response_is_overestimated_no_more_than_five_times_in_a_hundred(epsilon):
    rng = np.random.default_rng(1)
    bounds = [epsilon_lower_bound(100, 60, correct, delta=0) for correct in range(61)]
    exceeded = []
    for _ in range(4000):
        included = rng.random(100) < 0.5
        truthful = rng.random(100) < 1 / (1 + math.exp(-epsilon))
        answers = np.where(truthful, included, ~included) + rng.random(100) * 0.1
        exceeded.append(bounds[correct_guesses(answers, included, 60)] > epsilon)
    assert 0.02 < np.mean(exceeded) <= 0.055


@pytest.mark.parametrize(
    ("scores", "included", "guesses", "words"),
    [
        (np.zeros(3), np.zeros(4, bool), 1, "coins"),
        (np.full(3, np.nan), np.zeros(3, bool), 1, "NaN"),
        (np.zeros(3), np.zeros(3, bool), 4, "guesses=4"),
    ],
)
def test_scores_that_cannot_guess_the_coins_are_named(scores, included, guesses, words):
    with pytest.raises(UserError, match=words):
        correct_guesses(scores, included, guesses)


@pytest.mark.parametrize(
    ("counts", "options", "words"),
    [
        ((3, 1, 1), {"delta": -1.0}, "delta"),
        ((3, 1, 1), {"confidence": 95.0}, "confidence"),
        ((3, 4, 1), {}, "guesses=4"),
        ((3, 1, 2), {}, "correct=2"),
    ],
)
def test_counts_that_do_not_fit_are_named(counts, options, words):
    with pytest.raises(UserError, match=words):
        one_run_bound(*counts, **options)
