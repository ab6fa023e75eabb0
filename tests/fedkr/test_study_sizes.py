"""A study as a hostile server might write it: too large, endless, or no study at all, and refused in one short line."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkr.config import Study, check_study, parse_study
from fedkr.errors import UserError


def with_value(path: str, value: Any) -> str:
    values = json.loads(Study().to_json())
    *groups, name = path.split(".")
    node = values
    for group in groups:
        node = node[group]
    node[name] = value
    return json.dumps(values)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 2**60),
        ("threads", 10**8),
        ("data.size", 10**5),
        ("data.name", "a" * 5000),
        ("data.classes", ["a"] * 2000),
        ("data.classes", ["a\x1b[2J"]),
        ("data.classes", ["\ud800"]),
        ("federation.sites", 10**6),
        ("federation.deadline", 1e12),
        ("partition.redraws", 10**9),
        ("teacher.steps", 10**9),
        ("teacher.width", 10**6),
        ("teacher.lr", math.inf),
        ("teacher.mixup", math.inf),
        # A whole number for a float, which would be another one.
        ("student.weight_decay", 2**53 + 1),
        ("student.batch", 10**9),
        ("generator.steps", 10**9),
        ("generator.checkpoints", 10**6),
        ("generator.options", {"width": math.inf}),
        ("generator.options", {"width": 10**400}),
        ("generator.options", {"members": [{}] * 5000}),
        ("recycle.views", 10**6),
        ("recycle.rounds", 10**6),
        ("recycle.ratio", 1e9),
        ("recycle.tuning_budget", 10**6),
        ("recycle.tune_filters", [0.1] * 100),
        ("recycle.temperature", math.inf),
        ("strategy.rounds", 10**6),
        ("strategy.lrs", [0.1] * 100),
        ("strategy.local_epochs", [10**6]),
        ("strategy.options", {"fedkr": {"a": math.nan}}),
        ("strategy.options", {"fedavg": {"rounds": "many"}}),
        ("strategy.options", {"fedavg": {"rounds": 10**6}}),
        ("strategy.options", {"fedavg": {"local_epochs": [10**6]}}),
        ("audit.bootstrap", 10**9),
        ("audit.permutations", 10**9),
        ("audit.direct_references", 10**6),
        ("audit.queries", 10**6),
        ("audit.gamma", math.inf),
        ("audit.canaries", 10**9),
        ("audit.targets", ["student"] * 1000),
    ],
)
def test_a_value_beyond_its_upper_bound_is_named_in_one_short_line(path: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        parse_study(with_value(path, value))
    line = str(caught.value)
    assert path in line
    assert line.isprintable()
    assert len(line) < 600


def test_groups_in_one_another_without_end_are_refused() -> None:
    options: dict[str, Any] = {}
    for _ in range(50):
        options = {"options": options}
    with pytest.raises(UserError, match="deep"):
        parse_study(with_value("generator.options", options))


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, '{"seed": ' + "1" * 5000 + "}", " " * 2_000_000, "\ud800"])
def test_a_text_that_no_reader_of_json_can_hold_is_no_study(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_study(text)
    assert len(str(caught.value)) < 600


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just(10**400))
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


def paths(values: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in values.items():
        found += [prefix + name] + (paths(value, f"{prefix}{name}.") if isinstance(value, dict) else [])
    return found


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(paths(json.loads(Study().to_json()))), value=VALUES)
def test_any_value_anywhere_is_a_study_or_one_line(path: str, value: Any) -> None:
    try:
        study = parse_study(with_value(path, value))
    except UserError as error:
        assert "\n" not in str(error)
    else:
        check_study(study)
        assert parse_study(study.to_json()) == study


@settings(max_examples=300, deadline=None)
@given(st.text() | VALUES.map(json.dumps))
def test_any_text_is_a_study_or_one_line(text: str) -> None:
    try:
        parse_study(text)
    except UserError as error:
        assert "\n" not in str(error)
