"""Personalised models at a site: what is brought is checked, the model stays, and what leaves is the policy's."""

import dataclasses
import json
import time

import numpy as np
import pytest
from flwr.app import Message, Metadata

from fedkr import wire
from fedkr.data.images import Shape
from fedkr.documents import check_choice
from fedkr.errors import UserError
from fedkr.learning.models import build_classifier
from fedkr.recycle.aggregate import Choice
from fedkr.release import ReleasedSets, SoftSet
from sites import personal
from sites.accounting import Account
from sites.asked import check_settings
from sites.handlers import HANDLERS
from sites.naming import personal_name
from sites.policy import PolicyError, check_reply
from sites.promises import check_promises
from sites.workspace import open_site, read_site_file

EXACT = {"exact_counts": True}
TOLD = {"how": "val", "judged": 80, "own": 0.5, "candidates": []}
CHOSEN = Choice("cross-validation", 80, 0.5, {"b": 0.75, "c": 0.5}, ("b",))


@pytest.fixture
def study(study):
    study.strategy.compare = ["local", "fedkr-dda", "fedkr+ft"]
    study.strategy.options = {"fedkr-dda": {"kind": "fedkr_dda"}, "fedkr+ft": {"kind": "fedkr_ft"}}
    return study


@pytest.fixture
def site(hospital, study):
    return lambda study=study, **policy: open_site({"site-file": str(hospital(**policy))}, study)


def sets(seed=0, sizes=(4, 4)):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (sum(sizes), 8, 8, 1), dtype=np.uint8)
    return ReleasedSets.of_arrays(images, np.full((sum(sizes), 3), 1 / 3, np.float16), sizes)


def offer(study, offered, contestant="fedkr-dda"):
    return arrived(wire.offer_content(study.to_json(), contestant, offered), wire.PERSONALISE)


def tuning(study, seed="server", contestant="fedkr+ft"):
    weights = build_classifier(study.student, Shape(1, 8, 3), seed).state_dict()
    return arrived(wire.request_content(study.to_json(), weights, contestant=contestant), wire.FINETUNE)


def arrived(content, message_type):
    names = dict.fromkeys(("message_id", "reply_to_message_id", "group_id"), "")
    metadata = Metadata(
        run_id=1, src_node_id=1, dst_node_id=2, created_at=time.time(), ttl=9.0, message_type=message_type, **names
    )
    return wire.read_request(Message(content, metadata=metadata))


@pytest.fixture
def decided(monkeypatch):
    """Let the site choose as a test says."""
    monkeypatch.setattr(
        "fedkr.recycle.personal.Aggregation.choose", lambda self, keep: dataclasses.replace(CHOSEN, chosen=())
    )


def test_an_offer_comes_back_as_it_was_sent(site, study):
    sent = {"b": sets(1), "c": sets(2, (3,))}
    found = personal.received_offer(site(), offer(study, sent))
    assert list(found) == ["b", "c"] and [len(each) for each in found.values()] == [2, 1]
    for name, each in sent.items():
        for index in range(len(each)):
            assert all(np.array_equal(a, b) for a, b in zip(each(index), found[name](index), strict=True))


def test_the_model_stays_and_the_answer_holds_figures_and_the_choice_alone(site, study, decided):
    opened = site(**EXACT)
    content = HANDLERS[wire.PERSONALISE](opened, offer(study, {"b": sets(1), "c": sets(2)}))
    assert set(content) == wire.REPLIES[wire.PERSONALISE]
    check_reply(opened.policy, wire.PERSONALISE, content, answers=lambda values: check_choice(["b", "c"], values))
    check_promises(opened, wire.PERSONALISE, content)
    # Nothing was chosen: these are the figures of the site's own model, whose answer alone says how it was tuned.
    own = wire.read_metrics(HANDLERS[wire.LOCAL](opened, wire.Request(study.to_json(), {}, None)))
    found = wire.read_metrics(content)
    told = {name: value for name, value in own.items() if not name.startswith("tuned/")}
    assert len(told) < len(own) and found | {"seconds": 0.0} == told | {"seconds": 0.0}


def test_a_fine_tuned_model_stays_too_and_its_figures_leave(site, study):
    opened = site(**EXACT)
    content = HANDLERS[wire.FINETUNE](opened, tuning(study))
    assert set(content) == wire.REPLIES[wire.FINETUNE]
    check_reply(opened.policy, wire.FINETUNE, content)
    assert wire.read_utility(wire.read_metrics(content), "global")["count"] == 12


def test_what_was_chosen_leaves_only_where_figures_leave_as_they_are(site):
    assert personal.public_choice(site(**EXACT), CHOSEN) == {
        "how": "cross-validation",
        "judged": 80,
        "own": 0.5,
        "candidates": [{"site": "b", "alone": 0.75, "chosen": 1}, {"site": "c", "alone": 0.5, "chosen": 0}],
    }
    withheld = {"how": "cross-validation"}
    assert personal.public_choice(site(), CHOSEN) == withheld
    assert personal.public_choice(site(min_evaluated=81, **EXACT), CHOSEN) == withheld
    assert personal.public_choice(site(**EXACT), Choice("too few images")) == {"how": "too few images"}


def reply(document):
    content = wire.metrics_reply({"seconds": 60.0})
    content[wire.CHOICE] = wire.document(document)
    return content


@pytest.mark.parametrize(
    ("policy", "document", "named"),
    [
        ({}, TOLD, "rate_step is 0"),
        (EXACT, TOLD, "not the sites whose releases were offered"),
        (EXACT, {"how": "val", "own": 0.5}, "stand together"),
        (EXACT, {"how": "by patient 17"}, "'how' is"),
        (EXACT, {"how": "val", "image": [1, 2, 3]}, "'image' is"),
        (EXACT, {"how": "val", "judged": 9, "own": 7.0, "candidates": []}, "'own' is"),
    ],
)
def test_a_choice_that_says_more_or_something_else_does_not_leave(site, policy, document, named):
    answers = (lambda values: None) if not policy else (lambda values: check_choice(["b"], values))
    with pytest.raises(PolicyError, match=named):
        check_reply(site(**policy).policy, wire.PERSONALISE, reply(document), answers=answers)


def test_a_choice_that_nobody_asked_for_does_not_leave(site):
    with pytest.raises(PolicyError, match="choice: not asked for"):
        check_reply(site(**EXACT).policy, wire.PERSONALISE, reply({"how": "val"}))


def changed(request, **settings):
    return dataclasses.replace(request, settings=request.settings | settings)


def described(*parts):
    return json.dumps({"sets": [{"site": site, "size": size} for site, size in parts]})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "missing or not JSON"),
        ("[" * 5000, "missing or not JSON"),
        ("[]", "offer: field"),
        (described(("b", 8), ("b", 0)), "offer: field 'sets.1.size'"),
        (described(("b", 8.0)), "offer: field 'sets.0.size'"),
        (described(("b", 7)), "do not fit its 8 images"),
        (described(("b", 9)), "do not fit its 8 images"),
        (described(("b", 2), ("c", 4), ("b", 2)), "do not fit its 8 images"),
        (described(("st-mary", 8)), "the offer is of 1 sites"),
        (described(("b", 2), ("c", 2), ("d", 4)), "the offer is of 3 sites, this one has federation.sites=3"),
        (described(("b", 2), ("b", 2), ("b", 4)), "3 sets, recycle.rounds=2"),
        (described(("../b", 8)), "must not begin with a dot or hold a slash"),
        (described(("b\n", 8)), "a character that cannot be printed"),
    ],
)
def test_an_offer_that_no_study_makes_is_refused_before_anything_is_trained(site, study, monkeypatch, text, named):
    monkeypatch.setattr(personal, "Personal", lambda *_: pytest.fail("trained"))
    with pytest.raises(UserError, match=named):
        personal.received_offer(site(), changed(offer(study, {"b": sets()}), offer=text))


@pytest.mark.parametrize(
    ("images", "labels", "named"),
    [
        (np.zeros((8, 9, 9, 1), np.uint8), np.full((8, 3), 1 / 3, np.float16), "images must be uint8"),
        (np.zeros((8, 8, 8, 1), np.float32), np.full((8, 3), 1 / 3, np.float16), "images must be uint8"),
        (np.zeros((8, 8, 8, 1), np.uint8), np.full((8, 4), 1 / 4, np.float16), "soft labels must be float16"),
        (np.zeros((8, 8, 8, 1), np.uint8), np.full((8, 3), np.nan, np.float16), "finite"),
        (np.zeros((8, 8, 8, 1), np.uint8), np.full((8, 3), 1.0, np.float16), "sum to one"),
    ],
)
def test_images_that_no_release_holds_are_refused_as_at_the_server(site, study, images, labels, named):
    request = dataclasses.replace(offer(study, {"b": sets()}), shared=SoftSet(images, labels))
    with pytest.raises(UserError, match=f"the offered releases: .*{named}"):
        personal.received_offer(site(), request)


def test_an_offer_is_bounded_in_images(site, study, monkeypatch):
    monkeypatch.setattr(personal, "MOST_OFFERED", 7)
    with pytest.raises(UserError, match="8 images, more than the cap of 7"):
        personal.received_offer(site(), offer(study, {"b": sets()}))


@pytest.mark.parametrize("contestant", [None, "", "../x", "a/b", 7])
def test_a_contestant_that_no_file_could_be_named_after_is_refused(site, study, contestant):
    with pytest.raises(UserError, match="contestant: "):
        HANDLERS[wire.PERSONALISE](site(), changed(offer(study, {}), contestant=contestant))


@pytest.mark.parametrize(
    ("message_type", "contestant", "named"),
    [
        (wire.PERSONALISE, "fedkr+ft", "the study says it is 'fedkr_ft', the message is of 'fedkr_dda'"),
        (wire.FINETUNE, "fedkr-dda", "the study says it is 'fedkr_dda'"),
        (wire.PERSONALISE, "local", "the study says it is 'local'"),
        (wire.FINETUNE, "another", "not among the study's strategy.compare"),
        (wire.FINETUNE, None, "not among the study's strategy.compare"),
    ],
)
def test_a_message_is_of_a_contestant_that_the_study_has(study, message_type, contestant, named):
    with pytest.raises(PolicyError, match=named):
        check_settings(message_type, {"contestant": contestant}, study)


def test_the_studys_own_contestants_may_ask_and_those_of_a_named_module_may(study):
    check_settings(wire.PERSONALISE, {"contestant": "fedkr-dda"}, study)
    check_settings(wire.FINETUNE, {"contestant": "fedkr+ft"}, study)
    study.strategy.compare, study.strategy.options = ["mine"], {"mine": {"kind": "mypackage.mine"}}
    check_settings(wire.PERSONALISE, {"contestant": "mine"}, study)


def test_each_other_offer_and_each_other_model_is_one_model_more_of_the_budget(hospital, study):
    requests = [offer(study, {"b": sets(1)}), offer(study, {"b": sets(2)}), offer(study, {"c": sets(1)})]
    requests += [tuning(study), tuning(study, "other"), tuning(study, contestant="mine")]
    assert len({personal_name(study, request) for request in requests}) == len(requests)
    assert personal_name(study, offer(study, {"b": sets(1)})) == personal_name(study, requests[0])
    entries = {
        Account(read_site_file(hospital()), kind, request, "any").entry
        for kind, request in [
            (wire.PERSONALISE, requests[0]),
            (wire.PERSONALISE, requests[1]),
            (wire.FINETUNE, requests[3]),
        ]
    }
    assert len({entry.model for entry in entries}) == 3 and {entry.split for entry in entries} == {"test"}


def test_a_kept_model_is_audited_and_none_is_none(site, study):
    opened, asked = site(**EXACT), {"target": "fedkr+ft", "kind": "personal"}
    request = wire.Request(study.to_json(), asked, None)
    with pytest.raises(UserError, match=r"'fedkr\+ft' has no personalised model here"):
        HANDLERS[wire.AUDIT](opened, request)
    HANDLERS[wire.FINETUNE](opened, tuning(study))
    document = wire.read_document(HANDLERS[wire.AUDIT](opened, request), wire.FINDINGS)
    assert {(row["target"], row["kind"], row["adversary"]) for row in document["audit"]} == {
        ("fedkr+ft", "personal", "owner")
    }
