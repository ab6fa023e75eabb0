"""A message that asks for more than its study, which is what the site's engineer approved."""

import dataclasses
import json
import math

import pytest

from fedkr import wire
from fedkr.errors import UserError
from sites.asked import check_settings
from sites.policy import PolicyError

ROUND = {"server-round": 3, "local-epochs": 5, "lr": 0.05, "candidate": "lr=0.1", "proximal-mu": 0.01}


def pairs(count=1, **names):
    known = dict.fromkeys(("attack", "references", "target", "about", "other", "other_about"), "a")
    return json.dumps([known | names] * count)


def comparing(study, compare):
    return dataclasses.replace(study, strategy=dataclasses.replace(study.strategy, compare=compare))


@pytest.fixture
def asked(study):
    study.strategy.compare = ["fedavg", "fedprox", "fedkr"]
    study.strategy.rounds, study.strategy.local_epochs = 20, [2, 5]
    study.strategy.options = {"fedprox": {"proximal_mu": 0.01, "lrs": [0.2]}}
    study.recycle.exchange = "each"
    return study


@pytest.mark.parametrize(
    ("message_type", "settings"),
    [
        (wire.RELEASE, {"round": 2}),
        (wire.TRAIN, ROUND),
        (wire.TRAIN, ROUND | {"lr": 0.2, "server-round": 20}),
        (wire.AUDIT, {"target": "teacher"}),
        (wire.AUDIT, {"target": "weights-fedavg", "kind": "weights"}),
        (wire.REFERENCES, {"kinds": ["teacher", "student"]}),
        (wire.COMPARE, {"pairs": "[]"}),
        (wire.DESCRIBE, {}),
        (wire.EVALUATE, {"split": "val"}),
    ],
)
def test_what_the_study_says_may_be_asked(asked, message_type, settings):
    check_settings(message_type, settings, asked)


@pytest.mark.parametrize(
    ("message_type", "settings", "named"),
    [
        # Each further round would be another release of the same generator.
        (wire.RELEASE, {"round": 3}, "round=3: the study says 1 to 2"),
        (wire.RELEASE, {"round": 0}, "round=0"),
        (wire.RELEASE, {"round": 1.5}, "round=1.5"),
        (wire.TRAIN, ROUND | {"local-epochs": 10**9}, "local-epochs=1000000000: the study says 1 to 5"),
        (wire.TRAIN, ROUND | {"server-round": 21}, "server-round=21"),
        (wire.TRAIN, ROUND | {"lr": 5.0}, "lr=5.0"),
        (wire.TRAIN, ROUND | {"lr": math.nan}, "lr=nan"),
        (wire.TRAIN, ROUND | {"lr": 10**400}, "lr=1000"),
        (wire.TRAIN, ROUND | {"lr": True}, "lr=True"),
        (wire.TRAIN, ROUND | {"proximal-mu": -1.0}, "proximal-mu=-1.0"),
        (wire.TRAIN, ROUND | {"candidate": "a" * 200}, "candidate=a"),
        (wire.AUDIT, {"target": "local"}, "target=local: not among"),
        (wire.AUDIT, {"target": "teacher\n"}, "target="),
        (wire.REFERENCES, {"kinds": ["anything"]}, "kinds="),
        (wire.REFERENCES, {"kinds": "teacher"}, "kinds="),
        (wire.REFERENCES, {"kinds": ["local"]}, "kinds="),
        # The name is one that the study audits, the kind says what is attacked.
        (wire.AUDIT, {"target": "student", "kind": "local"}, "target=student: not among .* kind local"),
        (wire.AUDIT, {"kind": "local"}, "not among .* kind local"),
        (wire.AUDIT, {"target": "teacher", "kind": "y" * 4_000_000}, "kind=y"),
        (wire.EVALUATE, {"split": "x" * 4_000_000}, "split=x"),
        (wire.EVALUATE, {"split": "train"}, "split=train: not answered; one of: test, val"),
        (wire.COMPARE, {"pairs": pairs(target="a\nERROR: forged")}, "target="),
        (wire.COMPARE, {"pairs": pairs(count=65)}, "65 pairs of targets, more than 64"),
        (wire.COMPARE, {"pairs": "[" * 100_000}, "pairs="),
    ],
)
def test_what_the_study_does_not_say_is_refused_by_name(asked, message_type, settings, named):
    with pytest.raises(UserError, match=named) as raised:
        check_settings(message_type, settings, asked)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("message_type", "compare"),
    [(wire.TRAIN, ["local", "fedkr"]), (wire.LOCAL, ["fedkr", "fedavg"]), (wire.RELEASE, ["local", "fedprox"])],
)
def test_a_message_that_no_contestant_of_the_study_sends_is_refused(asked, message_type, compare):
    settings = ROUND | {"round": 1}
    check_settings(message_type, settings, comparing(asked, ["fedavg", "local", "fedkr"]))
    with pytest.raises(PolicyError, match=r"no contestant of strategy\.compare"):
        check_settings(message_type, settings, comparing(asked, compare))


def test_a_contestant_of_another_package_may_send_whatever_contestants_send(asked):
    asked.strategy.options = {"mine": {"kind": "my.package", "proximal_mu": 0.01}}
    for message_type in (wire.TRAIN, wire.LOCAL, wire.RELEASE):
        check_settings(message_type, ROUND | {"round": 1}, comparing(asked, ["mine"]))


@pytest.mark.parametrize("kind", ["server.strategies.local", "server.strategies.fedkr", "fedkr", "fedkr_ft"])
def test_a_contestant_of_fedkrs_own_is_asked_for_nothing_that_it_does_not_do_by_whatever_name(asked, kind):
    asked.strategy.options = {"mine": {"kind": kind}}
    with pytest.raises(PolicyError, match="contestant=mine: the study says it is"):
        check_settings(wire.PERSONALISE, {"contestant": "mine"}, comparing(asked, ["fedkr", "mine"]))


def test_a_study_that_audits_a_contestant_has_only_shared_models_audited(asked):
    asked.audit.targets = ["fedavg"]
    check_settings(wire.AUDIT, {"target": "fedavg", "kind": "weights"}, asked)
    for kind in ("teacher", "local", "release", "update", "rounds"):
        with pytest.raises(PolicyError, match=f"not among .* kind {kind}"):
            check_settings(wire.AUDIT, {"target": "fedavg", "kind": kind}, asked)


@pytest.mark.parametrize("message_type", [wire.AUDIT, wire.REFERENCES, wire.COMPARE])
def test_a_study_without_an_audit_is_not_audited(asked, message_type):
    asked.audit.enabled = False
    with pytest.raises(PolicyError, match=r"audit\.enabled=false"):
        check_settings(message_type, {}, asked)
