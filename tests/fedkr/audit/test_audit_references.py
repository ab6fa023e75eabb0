import dataclasses

import pytest

from fedkr.audit.attacks.with_references import reference_signals
from fedkr.audit.challenge import candidates, site_challenge, site_population
from fedkr.audit.run import audit_model
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
                world.references(8, lift), candidates(challenge), population, 2, "none", kind, kind == "direct"
            )
            for kind in kinds
        ]
        arguments = {"target": target, "site": "st-mary", "config": config, "seed": 0}
        return audit_model(predict, challenge, **arguments, references=signals, population=population)

    return audit


@pytest.fixture(scope="module")
def full(audit):
    return audit()


def test_reference_attacks_run_once_for_each_kind_and_the_others_once(full):
    expected = ["loss", *(f"{name}@{kind}" for name in REFERENCE_ATTACKS for kind in ("direct", "pipeline"))]
    assert [row.key for row in full.rows] == expected
    assert {(row.references, row.others) for row in full.rows} == {
        ("none", None),
        ("direct", True),
        ("pipeline", False),
    }


def test_calibration_by_references_finds_members_that_the_loss_cannot_see(full):
    aucs = {row.key: row.metrics.auc for row in full.rows}
    assert aucs["loss"] < 0.65
    for name in REFERENCE_ATTACKS:
        assert aucs[f"{name}@direct"] > 0.75, name


def test_a_target_that_trained_on_nothing_is_not_found(audit):
    for row in audit(lift=0.0).rows:
        assert row.metrics.auc_low <= 0.5, row.key


def test_the_headline_row_has_the_strongest_references_at_hand(full, audit):
    assert full.headline.key == "rmia@pipeline"
    assert audit(("direct",)).headline.key == "rmia@direct"
    assert sum(row.headline for row in full.rows) == 1


def test_without_references_their_attacks_are_skipped_and_nothing_is_the_headline(audit):
    report = audit(())
    assert [row.key for row in report.rows] == ["loss"]
    assert report.headline is None and report.per_class == []
    assert (report.epsilon, report.epsilon_reason) == (None, "the headline attack had no reference models")


def test_the_adversary_is_the_one_who_sees_the_target(audit):
    config = dataclasses.replace(CONFIG, attacks=["loss"], headline="loss")
    for target, adversary in {
        "student": "outsider", "fedavg": "outsider", "centralised": "outsider", "site-student": "server",
        "update": "server", "teacher": "owner", "local": "owner",
    }.items():  # fmt: skip
        assert audit((), target, config=config).rows[0].as_row()["adversary"] == adversary


def test_threshold_attacks_give_the_same_figures_with_and_without_references_and_canaries(full, audit):
    config = dataclasses.replace(CONFIG, attacks=list(THRESHOLD_ATTACKS), headline="loss")
    assert audit((), config=config).rows[0].metrics == full.rows[0].metrics
    # Other canaries mean other random draws of the world, so that only the counts can be compared.
    bare = audit((), config=config, canaries=0).rows[0].metrics
    assert (bare.members, bare.nonmembers) == (full.rows[0].metrics.members, full.rows[0].metrics.nonmembers)


def test_scores_are_of_the_natural_images_and_those_of_the_canaries_stand_apart(full):
    assert set(full.scores) == {row.key for row in full.rows} == set(full.canary_scores)
    assert {len(scores) for scores in full.scores.values()} == {130}
    assert {len(scores) for scores in full.canary_scores.values()} == {30}


def test_planted_canaries_are_told_from_those_left_out(full):
    row = next(row for row in full.canaries if row.key == "rmia@pipeline").as_canary_row()
    assert row["included"] + row["excluded"] == 30
    assert row["auc"] > 0.7 and row["auc_low"] > 0.5
    assert row["tpr_at_fpr_0.01"] is None


def test_the_canaries_coins_bound_epsilon_and_their_number_fixes_the_guesses(full):
    assert (full.epsilon.coins, full.epsilon.guesses, full.epsilon.delta) == (30, 3, CONFIG.delta)


def test_extras_are_rows_of_plain_values_with_their_target_and_site(full):
    extras = full.extras()
    assert {name: len(rows) for name, rows in extras.items()} == {"canaries": 13, "per_class": 1, "epsilon": 1}
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
    signals = reference_signals(world.references(8), candidates(challenge), population, 1, "none", "direct", False)
    arguments = {"target": "student", "site": "st-mary", "config": CONFIG, "seed": 0, "references": [signals]}
    with pytest.raises(UserError, match="audit of student at st-mary: reference attacks: no population"):
        audit_model(world.target(), challenge, **arguments)
    with pytest.raises(UserError, match="audit of student at st-mary: reference models: answered on views"):
        audit_model(world.target(), challenge, **arguments, population=population)


def test_the_null_interval_of_the_headline_covers_one_half(make_world):
    config = dataclasses.replace(CONFIG, attacks=["rmia"], queries=1, canaries=0)
    covered = 0
    for seed in range(20):
        world = make_world(seed)
        challenge = site_challenge(world.data)
        population = site_population(world.data, challenge)
        signals = reference_signals(world.references(4), candidates(challenge), population, 1, "none", "direct", False)
        arguments = {"target": "student", "site": "st-mary", "config": config, "seed": seed}
        predict = world.target(lift=0.0)
        metrics = (
            audit_model(predict, challenge, **arguments, references=[signals], population=population).rows[0].metrics
        )
        covered += metrics.auc_low <= 0.5 <= metrics.auc_high
    assert covered >= 17
