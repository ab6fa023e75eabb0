"""How often verdicts are wrong, in a few simulated audits: the command counts in thousands."""

import json

import numpy as np
import pytest

from fedkr.audit.claims import tpr_claim
from fedkr.audit.statistics.membership import ENDS, guessing_tpr, membership_figures
from fedkr.audit.verdict import NONE_FOUND
from simulations.evidence import verdicts


def test_plain_figures_are_those_of_an_audit():
    rng = np.random.default_rng(0)
    sides = rng.normal(0.3, 1, (3, 250)), rng.normal(size=(3, 200))
    for found, *scores in zip(verdicts.plain_figures(*sides), *sides, strict=True):
        audited = membership_figures(*scores, fprs=[0.01], bootstrap=200, seed=0)
        for name in ("auc", "tpr_at_fpr_0.01", "members", "nonmembers"):
            assert found[name] == pytest.approx(audited[name], abs=1e-12)
        assert found["auc_low"] == pytest.approx(audited["auc_low"], abs=0.02)


def test_guessing_has_the_tpr_that_is_said_to_be_its_expectation():
    rng = np.random.default_rng(1)
    rates = [row["tpr_at_fpr_0.01"] for row in verdicts.plain_figures(*rng.normal(size=(2, 4000, 100)))]
    assert guessing_tpr(0.01, 100) == pytest.approx(2 / 101)
    # The standard error of the mean of 4,000 is about 0.0003.
    assert np.mean(rates) == pytest.approx(guessing_tpr(0.01, 100), abs=0.0015)


def test_the_exact_test_of_a_tpr_rejects_no_more_often_than_it_says():
    rng = np.random.default_rng(2)
    found = verdicts.plain_figures(*rng.normal(size=(2, 1000, 200)))
    p_values = np.array([tpr_claim(row, [row]).p_value for row in found])
    assert np.mean(p_values <= 0.05) <= 0.07


def test_the_command_counts_verdicts_and_says_whether_they_are_as_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verdicts, "SITES", (2,))
    monkeypatch.setattr(verdicts, "EXPOSED", (0.0, 0.03))
    monkeypatch.setattr(verdicts, "BOOTSTRAP", 40)
    verdicts.main([f"out={tmp_path / 'verdicts.json'}", "alarms=3", "power=2", "members=1000,200"])
    found = json.loads((tmp_path / "verdicts.json").read_text())
    (alarms,), (nothing, exposed, *few) = found["false alarms"], found["power"]
    assert [row["members"] for row in few] == [200, 200]
    assert alarms["leakage found"]["either"]["count"] < 3 and alarms["leakage found"]["either"]["high"] > 0.5
    assert exposed["verdicts"][NONE_FOUND]["count"] == 0 and sum(v["count"] for v in nothing["verdicts"].values()) == 2
    assert found["checks"]["3 % exposed pass in at most 5 % of audits"] and len(found["checks"]) == 3
    assert "exposed" in capsys.readouterr().out


def test_three_sites_together_are_accused_no_more_often_than_the_level_says_though_their_numbers_are_skew():
    rng = np.random.default_rng(3)
    sites = [verdicts.plain_figures(*rng.normal(size=(2, 2000, 300))) for _ in range(3)]
    p_values = []
    for rows in zip(*sites, strict=True):
        rates = {f"tpr_at_fpr_0.01{end}": np.mean([row["tpr_at_fpr_0.01"] for row in rows]) for end in ENDS}
        p_values.append(tpr_claim(rates, rows).p_value)
    # By a normal distribution 1.8 % of these were rejected at 1 %, and 0.4 % at 0.1 %.
    for level in (0.05, 0.01, 0.001):
        assert np.mean(np.array(p_values) <= level) <= level + 3 * np.sqrt(level / 2000)


def test_a_site_that_claims_a_million_images_is_counted_in_a_moment():
    row = {"members": 10**9, "nonmembers": 10**9} | dict.fromkeys([f"tpr_at_fpr_0.01{end}" for end in ENDS], 0.011)
    small = row | {"members": 300, "nonmembers": 300}
    assert 0.0 <= tpr_claim(row, [row, small, small]).p_value < 1
