"""A message that asks for more than its study, which is what the site's engineer approved."""

import math

import pytest

from fedkr import wire
from sites.asked import check_settings
from sites.policy import PolicyError

ROUND = {"server-round": 3, "local-epochs": 5, "lr": 0.05, "candidate": "lr=0.1", "proximal-mu": 0.01}


@pytest.fixture
def asked(study):
    study.strategy.compare = ["fedavg", "fedprox"]
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
    ],
)
def test_what_the_study_does_not_say_is_refused_by_name(asked, message_type, settings, named):
    with pytest.raises(PolicyError, match=named):
        check_settings(message_type, settings, asked)


@pytest.mark.parametrize("message_type", [wire.AUDIT, wire.REFERENCES, wire.COMPARE])
def test_a_study_without_an_audit_is_not_audited(asked, message_type):
    asked.audit.enabled = False
    with pytest.raises(PolicyError, match=r"audit\.enabled=false"):
        check_settings(message_type, {}, asked)
