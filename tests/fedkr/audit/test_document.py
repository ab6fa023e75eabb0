"""The documents of an audit: a report travels whole, nothing else does, and what contradicts itself is refused."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest

from fedkr.audit.attacks.queries import Queries
from fedkr.audit.attacks.with_references import reference_signals
from fedkr.audit.challenge import candidates, site_challenge, site_population
from fedkr.audit.coins import TOO_FEW
from fedkr.audit.copies import CopyFigures
from fedkr.audit.document import (
    POWERLESS,
    AuditQuestion,
    Pair,
    audit_document,
    audit_extras,
    check_comparison,
    keyed,
)
from fedkr.audit.findings import report_from_scores
from fedkr.audit.run import Knowledge, audit_model
from fedkr.audit.statistics.membership import ROC_POINTS
from fedkr.audit.subject import Subject
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
COPIES = CopyFigures(400, 24, 20, 390, 4, 400, 25, 390, 5)


@pytest.fixture(scope="module")
def report(make_world):
    """Everything that an audit can hold, and class c with too few members for a figure."""
    world = make_world(members=60, nonmembers=110, canaries=20)
    world.labels[:60] %= 2
    challenge = site_challenge(world.data)
    population = site_population(world.data, challenge)
    signals = [
        reference_signals(world.references(4), candidates(challenge), population, Queries(), kind, kind == "direct")
        for kind in ("direct", "pipeline")
    ]
    subject = Subject("student", "st-mary", challenge, CONFIG, 0)
    return audit_model(world.target(), subject, Knowledge(signals, population))


@pytest.fixture
def document(report):
    """The report's document, to be spoilt."""
    return copy.deepcopy(audit_document(report))


@pytest.fixture(scope="module")
def of_release(make_world):
    challenge = site_challenge(make_world(canaries=20).data)
    scores = {name: np.random.default_rng(0).normal(size=150) for name in RELEASE_ATTACKS}
    return report_from_scores(scores, Subject("release", "st-mary", challenge, CONFIG, 0))


def check(document, target="student", config=CONFIG, classes=3):
    AuditQuestion(target, target, classes, config).check("st-mary", document)


def refused(document, words, **question):
    with pytest.raises(UserError, match=words) as error:
        check(document, **question)
    assert "\n" not in str(error.value)
    assert f"audit of {question.get('target', 'student')} at st-mary" in str(error.value)


def row_of(document, key, part="audit"):
    return keyed(document[part])[key]


# What honest sites answer.


def test_a_report_survives_the_trip_without_its_scores(report):
    travelled = json.loads(json.dumps(audit_document(report)))
    check(travelled)
    assert travelled["audit"] == report.rows
    assert audit_extras(travelled, CONFIG) == audit_extras(audit_document(report), CONFIG)
    assert report.scores and report.canary_scores and "scores" not in json.dumps(travelled)
    assert report.per_class[0]["auc"][2] is None and report.per_class[0]["auc"][0] is not None


def test_a_document_of_threshold_attacks_and_one_without_a_bound_pass_too(document):
    document["audit"] = [row for row in document["audit"] if row["references"] == "none"]
    document |= {"canaries": [], "per_class": [], "epsilon": []}
    check(document)


def test_why_there_is_no_bound_travels(document):
    names = {name: document["epsilon"][0][name] for name in ("target", "site", "attack", "references")}
    document["epsilon"] = [names | {"reason": TOO_FEW}]
    check(document)
    assert audit_extras(document, CONFIG)["epsilon"] == [names | {"epsilon": None, "reason": TOO_FEW}]


def test_a_bound_that_a_perfect_attack_would_not_lift_above_zero_is_refused_with_its_reason(document):
    document["epsilon"][0] |= {"coins": 49, "guesses": 4, "correct": 4}
    check(document)
    (row,) = audit_extras(document, CONFIG)["epsilon"]
    assert (row["epsilon"], row["largest"], row["reason"]) == (None, 0.0, POWERLESS)
    assert (row["mu"], row["gaussian_epsilon"]) == (None, None)
    document["epsilon"][0] |= {"guesses": 5, "correct": 3}
    (row,) = audit_extras(document, CONFIG)["epsilon"]
    assert row["epsilon"] == 0.0 < row["largest"] and row["reason"] == ""


def test_a_release_report_quotes_its_own_headline_and_brings_its_copy_check(of_release):
    assert of_release.headline["attack"] == "distance-features"
    assert {row["adversary"] for row in of_release.rows} == {"server"}
    document = audit_document(of_release, [COPIES.counts("st-mary")])
    check(json.loads(json.dumps(document)), "release")
    assert audit_extras(document, CONFIG)["copies"] == [COPIES.as_row("st-mary")]


def test_a_bound_is_worked_out_anew_from_its_counts(document):
    document["epsilon"][0] |= {"coins": 100, "guesses": 100, "correct": 100}
    check(document)
    (row,) = audit_extras(document, CONFIG)["epsilon"]
    assert row["epsilon"] == row["largest"] == pytest.approx(math.log(0.05**0.01 / (1 - 0.05**0.01)), abs=0.2)
    assert np.isfinite(row["epsilon"])


@pytest.mark.parametrize("name", ["members", "nonmembers", "duplicates"])
def test_more_images_than_a_site_can_hold_are_refused(document, name):
    for row in document["audit"]:
        row[name] = 2**53
    refused(document, name)


def test_counts_of_copies_for_which_the_test_would_not_end_are_refused(of_release):
    document = audit_document(of_release, [COPIES.counts("st-mary") | {"members": 2**53, "members_found": 2**52}])
    refused(document, "members", target="release")


def test_an_interval_may_lie_beside_its_figure_as_that_of_few_resamples_does(document):
    row_of(document, "loss").update(auc=0.4, auc_low=0.5, auc_high=0.5)
    check(document)


# What is bounded.


def lists_in(value, path=""):
    if isinstance(value, dict):
        for name, item in value.items():
            yield from lists_in(item, f"{path}.{name}")
    elif isinstance(value, list):
        yield path, value
        for item in value:
            yield from lists_in(item, path)


def test_no_list_is_as_long_as_the_challenge_set(document):
    rows = len(document["audit"])
    for path, values in lists_in(document):
        most = {"roc": ROC_POINTS}.get(path.rpartition(".")[2], rows if path.count(".") == 1 else 3)
        assert len(values) <= most, path
    assert len(json.dumps(document)) < 100_000


@pytest.mark.parametrize(
    ("config", "classes", "words"),
    [
        (AuditConfig(attacks=["loss"], headline="loss"), 3, "at most 1 item"),
        (AuditConfig(**vars(CONFIG) | {"attacks": ["loss", "rmia"]}), 3, "at most 3 items"),
        (AuditConfig(**vars(CONFIG) | {"fprs": [0.01]}), 3, "extra inputs"),
        (AuditConfig(**vars(CONFIG) | {"canaries": 0, "coins": True}), 3, "'canaries' .*at most 0"),
        (AuditConfig(**vars(CONFIG) | {"canaries": 0, "coins": False}), 3, "at most 0"),
        (AuditConfig(**vars(CONFIG) | {"headline": "loss"}), 3, "headline"),
        (CONFIG, 2, "at most 2 items"),
        (CONFIG, 4, "at least 4 items"),
    ],
)
def test_a_document_holds_only_what_this_study_asks_for(document, config, classes, words):
    refused(document, words, config=config, classes=classes)


@pytest.mark.parametrize("target", ["teacher", "release", "fedavg"])
def test_a_document_is_of_the_target_that_was_asked_for(document, target):
    refused(document, "target", target=target)


def spoilt(document, path, value):
    """Set (or with ``...`` remove) what lies at a path of names, row keys and indices."""
    *way, last = path
    for step in way:
        document = keyed(document)[step] if isinstance(document, list) and isinstance(step, str) else document[step]
    if value is ...:
        del document[last]
    else:
        document[last] = value


IMAGES = [0.25] * 170


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("scores",), IMAGES),
        (("pixels",), "AAAA"),
        (("audit", "loss", "scores"), IMAGES),
        (("audit", "loss", "auc"), IMAGES),
        (("audit", "loss", "auc"), "0.5"),
        (("audit", "loss", "auc"), {"image-17": 0.5}),
        (("audit", "loss", "members"), 10**40),
        (("audit", "loss", "members"), [0, 1, 1]),
        (("audit", "loss", "duplicates"), -3),
        (("audit", "loss", "elsewhere"), 0),
        (("audit", "loss", "elsewhere"), [17, 18]),
        (("audit", "loss", "elsewhere"), 10**40),
        (("audit", "loss", "elsewhere"), "patient 4711"),
        (("canaries", "loss", "elsewhere"), 3),
        (("audit", "loss", "site"), "patient 4711"),
        (("audit", "loss", "adversary"), "patient 4711"),
        (("audit", "loss", "kind"), "patient 4711"),
        (("audit", "loss", "attack"), "patient 4711"),
        (("audit", "loss", "references"), ["none"]),
        (("audit", "loss", "others"), "none"),
        (("audit", "loss", "tpr_at_fpr_0.0112345678901"), 0.5),
        (("audit", "rmia@direct", "roc"), [[i / 61, i / 61] for i in range(61)]),
        (("audit", "rmia@direct", "roc"), [[0.5, 0.5, 0.5]]),
        (("audit", "rmia@direct", "roc"), [IMAGES]),
        (("audit", "rmia@direct", "roc"), 0.5),
        (("audit", "rmia@direct", "roc", 0), [-3.7, 4.2]),
        (("canaries", "loss", "roc"), [[1.0, 1.0]]),
        (("canaries", "loss", "included"), [1, 0, 0, 1]),
        (("canaries", "loss", "unit"), "patient"),
        (("patients",), [{"image": 17}]),
        (("patients",), IMAGES),
        (("per_class", 0, "auc"), IMAGES),
        (("per_class", 0, "auc"), [0.5, 0.5]),
        (("per_class", 0, "classes"), ["patient 4711", "b", "c"]),
        (("per_class", 0, "names"), ["a", "b", "c"]),
        (("epsilon", 0, "coins"), [1, 0, 0, 1]),
        (("epsilon", 0, "epsilon"), 4.2),
        (("epsilon", 0, "guessed"), 17),
        (("epsilon", 0, "reason"), "patient 4711 has a coin"),
        (("copies",), [{"image": 17}]),
        (("copies",), [COPIES.counts("st-mary")]),
        (("audit",), {"loss": {}}),
        (("audit", 0), IMAGES),
        (("per_class",), [{}, {}]),
    ],
)
def test_values_of_single_images_and_free_text_are_refused(document, path, value):
    spoilt(document, path, value)
    refused(document, " is .*: ")


@pytest.mark.parametrize("document", [[], "text", 4.2, None, {}])
def test_what_is_no_document_is_refused(document):
    refused(document, "is ")


# What contradicts itself.


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("audit", "loss", "auc"), ..., "auc' .*field required"),
        (("audit", "loss", "auc"), 7.0, "auc' is '7.0'"),
        (("audit", "loss", "auc"), math.nan, "finite"),
        (("audit", "loss", "auc"), math.inf, "finite"),
        (("audit", "loss", "auc"), True, "valid number"),
        (("audit", "loss", "auc_low"), 0.99, "lower limit of auc, 0.99"),
        (("audit", "loss", "members"), 1.5, "valid integer"),
        (("audit", "loss", "members"), True, "valid integer"),
        (("audit", "loss", "nonmembers"), 0, "greater than or equal to 1"),
        (("audit", "loss", "members"), 61, "members, nonmembers, duplicates are not the same"),
        (("audit", "loss", "elsewhere"), 50, "elsewhere are not the same"),
        (("audit", "loss", "balanced_accuracy"), None, "balanced_accuracy or one of its limits is missing"),
        (("audit", "loss", "headline"), 1, "headline=1"),
        (("audit", "rmia@pipeline", "headline"), True, "headline' is 'True'"),
        (("audit", "loss", "others"), True, "others=True"),
        (("audit", "rmia@direct", "others"), None, "others=None"),
        (("audit", "rmia@direct", "references"), "none", "expected each once"),
        (("audit", "rmia@direct", "attack"), "loss", "expected each once"),
        (("audit", "loss", "tpr_at_fpr_0.01"), None, "tpr_at_fpr_0.01 or one of its limits"),
        (("audit", "loss", "unresolved_tpr_at_fpr_0.001"), ..., "unresolved_tpr_at_fpr_0.001 or one of its limits"),
        (("audit", "rmia@direct", "roc", 0), [0.9, 0.0], "roc does not rise"),
        (("audit", "rmia@direct", "roc", 0), [0.0, 0.99], "roc does not rise"),
        (("canaries", "loss", "included"), ..., "field required"),
        (("canaries", "loss", "excluded"), 40, "included, excluded are not the same"),
        (("canaries", 0, "attack"), "lira-online", "canaries"),
        (("canaries", 0, "channel"), "image", r"and channels \['label'\]"),
        (("canaries", 0, "channel"), "patient 4711", "channel' is 'patient 4711'"),
        (("per_class", 0, "auc"), [0.5, 0.5, 0.5], "class 2: auc or one of its limits"),
        (("per_class", 0, "low"), [1.0, 0.1, None], "class 0: the lower limit"),
        (("per_class", 0, "classes"), [0, 2, 1], "not all classes in order"),
        (("per_class", 0, "attack"), "lira-online", "not the headline"),
        (("epsilon", 0, "references"), "direct", "not the headline"),
        (("epsilon", 0, "correct"), 10**6, "do not fit"),
        (("epsilon", 0, "correct"), ..., "do not fit"),
        (("epsilon", 0, "reason"), TOO_FEW, "do not fit"),
    ],
)
def test_a_document_that_contradicts_itself_is_refused(document, path, value, words):
    spoilt(document, path, value)
    refused(document, words)


def test_how_many_images_another_site_trains_on_travels_and_no_exact_number_does_from_who_withholds_them(document):
    for row in document["audit"]:
        row |= {"elsewhere": 3, "members": 50, "nonmembers": 100, "duplicates": 0}
    check(document)
    with pytest.raises(UserError, match="elsewhere=3 is an exact count"):
        AuditQuestion("student", "student", 3, CONFIG).check("st-mary", document, exact=False)


@pytest.mark.parametrize(("coins", "most"), [(True, 1_000_000), (False, 20)])
def test_more_coins_than_a_bound_can_be_worked_out_of_are_refused(document, coins, most):
    document["epsilon"][0] |= {"coins": most + 1, "guesses": 2, "correct": 1}
    refused(document, "do not fit", config=dataclasses.replace(CONFIG, coins=coins))
    document["epsilon"][0] |= {"coins": most}
    check(document, config=dataclasses.replace(CONFIG, coins=coins))


def test_a_tpr_that_its_nonmembers_cannot_show_is_refused(document):
    row = row_of(document, "loss")
    for end in ("", "_low", "_high"):
        row[f"tpr_at_fpr_0.001{end}"] = row.pop(f"unresolved_tpr_at_fpr_0.001{end}")
    refused(document, "not what 110 non-members can show")


def test_rows_are_each_there_once_and_those_without_references_always(document):
    rows = document["audit"]
    for others in (rows[1:], [rows[0], *rows], [rows[1], rows[0], *rows[2:]]):
        refused(document | {"audit": others}, "expected each once|at most")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"suspects": ...}, "suspects"),
        ({"suspects": 401}, "suspects=401 of released=400"),
        ({"released": 0, "suspects": 0, "verbatim": 0}, "released=0"),
        ({"members": 1.5}, "valid integer"),
        ({"suspects": [3, 17]}, "valid integer"),
        ({"share": 0.5}, "extra inputs"),
        ({"site": "st-john"}, "site"),
    ],
)
def test_an_answer_that_is_no_copy_check_is_refused(of_release, change, words):
    counts = {name: value for name, value in (COPIES.counts("st-mary") | change).items() if value is not ...}
    refused(audit_document(of_release, [counts]), words, target="release")


def test_a_release_without_its_copy_check_is_refused(of_release):
    refused(audit_document(of_release), "copies", target="release")


# Comparisons.

PAIR = Pair("rmia", "direct", "student", "abc", "fedavg", "def")


def comparison(**change):
    blind = {"site": "st-mary", "auc": 0.5, "p_value": 0.4, "classes_p_value": 0.7}
    return {
        "blind": [blind],
        "paired": [PAIR.names("st-mary") | {"difference": -0.3, "low": -1.0, "high": 1.0, "unit": "image"}],
    } | change


def test_a_comparison_answers_the_pairs_that_were_asked_for():
    check_comparison([PAIR], "st-mary", comparison())
    check_comparison([], "st-mary", comparison(paired=[]))


@pytest.mark.parametrize("value", [None, 1.5, -1.5, "0.5", math.nan, [0.1, 0.2], True])
def test_a_paired_difference_is_one_number_between_minus_one_and_one(value):
    row = comparison()["paired"][0] | {"difference": value}
    with pytest.raises(UserError, match=r"comparison at st-mary: 'paired\.0\.difference'"):
        check_comparison([PAIR], "st-mary", comparison(paired=[row]))


@pytest.mark.parametrize(
    "change",
    [
        {"scores": IMAGES},
        {"paired": []},
        {"paired": comparison()["paired"] * 2},
        {"paired": [comparison()["paired"][0] | {"target": "patient 4711"}]},
        {"paired": [comparison()["paired"][0] | {"site": "st-john"}]},
        {"paired": [comparison()["paired"][0] | {"low": 0.5, "high": 0.1}]},
        {"paired": [comparison()["paired"][0] | {"scores": IMAGES}]},
        {"paired": [comparison()["paired"][0] | {"unit": "patient 4711"}]},
        {"paired": [comparison()["paired"][0] | {"unit": ["image", "patient"]}]},
        {"blind": []},
        {"blind": [{"site": "st-mary", "auc": 17.0, "p_value": 0.5, "classes_p_value": 0.5}]},
        {"blind": [{"site": "st-mary", "auc": [0.1, 0.2], "p_value": 0.5, "classes_p_value": 0.5}]},
        {"blind": [{"site": "st-mary", "auc": 0.5, "classes_p_value": 0.5}]},
        {"blind": [{"site": "st-mary", "auc": 0.5, "p_value": 0.5}]},
        {"blind": [{"site": "st-mary", "auc": 0.5, "p_value": 0.5, "classes_p_value": 0.5, "score-of-image-17": 0.1}]},
    ],
)
def test_a_comparison_that_says_anything_else_is_refused(change):
    with pytest.raises(UserError, match="comparison at st-mary") as error:
        check_comparison([PAIR], "st-mary", comparison(**change))
    assert "\n" not in str(error.value)


def test_a_flood_of_pairs_is_refused():
    with pytest.raises(UserError, match="65 pairs of targets, more than 64"):
        check_comparison([PAIR] * 65, "st-mary", comparison(paired=comparison()["paired"] * 65))
