import math

import numpy as np
import pytest

from fedkr.audit.attacks.thresholds import SIGNALS, attack_score, log_odds
from fedkr.config import THRESHOLD_ATTACKS
from fedkr.errors import UserError


@pytest.fixture
def outputs():
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (40, 5)).astype(np.float32), rng.integers(0, 5, 40)


def softmax(row):
    exponentials = [math.exp(z) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def test_every_attack_of_the_config_is_registered():
    assert set(SIGNALS) == set(THRESHOLD_ATTACKS)


def test_modified_entropy_equals_the_papers_formula_in_a_loop(outputs):
    logits, labels = outputs
    expected = []
    for row, y in zip(logits.astype(float), labels, strict=True):
        p = softmax(row)
        entropy = -(1 - p[y]) * math.log(p[y])
        for k, p_k in enumerate(p):
            if k != y:
                entropy -= p_k * math.log(1 - p_k)
        expected.append(-entropy)
    np.testing.assert_allclose(attack_score("modified-entropy", logits, labels), expected, rtol=1e-9)


def test_loss_confidence_and_margin_equal_their_formulas_in_a_loop(outputs):
    logits, labels = outputs
    for i, (row, y) in enumerate(zip(logits.astype(float), labels, strict=True)):
        p = softmax(row)
        assert attack_score("loss", logits, labels)[i] == pytest.approx(math.log(p[y]), rel=1e-9)
        assert attack_score("confidence", logits, labels)[i] == pytest.approx(math.log(max(p) / (1 - max(p))), rel=1e-6)
        others = [z for k, z in enumerate(row) if k != y]
        assert attack_score("logit-margin", logits, labels)[i] == pytest.approx(row[y] - max(others), rel=1e-9)


@pytest.mark.parametrize("name", SIGNALS)
def test_extreme_logits_still_give_finite_scores_in_the_right_order(name):
    logits = np.array([[900, 0, -900], [50, 0, 0], [40, 0, 0], [1, 0, 0]], np.float32)
    result = attack_score(name, logits, np.zeros(4, np.int64))
    assert np.isfinite(result).all()
    assert (np.diff(result[1:]) < 0).all()


def test_log_odds_add_up_where_one_class_has_all_the_probability():
    assert log_odds(np.array([[1000.0, 0.0]])).tolist() == [[1000.0, -1000.0]]


@pytest.mark.parametrize(
    ("name", "logits", "words"),
    [
        ("los", np.zeros((2, 3)), "did you mean 'loss'"),
        ("loss", np.zeros((2, 1)), "2 or more classes"),
        ("loss", np.array([[0.0, np.nan], [0.0, 1.0]]), "diverged"),
    ],
)
def test_bad_input_is_named(name, logits, words):
    with pytest.raises(UserError, match=words):
        attack_score(name, logits, np.zeros(2, np.int64))
