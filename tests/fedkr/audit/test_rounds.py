"""A site's rounds of weight sharing: which are kept, how they travel, and that they are attacked together."""

import dataclasses

import pytest
import torch
from torch import nn

from fedkr.audit.challenge import site_challenge, site_population
from fedkr.audit.document import AuditQuestion, audit_document, keyed
from fedkr.audit.rounds import MOST_ROUNDS, Pool, PooledRounds, SeenRound, packed, spaced, unpacked
from fedkr.audit.run import AskedRounds, Knowledge, audit_model
from fedkr.audit.subject import Subject
from fedkr.audit.targets import row_names
from fedkr.audit.verdict import site_verdicts
from fedkr.config import AuditConfig
from fedkr.errors import UserError

CONFIG = AuditConfig(attacks=["loss", "label-only"], headline="loss", bootstrap=60)


def weights(value):
    return {"layer.weight": torch.full((2, 2), float(value)), "layer.bias": torch.zeros(2)}


@pytest.mark.parametrize(("count", "kept"), [(1, [1]), (3, [1, 2, 3]), (8, [*range(1, 9)]), (15, [*range(1, 16, 2)])])
def test_few_rounds_evenly_spaced_are_kept_however_many_there_are(count, kept):
    assert spaced(range(1, count + 1)) == kept


def test_the_last_round_is_always_kept_and_the_number_never_grows():
    for count in range(1, 300):
        chosen = spaced(range(1, count + 1))
        assert chosen[-1] == count and len(chosen) == len(set(chosen)) == min(count, MOST_ROUNDS)


def test_rounds_come_back_in_order_as_they_were_packed():
    rounds = {12: SeenRound(weights(3), weights(4)), 2: SeenRound(weights(1), weights(2))}
    first, second = unpacked(packed(rounds))
    assert [float(each["layer.weight"][0, 0]) for each in (first.before, first.after)] == [1, 2]
    assert [float(each["layer.weight"][0, 0]) for each in (second.before, second.after)] == [3, 4]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "one at least"),
        ({"layer.weight": torch.zeros(1)}, "names no tensor of a round's models"),
        ({"0.before.x": torch.zeros(1)}, "names no tensor"),
        ({"1.within.x": torch.zeros(1)}, "names no tensor"),
        ({"1.before.x\n": torch.zeros(1)}, "names no tensor"),
        ({"9999999.before.x": torch.zeros(1)}, "names no tensor"),
        ({"1.before.x": torch.zeros(1)}, "a model before it and one after it"),
        (packed({number: SeenRound(weights(0), weights(1)) for number in range(1, MOST_ROUNDS + 2)}), "more than 8"),
    ],
)
def test_what_are_no_rounds_is_refused_in_one_line(changed, words):
    with pytest.raises(UserError, match=words) as refusal:
        unpacked(changed)
    assert "\n" not in str(refusal.value)


class Fixed(nn.Module):
    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, images):
        return self.logits.expand(len(images), -1)


def test_a_pool_answers_with_the_mean_of_its_models_logits():
    pool = Pool([Fixed(0.0, 2.0), Fixed(4.0, 0.0)])
    assert pool(torch.zeros(3, 1, 2, 2)).tolist() == [[2.0, 1.0]] * 3
    seen = PooledRounds([Fixed(0.0, 0.0)], [Fixed(1.0, 3.0)])
    assert seen(torch.zeros(1, 1, 2, 2)).tolist() == [[1.0, 3.0]]
    assert seen.before(torch.zeros(1, 1, 2, 2)).tolist() == [[0.0, 0.0]]


def audit(world, before, after, config=CONFIG):
    challenge = site_challenge(world.data)
    subject = Subject("fedavg-rounds", "st-mary", challenge, config, 0, "rounds")
    return audit_model(AskedRounds(before, after), subject, Knowledge((), site_population(world.data, challenge)))


def test_what_the_rounds_changed_gives_members_away_that_their_level_hides(make_world):
    world = make_world(members=200, nonmembers=200, population=100)
    found = keyed(audit(world, world.target(lift=0.0), world.target(lift=3.5)).rows)
    # No label-only, which would ask each model dozens of times.
    assert list(found) == ["loss", "round-gain"]
    assert found["round-gain"]["auc"] > 0.9 and found["loss"]["auc"] < 0.72
    assert found["loss"]["adversary"] == "server" and found["loss"]["headline"] == 1


def test_rounds_that_change_nothing_give_nothing_away(make_world):
    world = make_world(members=200, nonmembers=200, population=100)
    model = world.target(lift=3.5)
    seen = {}

    def same(images):
        # The world's models draw their noise anew each time.
        key = images.tobytes()
        return seen.setdefault(key, model(images))

    found = keyed(audit(world, same, same).rows)
    assert found["round-gain"]["auc"] == 0.5 < found["loss"]["auc_low"]


def test_the_document_of_rounds_has_their_own_attack_and_other_targets_do_not(make_world):
    world = make_world()
    document = audit_document(audit(world, world.target(lift=0.0), world.target()))
    question = AuditQuestion("fedavg-rounds", "rounds", 3, CONFIG)
    question.check("st-mary", document)
    with pytest.raises(UserError, match="kind"):
        dataclasses.replace(question, kind="update").check("st-mary", document)
    document["audit"] = [row for row in document["audit"] if row["attack"] != "round-gain"]
    with pytest.raises(UserError, match="expected each once"):
        question.check("st-mary", document)
    assert ("round-gain", "none") not in row_names("update", CONFIG.attacks)


def test_rounds_pass_only_where_what_they_changed_shows_nothing_either():
    limits = {"auc": 0.5, "auc_low": 0.48, "auc_high": 0.52, "members": 2000, "nonmembers": 2000}
    tpr = {"tpr_at_fpr_0.01": 0.0105, "tpr_at_fpr_0.01_low": 0.004, "tpr_at_fpr_0.01_high": 0.018}
    about = {"site": "a", "references": "direct", "headline": 0, **limits, **tpr}
    of_rounds = {"target": "fedavg-rounds", "kind": "rounds", **about}
    rows = [
        {"target": "teacher", **about, "attack": "rmia", "headline": 1, "auc": 0.8, "auc_low": 0.78, "auc_high": 0.82},
        {**of_rounds, "attack": "rmia", "headline": 1},
        {**of_rounds, "attack": "lira-online"},
        {**of_rounds, "attack": "round-gain", "references": "none"},
    ]
    verdicts = {each.target: each for each in site_verdicts(rows)}
    assert verdicts["fedavg-rounds"].verdict == "no leakage found"
    rows[-1] |= {"auc": 0.56, "auc_low": 0.54, "auc_high": 0.58}
    verdicts = {each.target: each for each in site_verdicts(rows)}
    assert verdicts["fedavg-rounds"].verdict == "cannot tell" and "round-gain" in verdicts["fedavg-rounds"].reason
