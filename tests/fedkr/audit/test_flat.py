import dataclasses
import math

import numpy as np
import pytest

from fedkr.audit.attacks.with_references import reference_signals
from fedkr.audit.challenge import candidates, site_challenge, site_population
from fedkr.audit.flat import from_metrics, to_metrics
from fedkr.audit.names import AUDIT_METRICS, longest_list, metric_names
from fedkr.audit.run import audit_model, report_from_scores
from fedkr.config import ATTACKS, AUDIT_TARGETS, RELEASE_ATTACKS, AuditConfig
from fedkr.errors import UserError

CONFIG = AuditConfig(
    attacks=list(ATTACKS),
    headline="rmia",
    targets=list(AUDIT_TARGETS),
    bootstrap=20,
    canaries=20,
    coins=True,
    direct_references=4,
)


@pytest.fixture(scope="module")
def report(make_world):
    """Everything that an audit can hold, and class c with too few members for a figure."""
    world = make_world(members=60, nonmembers=110, canaries=20)
    world.labels[:60] %= 2
    challenge = site_challenge(world.data)
    population = site_population(world.data, challenge)
    signals = [
        reference_signals(world.references(4), candidates(challenge), population, 1, "none", kind, kind == "direct")
        for kind in ("direct", "pipeline")
    ]
    arguments = {"target": "student", "site": "st-mary", "config": CONFIG, "seed": 0}
    return audit_model(world.target(), challenge, **arguments, references=signals, population=population)


def read(metrics, target="student", config=CONFIG):
    return from_metrics(metrics, target, "st-mary", config)


def test_a_report_survives_the_trip_without_its_scores(report):
    returned = read(to_metrics(report) | {"seconds": 3.5})
    assert returned == report
    assert returned.extras() == report.extras()
    assert [row.as_row() for row in returned.rows] == [row.as_row() for row in report.rows]
    assert report.scores and not returned.scores and not returned.canary_scores
    assert report.per_class[2] is None and report.per_class[0] is not None


def test_a_report_of_threshold_attacks_and_one_without_a_bound_survive_too(report):
    bare = dataclasses.replace(
        report, rows=[r for r in report.rows if r.references == "none"], canaries=[], per_class=[], epsilon=None,
        epsilon_reason="the headline attack had no reference models",
    )  # fmt: skip
    assert read(to_metrics(bare)) == bare


def test_a_release_report_survives_and_quotes_its_own_headline(make_world):
    world = make_world(canaries=20)
    challenge = site_challenge(world.data)
    scores = {name: world.rng.normal(size=150) for name in RELEASE_ATTACKS}
    where = {"target": "release", "site": "st-mary", "config": CONFIG, "seed": 0}
    report = report_from_scores(scores, challenge, **where)
    assert report.headline.attack == "distance-features"
    assert {row.adversary for row in report.rows} == {"server"}
    assert read(to_metrics(report), "release") == report


def test_the_largest_audit_has_fewer_than_512_metrics_and_all_of_known_names(report):
    metrics = to_metrics(report)
    assert len(metrics) < 512
    assert set(metrics) <= metric_names(CONFIG)
    assert all(AUDIT_METRICS.fullmatch(name) for name in metric_names(CONFIG))
    assert {name for name in metrics if name.startswith("epsilon/")} == {
        "epsilon/coins", "epsilon/guesses", "epsilon/correct",
    }  # fmt: skip


def test_no_metric_is_as_long_as_the_challenge_set(report):
    for name, value in to_metrics(report).items():
        length = len(value) if isinstance(value, list) else 0
        assert length <= longest_list(name, 3) <= 60, name
        numbers = value if isinstance(value, list) else [value]
        assert all(type(number) in (int, float) and math.isfinite(number) for number in numbers), name


@pytest.mark.parametrize(
    "name",
    [
        "loss/score",
        "loss@direct/auc",
        "rmia/auc",
        "rmia@indirect/auc",
        "canary:canary:loss/auc",
        "loss/tpr-at-fpr-0.0112345678901",
        "epsilon/scores",
        "epsilon/coins/auc",
        "loss/auc\n",
    ],
)
def test_other_names_are_none_of_an_audit(name):
    assert not AUDIT_METRICS.fullmatch(name)


def test_names_depend_on_the_options_of_the_study():
    light = metric_names(AuditConfig(targets=["student"]))
    assert "loss/auc" in light and "loss/tpr-at-fpr-0.001-low" in light
    assert not {"rmia@direct/auc", "loss/tpr-at-fpr-0.5", "canary:loss/auc", "domias/auc"} & light
    assert {"rmia@pipeline/auc", "canary:rmia@direct/auc", "domias/auc"} <= metric_names(CONFIG)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss/auc": None}, "loss/auc is missing"),
        ({"loss/auc": 7.0}, "loss/auc=7.0"),
        ({"loss/auc": float("nan")}, "between 0 and 1"),
        ({"loss/auc": True}, "between 0 and 1"),
        ({"loss/auc-low": 0.9, "loss/auc-high": 0.1}, "lower limit 0.9"),
        ({"loss/members": 1.5}, "count"),
        ({"loss/nonmembers": 0}, "count"),
        ({"rmia@direct/auc": None}, "rmia@direct/auc is missing"),
        ({"rmia@direct/others": 2}, "count between 0 and 1"),
        ({"rmia@direct/roc-tpr": [0.5, 0.1]}, "no axis"),
        ({"rmia@direct/roc-tpr": [0.5]}, "no axis"),
        ({"rmia@direct/roc-tpr": [0.5] * 61}, "at most 60"),
        ({"rmia@direct/roc-tpr": 0.5}, "list"),
        ({"rmia@pipeline/class-auc": [0.5, 0.5]}, "different lengths"),
        ({"rmia@pipeline/class-auc": [0.5, 0.5, 0.5]}, "class 2"),
        ({"rmia@pipeline/class-auc": [0.5] * 1001}, "at most 1000"),
        ({"canary:loss/members": None}, "canary:loss/members is missing"),
        ({"epsilon/correct": 10**6}, "count"),
        ({"epsilon/reason": 9}, "count"),
        ({"loss/tpr-at-fpr-0.5": 0.5}, "no metric of this study"),
    ],
)
def test_a_reply_that_is_no_audit_is_refused(report, change, words):
    metrics = {k: v for k, v in (to_metrics(report) | change).items() if v is not None}
    with pytest.raises(UserError, match=words) as error:
        read(metrics)
    assert "audit of student at st-mary" in str(error.value)


def test_a_bound_is_worked_out_anew_from_its_counts(report):
    scores = dict(to_metrics(report)) | {"epsilon/coins": 100, "epsilon/guesses": 100, "epsilon/correct": 100}
    bound = read(scores).epsilon
    assert bound.epsilon == bound.largest == pytest.approx(math.log(0.05**0.01 / (1 - 0.05**0.01)), abs=0.2)
    assert np.isfinite(bound.epsilon)
