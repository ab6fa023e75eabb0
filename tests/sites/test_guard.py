"""The mod around every handler: what a handler returns or raises reaches the server only as far as the policy says."""

import json
import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, Metadata, MetricRecord, RecordDict

from fedkr import wire
from fedkr.config import Study
from fedkr.failure import NOTE
from sites.app import answer
from sites.guard import REFUSED, SITE_ERROR, guard, keep_at_site
from sites.ledger import Budget, Entry, Ledger

SECRET = "/wards/7/patient-4711.dcm"
# What stopped each reply, by the type of its exception, which only the site knows.
STOPPED = []


@pytest.fixture(autouse=True)
def note_what_stopped_a_reply(monkeypatch):
    def noting(error, message, context):
        STOPPED.append(type(error).__name__)
        keep_at_site(error, message, context)

    monkeypatch.setattr("sites.guard.keep_at_site", noting)


def arrived(content, message_type):
    """Return a message as it reaches a site."""
    metadata = Metadata(
        run_id=1,
        message_id="m1",
        src_node_id=1,
        dst_node_id=2,
        reply_to_message_id="",
        group_id="",
        created_at=time.time(),
        ttl=60.0,
        message_type=message_type,
    )
    return Message(content, metadata=metadata)


@pytest.fixture
def ask(hospital):
    """Send one message through the guard to a handler; return the reply."""

    def send(handler, message_type=wire.RELEASE, request=None, **policy):
        content = request if request is not None else wire.request_content(Study().to_json())
        message = arrived(content, message_type)
        path = hospital(**policy)
        context = Context(1, 1, {"site-file": str(path)}, RecordDict(), {})
        return guard(message, context, handler)

    return send


def answering(content):
    return lambda message, context: Message(content, reply_to=message)


def raising(error):
    def handler(message, context):
        raise error

    return handler


def forbidden(reply, reason="PolicyError"):
    assert reply.has_error()
    assert not reply.has_content()
    assert (reply.error.code, reply.error.reason) == (SITE_ERROR, REFUSED)
    return STOPPED.pop() == reason


def test_an_allowed_answer_passes_unchanged(ask, release_content):
    content = release_content()
    reply = ask(answering(content))
    assert reply.content == content
    assert reply.metadata.message_type == wire.RELEASE


def test_a_handler_that_smuggles_a_record_answers_with_an_error(ask, release_content):
    content = release_content()
    content["extra"] = ArrayRecord({"images": Array(np.zeros((5, 8, 8), np.uint8))})
    assert forbidden(ask(answering(content)))


def test_a_handler_that_returns_more_images_than_the_sites_file_allows_is_refused(ask, release_content):
    assert not ask(answering(release_content(6)), max_images=6).has_error()
    assert forbidden(ask(answering(release_content(7)), max_images=6))


def test_a_release_that_the_cap_leaves_no_room_for_is_refused_before_the_work_and_one_asked_again_is_not(
    ask, release_content, tmp_path
):
    def asked(seed, handler, **policy):
        return ask(handler, request=wire.request_content(Study(seed=seed).to_json()), max_images=100, **policy)

    assert not asked(0, answering(release_content(6))).has_error()
    Ledger(tmp_path / "site-records").write(
        Entry("t", "any", wire.RELEASE, release="b", images=60), Budget(9, 9, images=100)
    )
    unwanted = raising(AssertionError("the work began"))
    assert forbidden(asked(1, unwanted), "PolicyError")
    assert not asked(0, answering(release_content(6))).has_error()


def test_work_that_fails_is_in_the_ledger_and_spends_the_budget_as_figures_do(ask, release_content, tmp_path):
    def fail_at(seed):
        study = Study(seed=seed)
        return ask(raising(ValueError("diverged")), request=wire.request_content(study.to_json()), max_models=2)

    assert (
        forbidden(fail_at(0), "ValueError")
        and forbidden(fail_at(0), "ValueError")
        and forbidden(fail_at(1), "ValueError")
    )
    assert forbidden(fail_at(2), "PolicyError"), "the third study finds the budget spent before any work"
    entries = Ledger(tmp_path / "site-records").entries()
    assert [(entry.message, entry.failed, entry.images) for entry in entries] == [(wire.RELEASE, True, 0)] * 3
    assert not ask(answering(release_content()), request=wire.request_content(Study(seed=1).to_json())).has_error()
    assert not Ledger(tmp_path / "site-records").entries()[-1].failed


def too_many_canaries(seed=0):
    """A study that no site of the fixture's size can be opened for."""
    study = tiny_study()
    study.seed, study.audit.canaries, study.audit.canary_kinds = seed, 100, ["noise"]
    return wire.request_content(study.to_json())


@pytest.mark.parametrize("message_type", [wire.DESCRIBE, wire.LOCAL])
def test_a_failure_while_a_site_opens_its_images_is_in_the_ledger_and_its_budget(ask, message_type, tmp_path):
    assert forbidden(ask(answer, message_type, too_many_canaries(), max_models=1), "UserError")
    (entry,) = Ledger(tmp_path / "site-records").entries()
    assert (entry.message, entry.failed) == (message_type, True)
    assert forbidden(ask(answer, message_type, too_many_canaries(), max_models=1), "UserError"), (
        "asked again for nothing"
    )
    (tmp_path / "images.npz").write_bytes(b"other images, which cannot be read")
    assert forbidden(ask(answer, message_type, too_many_canaries(), max_models=1)), "the budget is spent before"
    assert forbidden(ask(answer, message_type, too_many_canaries(seed=1), max_models=1))


def test_a_failure_of_what_an_answer_is_checked_by_is_counted(ask, tmp_path):
    request = wire.request_content(tiny_study().to_json(), target="teacher")
    (tmp_path / "images.npz").write_bytes(b"no images")
    assert forbidden(ask(answer, wire.AUDIT, request), "UserError")
    assert [entry.failed for entry in Ledger(tmp_path / "site-records").entries()] == [True]


def test_images_that_were_split_otherwise_before_are_counted(ask, release_content, tmp_path):
    assert not ask(answering(release_content())).has_error()
    path = tmp_path / "site-records" / "split.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert forbidden(
        ask(answering(release_content()), request=wire.request_content(Study(seed=1).to_json())), "UserError"
    )
    assert [entry.failed for entry in Ledger(tmp_path / "site-records").entries()] == [False, True]


def test_no_number_of_studies_gets_the_blind_baseline_or_a_card_for_nothing(ask):
    def compared(seed):
        blind = {"blind": [{"site": "st-mary", "auc": 0.5, "p_value": 0.5, "classes_p_value": 0.5}], "paired": []}
        request = wire.request_content(Study(seed=seed).to_json(), pairs="[]")
        return ask(answering(wire.document_reply(wire.COMPARISON, blind, 60.0)), wire.COMPARE, request, max_models=1)

    assert not compared(0).has_error() and not compared(0).has_error()
    assert forbidden(compared(1))
    assert forbidden(ask(answer, wire.DESCRIBE, wire.request_content(tiny_study().to_json()), max_models=1))


def test_a_request_that_the_policy_forbids_never_reaches_its_handler(ask):
    called = []
    assert forbidden(ask(lambda *_: called.append(1), wire.TRAIN))
    assert forbidden(ask(lambda *_: called.append(1), "train.everything"))
    assert called == []


def test_no_message_can_change_the_policy(ask, release_content):
    request = wire.request_content(Study().to_json(), policy='{"allow": ["weights"]}', allow="weights")
    assert forbidden(ask(answering(release_content()), wire.TRAIN, request))


def test_weights_come_back_only_in_the_shape_of_those_that_were_sent(ask):
    record = ArrayRecord({"w": Array(np.zeros(4, np.float32))})
    request = RecordDict({wire.CONFIG: ConfigRecord({"study": Study().to_json()}), wire.ARRAYS: record})
    figures = MetricRecord({"seconds": 60.0})

    def handler(message, context):
        message.content[wire.ARRAYS]["images"] = Array(np.zeros((5, 8, 8), np.float32))
        content = RecordDict({wire.ARRAYS: message.content[wire.ARRAYS], wire.METRICS: figures})
        return Message(content, reply_to=message)

    honest = RecordDict({wire.ARRAYS: record, wire.METRICS: figures})
    assert not ask(answering(honest), wire.TRAIN, request, allow=["weights"]).has_error()
    assert forbidden(ask(handler, wire.TRAIN, request, allow=["weights"]))


def test_an_audits_answer_is_held_to_what_was_asked_and_the_sites_own_classes(ask):
    study = tiny_study()
    honest = ask(answer, wire.AUDIT, wire.request_content(study.to_json(), target="teacher")).content

    def audited(spoil=None, target="teacher"):
        document = wire.read_document(honest, wire.FINDINGS)
        if spoil is not None:
            spoil(document)
        content = wire.document_reply(wire.FINDINGS, document, 60.0)
        return ask(answering(content), wire.AUDIT, wire.request_content(study.to_json(), target=target))

    assert not audited().has_error()
    assert forbidden(audited(target="local"))
    for name in ("auc", "low", "high", "classes"):
        assert forbidden(audited(lambda document, name=name: document["per_class"][0][name].append(0)))
    assert forbidden(audited(lambda document: document["audit"][0].update(attack="rmia", references="direct")))
    assert forbidden(audited(lambda document: document["audit"][0].update(scores=[0.1, 0.9])))


def test_a_study_that_asks_at_so_many_rates_that_it_reads_single_scores_is_not_answered(ask):
    study = tiny_study()
    study.audit.fprs = [i / 100 for i in range(1, 100)]
    request = wire.request_content(study.to_json(), target="teacher")
    assert forbidden(ask(answer, wire.AUDIT, request), "UserError")


def test_a_comparison_is_held_to_the_pairs_that_were_asked_for(ask):
    request = wire.request_content(Study().to_json(), pairs="[]")
    blind = {"site": "st-mary", "auc": 0.5, "p_value": 0.5, "classes_p_value": 0.5}
    asked = {"blind": [blind], "paired": []}
    assert not ask(answering(wire.document_reply(wire.COMPARISON, asked, 60.0)), wire.COMPARE, request).has_error()
    for more in ({"paired": [{"difference": 0.1}]}, {"scores": [0.1, 0.9]}, {"blind": [blind, blind]}):
        content = wire.document_reply(wire.COMPARISON, asked | more, 60.0)
        assert forbidden(ask(answering(content), wire.COMPARE, request))


def test_metadata_that_a_handler_wrote_does_not_leave(ask, release_content):
    def handler(message, context):
        reply = Message(release_content(), reply_to=message)
        reply.metadata.message_type = SECRET
        return reply

    assert SECRET not in str(ask(handler).metadata)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file", SECRET), ValueError(SECRET), KeyError(SECRET)])
def test_an_exception_leaves_as_the_one_reason_that_all_have(ask, error):
    reply = ask(raising(error))
    assert forbidden(reply, type(error).__name__)
    assert SECRET not in str(reply)


def test_an_error_that_a_handler_wrote_itself_does_not_leave(ask):
    reply = ask(lambda message, context: Message(Error(code=0, reason=SECRET), reply_to=message))
    assert forbidden(reply)
    assert SECRET not in str(reply)


def test_the_sites_engineer_finds_the_whole_reason_in_the_workspace(ask, tmp_path):
    ask(raising(ValueError(SECRET)))
    note = json.loads((tmp_path / "work" / NOTE).read_text())
    assert note["reason"] == f"ValueError: {SECRET}"
    assert "in handler" in note["traceback"]


def test_what_a_server_chose_of_an_error_forges_no_line_of_the_log_and_fills_no_disk(ask, tmp_path, caplog):
    ask(raising(ValueError("a\nERROR: forged\x1b[31m" + "x" * 4_000_000)))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "sites.guard"]
    assert line.isprintable() and len(line) < 3000
    assert (tmp_path / "work" / NOTE).stat().st_size < 200_000


def test_a_workspace_that_cannot_be_written_hides_no_failure(ask, tmp_path):
    (tmp_path / "work").write_text("a file where the folder should be")
    assert forbidden(ask(raising(ValueError(SECRET))), "ValueError")


@pytest.mark.parametrize("request_content", [RecordDict(), RecordDict({wire.CONFIG: MetricRecord({"study": 1})})])
def test_a_request_without_a_study_is_answered_with_an_error(ask, request_content):
    assert forbidden(ask(raising(ValueError(SECRET)), request=request_content), "UserError")


def test_a_site_whose_file_is_broken_lets_nothing_leave(release_content, tmp_path):
    (tmp_path / "site.yaml").write_text("name: st-mary\n")
    message = arrived(wire.request_content(Study().to_json()), wire.RELEASE)
    context = Context(1, 1, {"site-file": str(tmp_path / "site.yaml")}, RecordDict(), {})
    assert forbidden(guard(message, context, answering(release_content())), "UserError")


def tiny_study():
    study = Study()
    for model in (study.teacher, study.student):
        model.arch, model.width, model.steps = "resnet8", 4, 2
    study.generator.steps, study.generator.checkpoints = 2, 1
    study.generator.options = {"width": 8, "steps_sample": 5}
    study.recycle.search_steps, study.recycle.tuning_budget, study.recycle.views = 2, 1, 1
    study.recycle.rounds, study.recycle.balance, study.audit.bootstrap = 1, "balanced", 10
    return study


@pytest.mark.parametrize(
    ("message_type", "settings"),
    [
        (wire.DESCRIBE, {}),
        (wire.LOCAL, {}),
        (wire.RELEASE, {"round": 1}),
        (wire.AUDIT, {"target": "teacher"}),
        (wire.AUDIT, {"target": "release"}),
        (wire.REFERENCES, {"kinds": ["teacher"]}),
        (wire.COMPARE, {"pairs": "[]"}),
    ],
)
def test_a_sites_own_answers_pass_the_policy_that_it_has_by_default(ask, message_type, settings):
    study = tiny_study()
    study.audit.targets.append("release")
    request = wire.request_content(study.to_json(), **settings)
    assert not ask(answer, message_type, request).has_error()


def test_a_release_in_the_classes_own_proportions_is_refused_where_counts_may_not_leave(ask):
    study = tiny_study()
    study.recycle.balance = "histogram"
    assert forbidden(ask(answer, wire.RELEASE, wire.request_content(study.to_json(), round=1)))
