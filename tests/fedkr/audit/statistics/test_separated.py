"""The interval of an AUC whose two sides lie apart."""

import numpy as np
import pytest

from fedkr.audit.statistics.membership import membership_figures
from fedkr.audit.statistics.separated import STANDARD_ERRORS, least_auc


def figures(members, nonmembers, groups=(None, None)):
    return membership_figures(members, nonmembers, fprs=[], bootstrap=50, seed=0, groups=groups)


def test_a_handful_of_images_that_an_attack_separates_do_not_show_a_perfect_attack():
    few, many = figures(np.arange(4.0) + 10, np.arange(4.0)), figures(np.arange(400.0) + 1000, np.arange(400.0))
    assert few["auc"] == many["auc"] == few["auc_high"] == many["auc_high"] == 1.0
    assert few["auc_low"] == least_auc(4, 4) < 0.75 < 0.99 < many["auc_low"] < 1
    other = figures(np.arange(4.0), np.arange(4.0) + 10)
    assert (other["auc_low"], other["auc"], other["auc_high"]) == (0.0, 0.0, 1 - least_auc(4, 4))


def test_images_of_one_patient_count_once():
    groups = np.repeat(np.arange(4), 100)
    found = figures(np.arange(400.0) + 1000, np.arange(400.0), (groups, groups))
    assert found["auc_low"] == least_auc(4, 4)


@pytest.mark.parametrize(("members", "nonmembers"), [(2, 2), (5, 20), (300, 150)])
def test_the_limit_is_as_far_from_1_as_its_own_standard_errors_reach(members, nonmembers):
    auc, others = least_auc(members, nonmembers), (members + nonmembers) / 2 - 1
    variance = auc * (1 - auc) * (1 + others * (1 - auc) / (2 - auc) + others * auc / (1 + auc)) / members / nonmembers
    assert 1 - auc == pytest.approx(STANDARD_ERRORS * variance**0.5, abs=1e-6)


# Of two normal distributions whose means are so far apart: AUC = Phi(shift / sqrt 2).
@pytest.mark.parametrize(("shift", "true"), [(1.8124, 0.9), (2.6598, 0.97)])
def test_a_true_auc_that_often_looks_perfect_lies_within_the_interval(shift, true):
    rng = np.random.default_rng(0)
    looks = [(rng.normal(shift, 1, 6), rng.normal(0, 1, 6)) for _ in range(400)]
    apart = [pair for pair in looks if pair[0].min() > pair[1].max()]
    assert len(apart) > 50
    found = [figures(*pair) for pair in looks]
    assert 0.9 <= np.mean([row["auc_low"] <= true <= row["auc_high"] for row in found]) <= 1


def test_a_wrong_pair_leaves_no_narrower_interval_than_none():
    for count in (4, 100):
        apart, nearly = np.arange(float(count)) + 1000, np.arange(float(count))
        wrong = nearly.copy()
        wrong[-1] = 1000.5
        assert figures(apart, wrong)["auc_low"] <= figures(apart, nearly)["auc_low"] < 1


def test_rates_of_none_and_of_all_have_the_limits_of_so_many_members():
    found = membership_figures(np.arange(100.0) + 1000, np.arange(200.0), fprs=[0.01], bootstrap=50, seed=0)
    assert found["tpr_at_fpr_0.01"] == 1.0 and found["tpr_at_fpr_0.01_low"] == pytest.approx(0.9638, abs=1e-4)
    none = membership_figures(np.arange(100.0), np.arange(200.0) + 1000, fprs=[0.01], bootstrap=50, seed=0)
    assert none["tpr_at_fpr_0.01"] == 0.0 and none["tpr_at_fpr_0.01_high"] == pytest.approx(0.0362, abs=1e-4)
