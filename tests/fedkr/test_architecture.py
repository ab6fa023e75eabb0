"""The classifier by the side of the images: small ones keep theirs, and what the rule chose stands in the study."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkr.config import FactsConfig, Study, check_study, parse_study, scheduled
from fedkr.config.architecture import AUTO, classifier_for, with_classifiers
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.learning.models import build_classifier
from server.composition import compose_study
from sites.studies import StudyRules, study_digest


def left_to_rule(**facts):
    teacher, student = (dataclasses.replace(config, arch=AUTO) for config in (Study().teacher, Study().student))
    return dataclasses.replace(Study(), teacher=teacher, student=student, facts=FactsConfig(**facts))


def archs(study):
    return study.teacher.arch, study.student.arch


@given(st.integers(1, 63))
def test_below_64_pixels_the_rule_makes_the_study_that_names_resnet14(side):
    found = with_classifiers(left_to_rule(), side)
    assert found.identity() == Study().identity() and study_digest(found) == study_digest(Study())


@given(st.integers(64, 4096))
def test_from_64_pixels_on_it_is_resnet18(side):
    assert archs(with_classifiers(left_to_rule(), side)) == ("resnet18", "resnet18")


@given(side=st.integers(1, 4096), arch=st.sampled_from(["resnet8", "resnet20", "resnet18"]))
def test_a_classifier_that_is_named_stays(side, arch):
    study = left_to_rule()
    study.student.arch = arch
    assert archs(with_classifiers(study, side)) == (classifier_for(side), arch)


@pytest.mark.parametrize("side", [32, 64])
def test_the_rules_classifier_can_be_built(side):
    config = with_classifiers(left_to_rule(), side).student
    assert sum(p.numel() for p in build_classifier(config, Shape(1, side, 2), "seed").parameters()) > 100_000


def test_a_composed_study_names_the_classifier_of_its_images():
    assert archs(compose_study([])) == ("resnet14", "resnet14")
    assert archs(compose_study(["dataset=bloodmnist", "data.size=64"])) == ("resnet18", "resnet18")
    assert archs(compose_study(["dataset=bloodmnist", "data.size=64", "teacher=resnet20"])) == ("resnet20", "resnet18")


def test_images_are_counted_for_a_classifier_alone():
    found = scheduled(left_to_rule(), lambda _: FactsConfig(600, 64, 3, 2))
    assert archs(found) == ("resnet18", "resnet18")
    assert archs(scheduled(left_to_rule(images=600, side=64))) == ("resnet18", "resnet18")
    assert archs(scheduled(left_to_rule())) == ("resnet14", "resnet14")


def test_no_study_that_leaves_its_classifier_open_travels():
    study = left_to_rule()
    for call in (lambda: check_study(study), lambda: parse_study(study.to_json())):
        with pytest.raises(UserError, match=r"^teacher\.arch='auto': a rule for who composes a study"):
            call()


def test_a_sites_bounds_hold_of_what_the_rule_chose():
    rules = StudyRules(bounds={"student.arch": ["resnet8", "resnet14"]})
    assert rules.outside(with_classifiers(left_to_rule(), 28)) == []
    (line,) = rules.outside(with_classifiers(left_to_rule(), 64))
    assert line.startswith("student.arch=resnet18: outside this site's bounds")
