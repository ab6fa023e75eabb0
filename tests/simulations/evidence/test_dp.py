"""The evidence for the guarantee: the strongest test of the mechanism shows no more than is stated."""

import json
import math

import numpy as np
import pytest

from fedkr.privacy.accountant import mu_of
from simulations.evidence import dp
from simulations.evidence.dp import BROKEN, DELTA, epsilon_shown, scores

STATED = 8.0


@pytest.fixture(scope="module")
def mu():
    return mu_of(STATED, DELTA)


def test_the_mechanism_shows_no_larger_epsilon_than_is_stated_and_with_too_little_noise_it_does(mu):
    kept, broken = (epsilon_shown(*scores(noise, 60, 0)) for noise in (mu, mu * math.sqrt(BROKEN)))
    assert kept < STATED < broken


def test_the_canary_uses_all_that_the_accountant_allows_to_one_image(mu):
    present, absent = scores(mu, 60, 0)
    # Of a Gaussian mechanism both have mean mu^2 / 2 and standard deviation mu.
    means = np.array([present.mean(), -absent.mean()])
    assert np.abs(means - mu**2 / 2).max() < 4 * mu / math.sqrt(60)
    assert present.mean() - absent.mean() > 0.8 * mu**2, "a weaker one would show little whatever the noise"


def test_scores_that_say_nothing_show_nothing():
    assert epsilon_shown(np.array([1.0, -1.0] * 50), np.array([1.0, -1.0] * 50)) == 0.0
    assert epsilon_shown(np.full(100, -1.0), np.full(100, -1.0)) == 0.0


def test_the_distributions_of_a_release_classify_and_noise_costs_accuracy(tmp_path):
    asked = ["drawn=digits", "images=600", "components=12", "epsilons=none,8,0.5", "seeds=0"]
    dp.main([f"out={tmp_path}/drawn.json", *asked])
    rows = json.loads((tmp_path / "drawn.json").read_text())["rows"]
    found = {row["epsilon"]: row["accuracy"][0] for row in rows}
    assert found["none"] > found["8"] > 0.7 > found["0.5"]
    assert [row["images"] for row in rows] == [600] * 3


def test_accuracies_are_of_one_study_for_each_number_of_sites_seed_and_epsilon(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(dp, "figures", lambda options: asked.append(dp.compose_study(options)) or {"accuracy": 0.5})
    wanted = ["datasets=digits", "epsilons=real,10", "sites=1,3", "seeds=0", "student.steps=7"]
    dp.main([f"out={tmp_path}/accuracy.json", *wanted])
    rows = json.loads((tmp_path / "accuracy.json").read_text())["rows"]
    assert [(row["sites"], row["epsilon"]) for row in rows] == [(1, "real"), (1, "10"), (3, "real"), (3, "10")]
    real, private = asked[:2]
    assert (real.strategy.compare, real.strategy.steps, real.privacy.guaranteed) == (["centralised"], 7, False)
    assert (private.strategy.compare, private.privacy.epsilon, private.privacy.mode) == (["fedkr"], 10.0, "dp")
    assert [study.partition.kind for study in asked] == ["iid", "iid", "dirichlet", "dirichlet"]
    assert not any(study.audit.enabled for study in asked)
