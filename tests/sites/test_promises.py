"""The guard's second line: a reply is whole, and says only what this site can say."""

import dataclasses

import pytest

from fedkr import wire
from sites.figures import public_manifest
from sites.handlers import HANDLERS
from sites.policy import PolicyError
from sites.promises import check_promises
from sites.workspace import open_site

QUALITY = {"precision": 0.5, "recall": 0.5, "recognised": [0.5]}


@pytest.fixture
def site(hospital, study):
    return lambda **policy: open_site({"site-file": str(hospital(**policy))}, study)


def stopped(site, message_type, content, line):
    with pytest.raises(PolicyError, match=line):
        check_promises(site, message_type, content)


def answer(site, study, message_type, **settings):
    return HANDLERS[message_type](site, wire.Request(study.to_json(), settings, None))


def test_a_handlers_own_card_and_release_pass(site, study):
    opened = site()
    check_promises(opened, wire.DESCRIBE, answer(opened, study, wire.DESCRIBE))
    check_promises(opened, wire.RELEASE, answer(opened, study, wire.RELEASE, round=1))


@pytest.mark.parametrize("record", [wire.SHARED, wire.MANIFEST, wire.METRICS])
def test_a_reply_without_a_record_that_its_message_promises_is_refused(site, release_content, record):
    content = release_content()
    del content[record]
    stopped(site(), wire.RELEASE, content, f"lacks the record '{record}'")


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"site": "patient 4711"}, "is not this site's name"),
        ({"left_out": ["patient 4711"]}, "is none of this site's classes"),
        ({"knobs": {"patient": 4711.0}}, "patient=4711.0 is no setting"),
        ({"knobs": {"guidance": 47.11}}, "guidance=47.11 is no setting"),
        ({"scores": {"tuning": [{"knobs": {"guidance": 47.11}, "score": 0.5, "loss": 1.0}]}}, "guidance=47.11"),
        ({"scores": {"checkpoints": [{"step": 1, "score": 0.4711, "loss": 1.0}]}}, "no multiple of"),
        (
            {"scores": {"checkpoints": [{"step": 1, "score": 0.5, "loss": 1.0, "leakage": 0.5}]}},
            "leakage of candidates",
        ),
        ({"teacher": {"step": 1, "val_accuracy": 0.4711}}, "no multiple of"),
        ({"recalls": [0.5]}, "recalls may leave only"),
        ({"quality": QUALITY}, "quality may leave only"),
    ],
)
def test_a_manifest_that_says_what_this_site_cannot_say_is_refused(site, release_content, changed, line):
    stopped(site(), wire.RELEASE, release_content(**changed), line)


@pytest.mark.parametrize(
    ("name", "value"), [("site", "st-anne"), ("classes", ["healthy", "ill", "patient 4711"]), ("size", 4711)]
)
def test_a_card_that_is_not_this_sites_is_refused(site, study, name, value):
    opened = site()
    card = wire.read_document(answer(opened, study, wire.DESCRIBE), wire.CARD) | {name: value}
    content = answer(opened, study, wire.DESCRIBE)
    content[wire.CARD] = wire.document(card)
    stopped(opened, wire.DESCRIBE, content, f"card: {name}=")


def test_documents_of_more_bytes_than_any_honest_one_are_refused(site, release_content):
    rows = [{"step": i, "score": 0.5, "loss": 1.0, "pad": "x" * 5000} for i in range(120)]
    stopped(site(), wire.RELEASE, release_content(scores={"checkpoints": rows}), "bytes of documents, more than")


@pytest.mark.parametrize(("metric", "value"), [("test/accuracy", 0.4711), ("seconds", 1.5)])
def test_a_figure_off_the_policys_grid_is_refused(site, metric, value):
    stopped(site(), wire.EVALUATE, wire.metrics_reply({"seconds": 60.0, metric: value}), f"'{metric}' is {value}")


def test_how_a_model_was_tuned_leaves_only_where_figures_leave_as_they_are(site, study):
    opened = site()
    assert opened.policy.coarse
    assert not wire.read_tuning(wire.read_metrics(answer(opened, study, wire.LOCAL)))
    stopped(opened, wire.LOCAL, wire.metrics_reply({"seconds": 60.0, "tuned/lr": 0.1}), "'tuned/lr' may leave only")


def test_without_metrics_in_the_policy_no_figure_leaves_in_a_manifest(site, study, release_content):
    opened = site(allow=["release"])
    for name, figure in (("scores", {}), ("teacher", {"step": 3}), ("recalls", []), ("quality", QUALITY)):
        content = release_content(**{name: figure})
        manifest = {key: v for key, v in wire.read_document(content, wire.MANIFEST).items() if key in ("site", name)}
        content[wire.MANIFEST] = wire.document(manifest)
        stopped(opened, wire.RELEASE, content, f"'{name}' are figures")
    own = wire.read_document(answer(opened, study, wire.RELEASE, round=1), wire.MANIFEST)
    assert not own.keys() & {"scores", "recalls", "quality", "teacher"}


def test_on_few_val_images_no_figure_leaves_in_a_manifest_either(site, study):
    opened = site(min_evaluated=50)
    assert len(opened.data.val) < 50
    own = wire.read_document(answer(opened, study, wire.RELEASE, round=1), wire.MANIFEST)
    assert not own.keys() & {"scores", "recalls", "quality", "teacher"}


def test_what_candidates_give_away_leaves_only_where_figures_leave_as_they_are(site, release_content):
    row = {"score": 0.5, "loss": 1.0, "leakage": 0.6}
    figures = {"scores": {"checkpoints": [row | {"step": 20}]}, "teacher": {"step": 3, "val_accuracy": 0.5}}
    manifest = wire.read_document(release_content(**figures), wire.MANIFEST)
    for exact in (True, False):
        public = public_manifest(site(exact_counts=exact), manifest, "release")
        assert ("leakage" in public["scores"]["checkpoints"][0]) is exact


def test_which_classes_are_left_out_does_not_follow_a_least_count_of_the_studys(site, study):
    names = []
    for least in (1, 20, 35):
        study.recycle = dataclasses.replace(study.recycle, min_class_count=least)
        names.append(site().pipeline.left_out)
    assert names == [["rare"]] * 3
