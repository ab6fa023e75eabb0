"""Membership of a patient as a unit, and which unit the intervals of a report resample."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from fedkr.audit.challenge import Challenge, build_challenge
from fedkr.audit.counted import Counted
from fedkr.audit.document import AuditQuestion, audit_document, audit_extras, keyed
from fedkr.audit.findings import report_from_scores
from fedkr.audit.statistics.membership import auc
from fedkr.audit.statistics.patients import strongest_of_each
from fedkr.audit.subject import Subject
from fedkr.config import AuditConfig
from fedkr.data.images import ImageSet
from fedkr.errors import UserError

CONFIG = AuditConfig(attacks=["loss", "confidence"], headline="loss", bootstrap=30, fprs=[0.1, 0.01])
CLASSES = ("a", "b")


def side(rng, patients, each, first=0):
    """Images of so many patients, numbered from ``first`` on, in no order."""
    groups = rng.permutation(np.repeat(np.arange(first, first + patients), each))
    images = rng.integers(0, 256, (len(groups), 4, 4, 1), dtype=np.uint8)
    return ImageSet(images, np.arange(len(groups)) % 2, CLASSES, groups)


@pytest.fixture(scope="module")
def challenge():
    rng = np.random.default_rng(0)
    return build_challenge(side(rng, 40, 4), side(rng, 25, 3, first=1000))


def subject(challenge, **more):
    return Subject("student", "st-mary", challenge, CONFIG, 0, **more)


def reported(challenge, scores):
    return report_from_scores({"loss": scores, "confidence": scores}, subject(challenge))


@pytest.fixture(scope="module")
def report(challenge):
    return reported(challenge, np.random.default_rng(1).normal(size=challenge.natural))


def test_a_patient_scores_as_its_strongest_image():
    scores, groups = np.array([0.1, 3.0, -1.0, 0.2, -5.0]), np.array([9, 4, 9, 4, 7])
    assert strongest_of_each(scores, groups).tolist() == [3.0, -5.0, 0.1]
    with pytest.raises(UserError, match="groups: expected 5"):
        strongest_of_each(scores, groups[:4])


def test_each_attack_has_a_row_of_patients_with_their_own_auc_and_counts(challenge, report):
    scores = report.scores["loss"]
    parts = [(scores[:160], challenge.members), (scores[160:], challenge.nonmembers)]
    by_hand = [[own[images.groups == group].max() for group in np.unique(images.groups)] for own, images in parts]
    assert [row["attack"] for row in report.patients] == ["loss", "confidence"]
    row = report.patients[0]
    assert row["auc"] == auc(*by_hand) and (row["members"], row["nonmembers"]) == (40, 25)
    assert row["tpr_at_fpr_0.1"] is not None and row["tpr_at_fpr_0.01"] is None
    assert row["auc_low"] <= row["auc"] <= row["auc_high"]


def test_a_leak_of_one_image_a_patient_shows_in_patients_and_hardly_in_images(challenge):
    scores = np.random.default_rng(2).normal(size=challenge.natural)
    scores[np.unique(challenge.members.groups, return_index=True)[1]] += 3
    report = reported(challenge, scores)
    assert report.patients[0]["auc"] > 0.85 > 0.75 > report.rows[0]["auc"]
    assert report.patients[0]["auc_low"] > 0.5


def test_patients_of_whom_no_image_counts_are_none(challenge):
    counted = np.ones(challenge.natural, bool)
    counted[:160] = challenge.members.groups >= 10
    scores = {"loss": np.zeros(challenge.natural)}
    report = report_from_scores(scores, subject(challenge, counted=Counted(counted, 0)))
    assert (report.patients[0]["members"], report.patients[0]["nonmembers"]) == (30, 25)


def test_every_row_with_an_interval_says_what_is_resampled(challenge, report):
    assert {row["unit"] for row in (*report.rows, *report.patients, *report.per_class)} == {"patient"}
    single = Challenge(*(replace(images, groups=None) for images in challenge.sides), 0)
    without = reported(single, report.scores["loss"])
    assert {row["unit"] for row in (*without.rows, *without.per_class)} == {"image"}
    assert without.patients == [] and len(report.per_class) == 1


# What leaves a site.


@pytest.fixture
def document(report):
    return copy.deepcopy(audit_document(report))


def check(document, **more):
    AuditQuestion("student", "student", 2, CONFIG).check("st-mary", document, **more)


def test_patients_travel_as_figures_beside_the_images_or_not_at_all(document):
    check(json.loads(json.dumps(document)))
    found = audit_extras(document, CONFIG)["patients"]
    assert found[0] == document["patients"][0] | {"guessing_tpr_at_fpr_0.1": 3 / 26}
    check(document | {"patients": []})


def changed(document, part, **values):
    row = keyed(document[part])["loss"] if part != "per_class" else document[part][0]
    row |= values


@pytest.mark.parametrize(
    ("part", "values", "words"),
    [
        ("patients", {"names": ["patient 4711"]}, "extra inputs"),
        ("patients", {"scores": [0.25] * 40}, "extra inputs"),
        ("patients", {"roc": [[1.0, 1.0]]}, "extra inputs"),
        ("patients", {"members": [4, 4, 3]}, "valid integer"),
        ("patients", {"members": 10**40}, "members"),
        ("patients", {"members": 161}, "members, nonmembers are not the same"),
        ("patients", {"unit": "patient 4711"}, "unit"),
        ("patients", {"unit": "image"}, "unit"),
        ("patients", {"auc": 7.0}, "auc' is '7.0'"),
        ("patients", {"auc_low": 0.99}, "the lower limit of auc"),
        ("patients", {"tpr_at_fpr_0.01": 0.1}, "or one of its limits is missing"),
        ("patients", {"site": "patient 4711"}, "site"),
        ("patients", {"attack": "confidence"}, "are not those of the rows"),
        ("audit", {"unit": "patient 4711"}, "unit"),
        ("audit", {"unit": "image"}, "unit are not the same"),
        ("per_class", {"unit": ["a", "b"]}, "unit"),
        ("per_class", {"unit": "image"}, "unit are not the same"),
    ],
)
def test_values_of_single_patients_and_what_contradicts_itself_are_refused(document, part, values, words):
    changed(document, part, **values)
    with pytest.raises(UserError, match=words) as error:
        check(document)
    assert "\n" not in str(error.value)


def test_more_patients_than_images_and_patients_of_images_without_any_are_refused(document):
    for row in document["patients"]:
        row["members"] = 161
    with pytest.raises(UserError, match="161 and 25 do not fit 160 and 75 images"):
        check(document)
    for row in (*document["audit"], *document["per_class"]):
        row["unit"] = "image"
    with pytest.raises(UserError, match="images, resampled by image"):
        check(document)


def test_a_row_of_patients_too_many_or_too_few_is_refused(document):
    first, second = document["patients"]
    for rows in ([first], [second, first]):
        with pytest.raises(UserError, match="are not those of the rows"):
            check(document | {"patients": rows})
    with pytest.raises(UserError, match="at most 2"):
        check(document | {"patients": [first, second, second]})


def test_an_exact_count_of_patients_does_not_leave_who_withholds_counts(document):
    for row in document["audit"]:
        row |= {"members": 150, "nonmembers": 50}
    with pytest.raises(UserError, match=r"members=(40|25) is an exact count"):
        check(document, exact=False)
