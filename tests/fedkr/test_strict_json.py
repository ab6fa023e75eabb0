import json
import math

import pytest

from fedkr.errors import UserError
from fedkr.strict_json import Count, Flag, Rate, check_strict, list_of, object_of, one_of

SHAPE = object_of(
    "a", {"share": Rate, "count": Count, "kind": one_of("a", "b"), "flag": Flag}, {"points": list_of(Rate, 2, 1)}
)
FITTING = {"share": 0.5, "count": 3, "kind": "a", "flag": 0}


def test_a_document_of_the_shape_passes_with_and_without_what_is_optional():
    for more in (
        {},
        {"points": [0.1]},
        {"points": [0, 1.0]},
        {"kind": "b"},
        {"flag": 1},
        {"share": 1},
        {"count": 2**53},
    ):
        check_strict(SHAPE, FITTING | more)


@pytest.mark.parametrize(
    "change",
    [
        {"share": "0.5"},
        {"share": True},
        {"share": math.nan},
        {"share": -0.1},
        {"share": 10**400},
        {"share": None},
        {"count": 3.0},
        {"count": False},
        {"count": -1},
        {"count": 2**53 + 1},
        {"kind": "c"},
        {"kind": True},
        {"flag": True},
        {"flag": 2},
        {"kind": ["a"]},
        {"points": []},
        {"points": [0.1, 0.2, 0.3]},
        {"points": (0.1,)},
        {"points": None},
        {"more": 1},
    ],
)
def test_anything_else_is_refused_with_its_place(change):
    (name,) = change
    with pytest.raises(UserError, match=f"^'{name}"):
        check_strict(SHAPE, FITTING | change)


def test_a_missing_field_is_named():
    with pytest.raises(UserError, match=r"^'count' .*field required"):
        check_strict(SHAPE, {"share": 0.5, "kind": "a", "flag": 0})


def test_what_the_other_machine_wrote_is_printed_short_and_on_one_line():
    hostile = json.loads(json.dumps({"\n\x1b[2J" * 100: "secret\n" * 1000}))
    with pytest.raises(UserError) as error:
        check_strict(SHAPE, FITTING | hostile)
    assert str(error.value).isprintable() and len(str(error.value)) < 250
