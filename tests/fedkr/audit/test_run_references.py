import dataclasses

import pytest

from fedkr.audit.attacks.queries import Queries
from fedkr.audit.attacks.with_references import reference_signals
from fedkr.audit.challenge import candidates, site_challenge, site_population
from fedkr.audit.document import audit_document, audit_extras, keyed
from fedkr.audit.run import Knowledge, audit_model
from fedkr.audit.statistics.fdp import epsilon_of_mu, mu_lower_bound
from fedkr.audit.subject import Subject
from fedkr.config import REFERENCE_ATTACKS, THRESHOLD_ATTACKS, AuditConfig
from fedkr.errors import UserError

CONFIG = AuditConfig(
    attacks=["loss", *REFERENCE_ATTACKS], headline="rmia", bootstrap=60, queries=2, canaries=30, direct_references=8
)


@pytest.fixture(scope="module")
def audit(make_world):
    def audit(kinds=("direct", "pipeline"), target="student", lift=2.0, config=CONFIG, canaries=30):
        world = make_world(canaries=canaries)
        challenge = site_challenge(world.data)
        population = site_population(world.data, challenge)
        predict = world.target(lift)
        signals = [
            reference_signals(
                world.references(8, lift), candidates(challenge), population, Queries(2), kind, kind == "direct"
            )
            for kind in kinds
        ]
        return audit_model(predict, Subject(target, "st-mary", challenge, config, 0), Knowledge(signals, population))

    return audit


@pytest.fixture(scope="module")
def full(audit):
    return audit()


def test_reference_attacks_run_once_for_each_kind_and_the_others_once(full):
    expected = ["loss", *(f"{name}@{kind}" for name in REFERENCE_ATTACKS for kind in ("direct", "pipeline"))]
    assert list(keyed(full.rows)) == expected
    assert {(row["references"], row["others"]) for row in full.rows} == {
        ("none", None),
        ("direct", True),
        ("pipeline", False),
    }


def test_calibration_by_references_finds_members_that_the_loss_cannot_see(full):
    aucs = {key: row["auc"] for key, row in keyed(full.rows).items()}
    assert aucs["loss"] < 0.65
    for name in REFERENCE_ATTACKS:
        assert aucs[f"{name}@direct"] > 0.75, name


def test_a_bound_on_epsilon_has_one_under_a_supposed_gaussian_mechanism_beside_it(full):
    (row,) = audit_extras(audit_document(full), CONFIG)["epsilon"]
    mu = mu_lower_bound(row["coins"], row["guesses"], row["correct"])
    assert (row["mu"], row["gaussian_epsilon"]) == (mu, epsilon_of_mu(mu, CONFIG.delta))


def test_a_target_that_trained_on_nothing_is_not_found(audit):
    for key, row in keyed(audit(lift=0.0).rows).items():
        assert row["auc_low"] <= 0.5, key


def test_the_headline_row_has_the_strongest_references_at_hand(full, audit):
    assert (full.headline["attack"], full.headline["references"]) == ("rmia", "pipeline")
    assert audit(("direct",)).headline["references"] == "direct"
    assert sum(row["headline"] for row in full.rows) == 1


def test_without_references_their_attacks_are_skipped_and_nothing_is_the_headline(audit):
    report = audit(())
    assert list(keyed(report.rows)) == ["loss"]
    assert report.headline is None and report.per_class == report.epsilon == []


def test_the_adversary_is_the_one_who_sees_the_target(audit):
    config = dataclasses.replace(CONFIG, attacks=["loss"], headline="loss")
    for target, adversary in {
        "student": "outsider", "fedavg": "outsider", "centralised": "outsider", "site-student": "server",
        "update": "server", "teacher": "owner", "local": "owner",
    }.items():  # fmt: skip
        assert audit((), target, config=config).rows[0]["adversary"] == adversary


def test_threshold_attacks_give_the_same_figures_with_and_without_references_and_canaries(full, audit):
    config = dataclasses.replace(CONFIG, attacks=list(THRESHOLD_ATTACKS), headline="loss")
    alone = audit((), config=config).rows[0]
    assert alone | {"headline": 0} == full.rows[0]
    # Other canaries mean other random draws of the world, so that only the counts can be compared.
    bare = audit((), config=config, canaries=0).rows[0]
    assert [bare[name] for name in ("members", "nonmembers")] == [alone[name] for name in ("members", "nonmembers")]


def test_scores_are_of_the_natural_images_and_those_of_the_canaries_stand_apart(full):
    assert set(full.scores) == set(keyed(full.rows)) == set(full.canary_scores)
    assert {len(scores) for scores in full.scores.values()} == {130}
    assert {len(scores) for scores in full.canary_scores.values()} == {30}


def test_planted_canaries_are_told_from_those_left_out(full):
    row = keyed(full.canaries)["rmia@pipeline"]
    assert row["included"] + row["excluded"] == 30
    assert row["auc"] > 0.7 and row["auc_low"] > 0.5
    assert row["tpr_at_fpr_0.01"] is None


def test_the_canaries_coins_bound_epsilon_and_their_number_fixes_the_guesses(full):
    (row,) = audit_extras(audit_document(full), CONFIG)["epsilon"]
    assert (row["coins"], row["guesses"], row["delta"]) == (30, 15, CONFIG.delta)


def test_extras_are_rows_of_plain_values_with_their_target_and_site(full):
    extras = audit_extras(audit_document(full), CONFIG)
    counts = {"canaries": 1 + 2 * len(REFERENCE_ATTACKS), "per_class": 1, "epsilon": 1}
    counts |= {"patients": 0, "two_sample": 0, "copies": 0}
    assert {name: len(rows) for name, rows in extras.items()} == counts
    where = {"target": "student", "site": "st-mary", "attack": "rmia", "references": "pipeline"}
    for name in ("per_class", "epsilon"):
        assert extras[name][0].items() >= where.items()
    classes = extras["per_class"][0]
    assert classes["classes"] == [0, 1, 2] and len(classes["auc"]) == len(classes["low"]) == 3
    assert extras["epsilon"][0]["coins"] == 30


def test_what_does_not_fit_is_named_by_target_and_site(make_world):
    world = make_world()
    challenge = site_challenge(world.data)
    population = site_population(world.data, challenge)
    signals = reference_signals(world.references(8), candidates(challenge), population, Queries(), "direct", False)
    subject = Subject("student", "st-mary", challenge, CONFIG, 0)
    with pytest.raises(UserError, match="audit of student at st-mary: references and quantile: no population"):
        audit_model(world.target(), subject, Knowledge([signals]))
    with pytest.raises(UserError, match="audit of student at st-mary: reference models: answered on views"):
        audit_model(world.target(), subject, Knowledge([signals], population))


def test_the_null_interval_of_the_headline_covers_one_half(make_world):
    config = dataclasses.replace(CONFIG, attacks=["rmia"], queries=1, canaries=0)
    covered = 0
    for seed in range(20):
        world = make_world(seed)
        challenge = site_challenge(world.data)
        population = site_population(world.data, challenge)
        signals = reference_signals(world.references(4), candidates(challenge), population, Queries(), "direct", False)
        subject = Subject("student", "st-mary", challenge, config, seed)
        row = audit_model(world.target(lift=0.0), subject, Knowledge([signals], population)).rows[0]
        covered += row["auc_low"] <= 0.5 <= row["auc_high"]
    assert covered >= 17
