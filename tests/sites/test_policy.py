"""The site's policy wins: each thing that must not leave is tried, and refused."""

import json
from functools import partial

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkr import wire
from fedkr.audit.challenge import build_challenge
from fedkr.audit.document import AuditQuestion, Pair, audit_document, check_comparison
from fedkr.audit.run import audit_model
from fedkr.audit.subject import Subject
from fedkr.config import AuditConfig, Study
from fedkr.data import ImageSet
from fedkr.errors import UserError
from fedkr.learning.evaluation import measure_utility
from sites.policy import SIMULATED, Policy, PolicyError, check_reply, check_request, weight_shapes

OPEN = Policy(allow=["metrics", "release", "weights"], max_images=100, exact_counts=True)
CLOSED = Policy()
WEIGHTS = {"head.weight": np.zeros((3, 4), np.float32), "seen": np.array(7)}


def arrays(**values):
    return ArrayRecord({name.replace("_", "-"): Array(value) for name, value in values.items()})


def weights_content(**more):
    values = WEIGHTS | more
    return RecordDict(
        {
            wire.ARRAYS: ArrayRecord({name: Array(value) for name, value in values.items()}),
            wire.METRICS: MetricRecord({"num-examples": 50, "val-count": 100, "val-loss": 0.5, "val-correct": 1.5}),
        }
    )


AUDIT = AuditConfig(attacks=["loss", "modified-entropy", "confidence", "logit-margin"], bootstrap=20)
ANSWERS = partial(AuditQuestion("student", "student", 3, AUDIT).check, "st-mary")
PAIR = Pair("loss", "none", "student", "abc", "fedavg", "def")
COMPARES = partial(check_comparison, [PAIR], "st-mary")
SENT = {name: value.shape for name, value in WEIGHTS.items()}


def utility(prefix="test", **changed):
    rng = np.random.default_rng(0)
    measured = measure_utility(rng.normal(size=(30, 3)).astype(np.float32), np.arange(30) % 3, 3)
    return wire.utility_metrics(measured, prefix) | {"seconds": 0.1} | changed


def card(**more):
    values = {
        "site": "st-mary",
        "version": "0.1.0",
        "classes": ["a", "b"],
        "size": 8,
        "channels": 1,
        "allow": ["metrics"],
        "recipients": "server",
        "threads": 1,
    }
    return RecordDict({wire.CARD: wire.document(values | more)})


def refused(message_type, content, line, policy=OPEN, weights=None, answers=ANSWERS):
    with pytest.raises(PolicyError, match=line) as error:
        check_reply(policy, message_type, content, weights, answers)
    assert "\n" not in str(error.value)


# What honest handlers answer passes, under the closest policy that allows it.


def test_what_the_handlers_answer_may_leave(release_content):
    check_reply(CLOSED, wire.RELEASE, release_content())
    check_reply(CLOSED, wire.DESCRIBE, card())
    check_reply(OPEN, wire.DESCRIBE, card(counts={"train": [1, 2], "holdout": [0, 3]}))
    check_reply(OPEN, wire.LOCAL, wire.metrics_reply(utility() | utility("global")))
    check_reply(OPEN, wire.TRAIN, weights_content(), SENT)


@pytest.fixture(scope="module")
def document():
    """An honest site's document, as JSON."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 4, 4, 1), dtype=np.uint8)
    half = [ImageSet(part, np.arange(150) % 3, ("a", "b", "c")) for part in (images[:150], images[150:])]
    subject = Subject("student", "st-mary", build_challenge(*half), AUDIT, 0)
    report = audit_model(lambda x: x.reshape(len(x), -1)[:, :3].astype(np.float32), subject)
    return json.dumps(audit_document(report))


def findings(text, name=wire.FINDINGS):
    return RecordDict({wire.METRICS: MetricRecord({"seconds": 1.0}), name: ConfigRecord({"json": text})})


def comparison(**change):
    paired = PAIR.names("st-mary") | {"difference": -0.01, "low": -0.02, "high": 0.0, "unit": "image"} | change
    return findings(
        json.dumps(
            {"blind": [{"site": "st-mary", "auc": 0.5, "p_value": 0.4, "classes_p_value": 0.5}], "paired": [paired]}
        ),
        wire.COMPARISON,
    )


def test_an_audit_with_every_attack_may_leave(document):
    check_reply(CLOSED, wire.AUDIT, findings(document), answers=ANSWERS)


def test_what_an_audit_answers_beside_its_attacks_may_leave():
    counts = {"direct": 16, "pipeline": 8, "others": 4000, "seconds": 100.0}
    check_reply(CLOSED, wire.REFERENCES, wire.metrics_reply(counts))
    check_reply(CLOSED, wire.COMPARE, comparison(), answers=COMPARES)


# Requests.


@pytest.mark.parametrize("message_type", ["train.everything", "query", "evaluate.audit.scores", ""])
def test_an_unknown_message_type_is_refused(message_type):
    with pytest.raises(PolicyError, match="not among those"):
        check_request(SIMULATED, message_type, Study())
    refused(message_type, RecordDict({wire.METRICS: MetricRecord({"seconds": 1})}), "may not leave")


@pytest.mark.parametrize(
    ("message_type", "allow"),
    [(wire.TRAIN, ["metrics", "release"]), (wire.RELEASE, ["metrics"]), (wire.AUDIT, ["release"]), (wire.LOCAL, [])],
)
def test_a_kind_that_the_policy_does_not_name_is_refused_before_any_work(message_type, allow):
    with pytest.raises(PolicyError, match="does not allow"):
        check_request(Policy(allow=allow), message_type, Study())


# Records.


def test_an_extra_record_is_refused(release_content):
    for record in (arrays(images=np.zeros(3)), MetricRecord({"a": 1}), ConfigRecord({"a": b"pixels"})):
        content = release_content()
        content["extra"] = record
        refused(wire.RELEASE, content, "record 'extra' may not leave")


@pytest.mark.parametrize("message_type", [wire.LOCAL, wire.EVALUATE, wire.AUDIT, wire.DESCRIBE])
def test_images_do_not_leave_with_an_answer_that_has_none(message_type, release_content):
    refused(message_type, RecordDict({wire.SHARED: release_content()[wire.SHARED]}), "'release' may not leave")


def test_a_record_of_another_kind_under_a_known_name_is_refused():
    refused(wire.LOCAL, RecordDict({wire.METRICS: arrays(images=np.zeros(3))}), "wrong kind")
    refused(wire.DESCRIBE, RecordDict({wire.CARD: MetricRecord({"a": [1, 2]})}), "wrong kind")


def test_weights_are_refused_where_the_policy_does_not_name_them():
    refused(wire.TRAIN, weights_content(), "'weights'", policy=Policy(allow=["metrics", "release"]), weights=SENT)


def test_a_release_is_refused_where_the_policy_does_not_name_it(release_content):
    refused(wire.RELEASE, release_content(), "'release'", policy=Policy(allow=["metrics"]))


# Weights.


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"images": np.zeros((5, 8, 8), np.float32)}, "'images' is not in both"),
        ({"head.weight": np.zeros((3, 400), np.float32)}, "'head.weight' has shape"),
        ({"seen": np.array("text")}, "not numbers"),
    ],
)
def test_weights_that_are_not_those_of_the_model_that_was_sent_are_refused(changed, line):
    refused(wire.TRAIN, weights_content(**changed), line, weights=SENT)


def test_weights_without_a_model_in_the_request_are_refused():
    refused(wire.TRAIN, weights_content(), "not in both")


def test_the_shapes_of_a_request_are_those_of_its_model():
    assert weight_shapes(weights_content()) == SENT
    assert weight_shapes(RecordDict()) == {}


# Releases.


def with_arrays(content, **changed):
    kept = {name: content[wire.SHARED][name] for name in ("images", "soft-labels")}
    more = {name.replace("_", "-"): v if isinstance(v, Array) else Array(v) for name, v in changed.items()}
    content[wire.SHARED] = ArrayRecord(kept | more)
    return content


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"labels": np.arange(6)}, "nothing else"),
        ({"images": np.zeros((6, 8, 8, 1), np.float32)}, "must be uint8"),
        ({"images": np.zeros((6, 8, 8, 4), np.uint8)}, "1 or 3"),
        ({"images": np.zeros((6, 8, 80, 1), np.uint8)}, "must be uint8"),
        ({"soft_labels": np.full((6, 3), 1 / 3, np.float32)}, "must be float16"),
        ({"soft_labels": np.full((60, 3), 1 / 3, np.float16)}, "must be float16"),
        ({"soft_labels": np.full((6, 300), 0.5, np.float16)}, "sum to one"),
        ({"soft_labels": np.full((6, 3), np.nan, np.float16)}, "finite"),
    ],
)
def test_a_release_of_anything_but_images_with_soft_labels_is_refused(release_content, changed, line):
    refused(wire.RELEASE, with_arrays(release_content(), **changed), line)


def test_more_images_than_the_policy_allows_are_refused(release_content):
    refused(wire.RELEASE, release_content(101), "more than the cap of 100")


def test_a_manifest_that_counts_other_images_is_refused(release_content):
    content = release_content(6)
    content[wire.MANIFEST] = wire.document({"count": 7})
    refused(wire.RELEASE, content, "manifest counts 7")


def test_an_array_that_declares_what_it_does_not_hold_is_refused(release_content):
    floats = Array(np.zeros((6, 8, 8, 1), np.float64))
    lie = Array("uint8", (6, 8, 8, 1), floats.stype, floats.data)
    refused(wire.RELEASE, with_arrays(release_content(), images=lie), "not what it declares")


def test_bytes_behind_or_before_the_pixels_are_refused(release_content):
    true = release_content()[wire.SHARED]["images"]
    behind = Array(true.dtype, true.shape, true.stype, true.data + b"patient 4711")
    refused(wire.RELEASE, with_arrays(release_content(), images=behind), "bytes beside")
    comment = b" # patient 4711"
    before = Array(true.dtype, true.shape, true.stype, true.data.replace(b" " * len(comment), comment, 1))
    assert np.array_equal(before.numpy(), true.numpy())
    refused(wire.RELEASE, with_arrays(release_content(), images=before), "bytes beside")


def test_what_is_no_array_is_refused(release_content):
    lie = Array("uint8", (6, 8, 8, 1), "patient 4711", b"anything")
    refused(wire.RELEASE, with_arrays(release_content(), images=lie), "no plain array")


# Metrics.


@pytest.mark.parametrize(
    ("message_type", "metric"),
    [
        (wire.LOCAL, "train/accuracy"),
        (wire.LOCAL, "test/score-of-image-17"),
        (wire.LOCAL, "patients"),
        (wire.EVALUATE, "holdout/accuracy"),
        (wire.AUDIT, "loss/auc"),
        (wire.AUDIT, "score-of-image-17"),
        (wire.REFERENCES, "direct/logits"),
        (wire.REFERENCES, "loss/auc"),
        (wire.COMPARE, "pair-0/difference"),
        (wire.COMPARE, "score-of-image-17"),
        (wire.RELEASE, "test/accuracy"),
        (wire.TRAIN, "image-3"),
    ],
)
def test_a_metric_without_a_known_name_is_refused(message_type, metric):
    refused(message_type, wire.metrics_reply({metric: 0.5}), "may not leave")


@pytest.mark.parametrize(
    ("message_type", "metric", "value"),
    [
        (wire.LOCAL, "test/accuracy", [0.25, 0.5, 0.75]),
        (wire.LOCAL, "test/loss", list(range(30))),
        (wire.LOCAL, "seconds", [1, 2]),
        (wire.AUDIT, "seconds", [0.1, 0.9]),
        (wire.REFERENCES, "direct", [0.1, 0.9]),
        (wire.COMPARE, "seconds", [0.1, 0.2]),
        (wire.TRAIN, "num-examples", 2**60),
    ],
)
def test_values_of_single_images_under_a_known_name_are_refused(message_type, metric, value):
    refused(message_type, wire.metrics_reply({metric: value}), "something else")


# Documents of an audit; tests/fedkr/audit/test_document.py has each field.


def changed(document, row=0, **values):
    found = json.loads(document)
    found["audit"][row] |= values
    return json.dumps(found)


@pytest.mark.parametrize(
    "values",
    [
        {"auc": [0.1, 0.9]},
        {"scores": [0.1, 0.9, 0.4]},
        {"score_of_image_17": 0.5},
        {"roc": [[0.9, 0.1], [0.5, 0.5]]},
        {"roc": [[i / 61, i / 61] for i in range(61)]},
        {"duplicates": 2**60},
        {"site": "patient 4711"},
        {"attack": "patient 4711"},
        {"target": "patient 4711"},
        {"auc": float("nan")},
        {"members": 17},
    ],
)
def test_an_audit_with_anything_but_its_figures_is_refused(document, values):
    refused(wire.AUDIT, findings(changed(document, **values)), "audit of student at st-mary")


def test_an_audit_answers_nothing_that_its_study_did_not_ask_for(document):
    for config in (AuditConfig(), AuditConfig(fprs=[0.17]), AuditConfig(attacks=["rmia"], headline="rmia")):
        answers = partial(AuditQuestion("student", "student", 3, config).check, "st-mary")
        refused(wire.AUDIT, findings(document), "audit of student", answers=answers)


def test_a_list_over_images_cannot_pass_for_one_over_classes(document):
    found = json.loads(document)
    images = dict.fromkeys(("auc", "low", "high"), [0.5] * 150) | {"classes": list(range(150))}
    found["per_class"][0] |= images
    refused(wire.AUDIT, findings(json.dumps(found)), "at most 3 items")


def test_a_document_of_an_audit_is_refused_where_what_was_asked_is_not_known(document):
    refused(wire.AUDIT, findings(document), "not asked for", answers=None)
    refused(wire.COMPARE, comparison(), "not asked for", answers=None)


@pytest.mark.parametrize("change", [{"difference": [0.1, 0.2]}, {"target": "patient 4711"}, {"scores": [0.1]}])
def test_a_comparison_with_anything_but_its_figures_is_refused(change):
    refused(wire.COMPARE, comparison(**change), "comparison at st-mary", answers=COMPARES)


def test_one_document_of_an_audit_does_not_pass_for_the_other(document):
    refused(wire.COMPARE, findings(document), "record 'findings' may not leave", answers=COMPARES)
    refused(wire.COMPARE, findings(document, wire.COMPARISON), "comparison at st-mary", answers=COMPARES)
    refused(wire.AUDIT, findings(document, wire.CARD), "record 'card' may not leave")


@pytest.mark.parametrize("message_type", [wire.REFERENCES, wire.AUDIT, wire.COMPARE])
def test_no_model_and_no_image_leaves_with_an_answer_of_the_audit(message_type, release_content):
    for name, record in (
        (wire.ARRAYS, weights_content()[wire.ARRAYS]),
        (wire.SHARED, release_content()[wire.SHARED]),
        ("scores", MetricRecord({"rmia@direct": [0.1, 0.9, 0.4]})),
    ):
        content = wire.metrics_reply({"seconds": 1.0})
        content[name] = record
        refused(message_type, content, f"record '{name}' may not leave", weights=SENT)


@pytest.mark.parametrize("confusion", [[1, 0, 1], [0.5, 0.1, 0.2, 0.3], [1, 0, 1, 1, 0, 1, 0, 0, 1], [-1, 10, 10, 11]])
def test_a_confusion_matrix_that_is_none_is_refused(confusion):
    content = wire.metrics_reply({"test/count": 30, "test/confusion": confusion})
    refused(wire.EVALUATE, content, "something else|does not add up")


def test_a_flood_of_metrics_is_refused():
    flood = {f"pair-{i}/difference": 0.5 for i in range(300)}
    refused(wire.COMPARE, wire.metrics_reply(flood), "300 metrics, more than 64")


# Counts.


@pytest.mark.parametrize(
    ("message_type", "metrics"),
    [
        (wire.LOCAL, {"test/count": 9, "test/confusion": [1, 2, 3, 3]}),
        (wire.EVALUATE, {"val/count": 47}),
        (wire.TRAIN, {"num-examples": 1234}),
        (wire.TRAIN, {"val-count": 49}),
    ],
)
def test_exact_counts_are_refused_where_the_policy_withholds_them(message_type, metrics):
    content = wire.metrics_reply(metrics)
    refused(message_type, content, "exact counts", policy=CLOSED)
    check_reply(OPEN, message_type, content)


def test_exact_class_counts_on_the_card_are_refused_where_the_policy_withholds_them():
    refused(wire.DESCRIBE, card(counts={"train": [3, 4]}), "exact class counts", policy=CLOSED)


@pytest.mark.parametrize(
    ("name", "value"),
    [("recalls", [0.5, None]), ("quality", {"precision": 0.5, "recall": 0.5, "recognised": [0.5, None]})],
)
def test_exact_figures_in_a_manifest_are_refused_where_the_policy_withholds_exact_counts(release_content, name, value):
    refused(wire.RELEASE, release_content(**{name: value}), name, policy=CLOSED)
    check_reply(OPEN, wire.RELEASE, release_content(**{name: value}))


# Documents.


@pytest.mark.parametrize(
    "changed",
    [
        {"patients": [1, 2]},
        {"site": "x" * 121},
        {"site": ["a", "b"]},
        {"left_out": [[1, 2], [3, 4]]},
        {"knobs": {"steps": [1.0, 2.0]}},
        {"knobs": {"x" * 500: 1}},
        {"round": 10**400},
        {"round": True},
        {"scores": {"checkpoints": [{"step": 1, "score": [0.1, 0.2], "loss": 0}]}},
        {"scores": {"checkpoints": [{"step": 1, "patient": 4711}]}},
        {"scores": {"images": [1, 2, 3]}},
        {"scores": {"tuning": [{"score": 0.1}] * 129}},
        {"scores": [0.1] * 1000},
        {"recalls": [0.5, 1.5]},
        {"recalls": [0.5] * 1001},
        {"recalls": {"patient": 0.5}},
        {"quality": {"precision": 0.5, "recall": 0.5}},
        {"quality": {"precision": 0.5, "recall": 0.5, "recognised": [0.5], "patient": 1}},
        {"quality": {"precision": 4711.0, "recall": 0.5, "recognised": [0.5]}},
    ],
)
def test_a_manifest_with_anything_but_its_fields_is_refused(release_content, changed):
    refused(wire.RELEASE, release_content(**changed), "manifest")


@pytest.mark.parametrize(
    "changed",
    [{"path": "/data"}, {"classes": [1, 2]}, {"counts": {"patients": [1]}}, {"counts": [[1]]}, {"threads": "many"}],
)
def test_a_card_with_anything_but_its_fields_is_refused(changed):
    refused(wire.DESCRIBE, card(**changed), "card: field")


@pytest.mark.parametrize("text", ['{"site": "secret", "site": "a"}', '{"site":     "a"}', '{"site": "a"}\n\n'])
def test_json_that_says_more_than_its_values_is_refused(text):
    assert json.loads(text) == {"site": "a"}
    refused(wire.DESCRIBE, RecordDict({wire.CARD: ConfigRecord({"json": text})}), "more than one JSON document")


@pytest.mark.parametrize(
    ("old", "new"), [('"auc"', '"auc": 0.25, "auc"'), (": ", ":  "), ("[]}", "[]}\n"), ("0.5", "0.50")]
)
def test_an_audits_json_that_says_more_than_its_values_is_refused(document, old, new):
    assert old in document
    refused(wire.AUDIT, findings(document.replace(old, new, 1)), "more than one JSON document")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"audit": ' * 40_000, "9" * 5000, "{", ""])
def test_json_that_cannot_be_read_is_refused(text):
    with pytest.raises(UserError, match="not JSON"):
        check_reply(OPEN, wire.AUDIT, findings(text), answers=ANSWERS)


@pytest.mark.parametrize("more", [{"pixels": b"\x00\x01"}, {"other": "text"}, {"numbers": [1, 2]}])
def test_a_value_beside_the_json_is_refused(more):
    record = ConfigRecord({"json": '{"site": "a"}', **more})
    refused(wire.DESCRIBE, RecordDict({wire.CARD: record}), "more than one JSON document")


# The policy itself.


def test_a_hospital_lets_its_releases_reach_the_server_only_unless_it_says_otherwise():
    assert (Policy().recipients, SIMULATED.recipients) == ("server", "federation")


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        (Policy(allow=["images"]), r"site\.yaml: policy.allow='images': unknown"),
        (Policy(recipients="everyone"), "policy.recipients='everyone'"),
        (Policy(max_images=0), "at least 1"),
    ],
)
def test_a_policy_that_is_none_is_one_line(policy, line):
    with pytest.raises(UserError, match=line):
        policy.check("site.yaml")
