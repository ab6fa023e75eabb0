import dataclasses

import numpy as np
import pytest

from fedkr.audit.challenge import build_challenge, site_challenge
from fedkr.audit.coins import GROUPED, TOO_FEW, guessed_coins, usual_guesses
from fedkr.audit.statistics.epsilon import correct_guesses, one_run_bound
from fedkr.audit.subject import Subject
from fedkr.config import AuditConfig
from fedkr.data.images import ImageSet

COINS = AuditConfig(coins=True)


def grouped(challenge):
    sides = [
        dataclasses.replace(side, groups=np.arange(len(side)) + start)
        for side, start in ((challenge.members, 0), (challenge.nonmembers, 1000))
    ]
    return dataclasses.replace(challenge, members=sides[0], nonmembers=sides[1])


@pytest.fixture(scope="module")
def challenge(make_world):
    return site_challenge(make_world(members=150, nonmembers=150).data)


@pytest.fixture(scope="module")
def planted(make_world):
    return site_challenge(make_world(members=20, nonmembers=20, canaries=60).data)


def guessed(challenge, scores, config=COINS, seed=0):
    return guessed_coins(scores, Subject("student", "st-mary", challenge, config, seed))


def bound(row):
    return one_run_bound(row["coins"], row["guesses"], row["correct"])


def knowing(challenge):
    return np.repeat([1.0, 0.0], [len(challenge.members), len(challenge.nonmembers)])


def test_natural_images_count_where_coins_put_them_in(challenge):
    found = guessed(challenge, knowing(challenge))
    assert found == {"coins": 300, "guesses": 30, "correct": 30, "reason": ""}
    assert 2.0 < bound(found).epsilon == bound(found).largest


@pytest.mark.parametrize(("coins", "guesses"), [(1, 0), (10, 5), (30, 15), (49, 20), (300, 30), (5000, 500)])
def test_as_many_coins_are_guessed_as_a_perfect_attack_needs_to_show_something(coins, guesses):
    assert usual_guesses(coins) == guesses
    included = np.arange(coins) % 2 == 0
    if guesses:
        assert one_run_bound(coins, guesses, correct_guesses(included.astype(float), included, guesses)).epsilon > 0


def test_the_number_of_guesses_is_the_configured_one(challenge):
    assert guessed(challenge, knowing(challenge), AuditConfig(coins=True, guesses=200))["guesses"] == 200


def test_equal_scores_are_guessed_in_an_order_that_knows_nothing_of_the_coins(challenge):
    config = AuditConfig(coins=True, guesses=300)
    right = [guessed(challenge, np.zeros(300), config, seed)["correct"] for seed in range(20)]
    assert 130 < np.mean(right) < 170


def test_without_leakage_the_bound_is_zero_in_at_least_90_of_100_runs(challenge):
    rng = np.random.default_rng(0)
    zero = [bound(guessed(challenge, rng.normal(size=300), seed=seed)).epsilon == 0 for seed in range(100)]
    assert np.mean(zero) >= 0.9


def test_images_that_occur_twice_have_no_coin_of_their_own(challenge):
    members = challenge.members
    copies = ImageSet(
        np.concatenate([members.images, members.images[:10]]),
        np.concatenate([members.labels, members.labels[:10]]),
        members.classes,
    )
    doubled = build_challenge(copies, challenge.nonmembers)
    assert guessed(doubled, knowing(doubled))["coins"] == 300 - 10


def test_images_of_patients_do_not_count_but_their_canaries_do(challenge, planted):
    assert guessed(grouped(challenge), np.zeros(300)) == {"reason": GROUPED}
    found = guessed(grouped(planted), np.zeros(100))
    assert (found["coins"], found["reason"]) == (60, "")


def test_canaries_count_with_and_without_natural_coins(planted):
    scores = np.concatenate([np.zeros(40), planted.canaries.included])
    assert guessed(planted, scores, AuditConfig(guesses=60))["coins"] == 60
    assert guessed(planted, scores, AuditConfig(coins=True))["coins"] == 100
    # Half of the guesses are "in", whatever the coins came to.
    assert guessed(planted, scores, AuditConfig(guesses=60))["correct"] >= 50


def test_why_there_is_no_bound_is_said(challenge):
    assert guessed(challenge, np.zeros(300), AuditConfig()) is None
    # Two copies have no coin of their own, and of one coin none is guessed.
    few = build_challenge(challenge.members.subset(np.array([0, 0])), challenge.nonmembers.subset(np.array([0])))
    assert guessed(few, np.zeros(3)) == {"reason": TOO_FEW}
