"""The study's dataclasses: round trip, identity and the checks that name what is wrong."""

import dataclasses
from typing import Annotated, Any

import pytest

from fedkr.config import (
    OneOf,
    Positive,
    Study,
    check_study,
    check_values,
    multiple_of,
    nearest,
    parse_study,
    read_dataclass,
)
from fedkr.errors import UserError


def altered(path: str, value: Any) -> Study:
    study = Study()
    *groups, name = path.split(".")
    node: Any = study
    for group in groups:
        node = getattr(node, group)
    setattr(node, name, value)
    return study


def test_the_default_study_passes_its_own_check() -> None:
    check_study(Study())


def test_a_study_survives_the_trip_through_json() -> None:
    study = altered("partition.alpha", 0.7)
    study.generator.options = {"width": 8}
    assert parse_study(study.to_json()) == study


@pytest.mark.parametrize("text", ["{", "[]", '"text"'])
def test_a_document_that_is_no_study_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="study"):
        parse_study(text)


def test_an_unknown_field_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(UserError, match=r"study\.partition\.alhpa: no such option; did you mean 'alpha'\?"):
        read_dataclass(Study, {"partition": {"alhpa": 1.0}}, "study")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"seed": "1"}, "study.seed='1'"),
        ({"seed": True}, "study.seed=True"),
        ({"audit": {"enabled": 1}}, "study.audit.enabled=1"),
        ({"strategy": {"lrs": 0.1}}, "study.strategy.lrs=0.1"),
        ({"strategy": {"lrs": [0.1, "x"]}}, r"study.strategy.lrs\[1\]='x'"),
        ({"generator": {"options": 3}}, "study.generator.options=3"),
        ({"data": None}, "study.data"),
    ],
)
def test_a_value_of_another_type_is_named_by_its_path(values: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        read_dataclass(Study, values, "study")


def test_a_whole_number_is_taken_for_a_real_one() -> None:
    alpha = read_dataclass(Study, {"partition": {"alpha": 1}}, "study").partition.alpha
    assert alpha == 1.0
    assert isinstance(alpha, float)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("partition.kind", "irid"),
        ("backend.kind", "rya"),
        ("data.flip", "vertical"),
        ("teacher.augment", "some"),
        ("student.norm", "layer"),
        ("student.steps", 0),
        ("teacher.lr", 0.0),
        ("generator.checkpoints", 0),
        ("recycle.exchange", "twice"),
        ("recycle.ratio", 0.0),
        ("recycle.tune_balances", ["even"]),
        ("recycle.tune_filters", [1.0]),
        ("recycle.tune_filters", [0.5, 0.9, 0.5]),
        ("recycle.tune_filters", [i / 100 for i in range(11)]),
        ("recycle.tune_balances", ["balanced", "balanced"]),
        ("recycle.rounds", 0),
        ("recycle.search_tolerance", -1.0),
        ("recycle.search_tolerance", float("nan")),
        ("recycle.leakage_weight", -1.0),
        ("teacher.keep_by", "auc"),
        ("teacher.weight_decay", float("nan")),
        ("partition.alpha", -1.0),
        ("partition.alpha", float("nan")),
        ("federation.sites", 0),
        ("federation.min_sites", 9),
        ("federation.deadline", 0.0),
        ("threads", 0),
        ("split.holdout", 0.0),
        ("split.val", 1.0),
        ("strategy.lrs", []),
        ("strategy.compare", []),
        ("strategy.compare", ["fedprox", "fedprox"]),
        ("strategy.compare", ["../fedprox"]),
        ("strategy.options", {"fedporx": {}}),
        ("strategy.options", {"fedavg": 3}),
        ("audit.targets", ["fedprox"]),
        # Below what the noise's random bits can keep, and without noise that could be scaled.
        ("privacy.delta", 1e-300),
        ("privacy.epsilon", 1e-9),
        ("audit.attacks", ["guess"]),
        ("audit.attacks", ["loss", "loss"]),
        ("audit.fprs", [0.0]),
        ("audit.fprs", [0.01, 0.01]),
        ("audit.fprs", [i / 100 for i in range(1, 18)]),
        ("audit.headline", "confidence"),
        ("audit.delta", 2.0),
        ("audit.pipeline_references", 3),
        ("audit.pipeline_references", 5),
        ("audit.direct_references", 5),
        ("backend.cpus_per_site", 0),
        ("device", "tpu"),
    ],
)
def test_a_value_that_no_run_could_use_is_named(path: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        check_study(altered(path, value))
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_splits_that_leave_nothing_to_train_on_are_refused() -> None:
    study = altered("split.val", 0.5)
    study.split.holdout = 0.45
    with pytest.raises(UserError, match="leave nothing to train on"):
        check_study(study)


def test_the_headline_is_not_checked_when_there_is_no_audit() -> None:
    study = altered("audit.headline", "none")
    study.audit.enabled = False
    check_study(study)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("backend.kind", "inline"),
        ("out", "elsewhere"),
        ("run_dir", "here"),
        ("data.root", "/mnt"),
        ("federation.deadline", 5.0),
    ],
)
def test_where_a_study_runs_is_no_part_of_its_identity(path: str, value: Any) -> None:
    assert altered(path, value).identity() == Study().identity()


@pytest.mark.parametrize(("path", "value"), [("seed", 1), ("threads", 2), ("student.lr", 0.2), ("federation.sites", 4)])
def test_what_changes_the_numbers_changes_the_identity(path: str, value: Any) -> None:
    assert altered(path, value).identity() != Study().identity()


def test_two_studies_share_no_lists() -> None:
    first, second = Study(), Study()
    first.strategy.lrs.append(1.0)
    first.generator.options["x"] = 1
    assert dataclasses.asdict(second) == dataclasses.asdict(Study())


def test_a_name_like_no_other_is_answered_with_the_known_ones() -> None:
    assert nearest("zzz", ["b", "a"]) == "; one of: a, b"


def test_images_are_known_by_their_content_wherever_they_lie() -> None:
    here, there = altered("data.path", "/here/own.npz"), altered("data.path", "/there/same.npz")
    assert here.identity() != there.identity()
    here.data_digest = there.data_digest = "content"
    assert here.identity() == there.identity()
    there.data_digest = "other content"
    assert here.identity() != there.identity()


@pytest.mark.parametrize("name", ["student", "teacher", "weights", "release"])
def test_a_contestant_is_not_called_what_the_audit_calls_a_kind_of_target(name):
    study = Study()
    study.strategy.compare = ["local", name]
    with pytest.raises(UserError, match=f"strategy.compare: '{name}' is what the audit calls a kind of target"):
        check_study(study)


@dataclasses.dataclass
class AnyonesOptions:
    width: Annotated[int, multiple_of(4)] = 8
    rates: list[Positive] = dataclasses.field(default_factory=list)
    mode: Annotated[str, OneOf("fast", "slow", what="mode")] = "fast"
    note: Annotated[str, "not a condition"] = ""


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"width": 6}, "here.width=6: must be a multiple of 4"),
        ({"rates": [0.1, float("nan")]}, "here.rates=nan: must be above 0"),
        ({"mode": "fats"}, "here.mode='fats': unknown mode; did you mean 'fast'?"),
    ],
)
def test_a_value_that_breaks_a_condition_in_its_annotation_is_one_line(values, line):
    check_values(AnyonesOptions(), "here")
    with pytest.raises(UserError) as caught:
        check_values(AnyonesOptions(**values), "here")
    assert str(caught.value) == line


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_smoothed_labels_have_no_class_shares_to_train_behind(name):
    study = Study()
    classifier = getattr(study, name)
    classifier.logit_adjustment, classifier.label_smoothing = 1.0, 0.1
    with pytest.raises(UserError, match=rf"{name}\.logit_adjustment=1 and {name}\.label_smoothing=0\.1"):
        check_study(study)


def test_an_adjusted_teacher_is_not_calibrated():
    study = Study()
    study.teacher.logit_adjustment, study.teacher.calibrate = 1.0, True
    with pytest.raises(UserError, match="logit_adjustment=1 and"):
        check_study(study)
