"""Cards and manifests hold nothing that a report could fail on, whatever a site writes into them."""

import pytest

from fedkr.documents import check_document
from fedkr.errors import UserError
from fedkr.site_name import check_site_name

TRIED = {"score": 0.5, "loss": 1.0}


@pytest.mark.parametrize(
    ("stage", "row"),
    [
        ("checkpoints", {}),
        ("checkpoints", {"step": 1, "loss": 0.5}),
        ("checkpoints", TRIED | {"step": 2**53}),
        ("checkpoints", {"step": 1, "score": float("nan"), "loss": 1.0}),
        ("checkpoints", {"step": 1, "score": 1e308, "loss": 1.0}),
        ("checkpoints", {"step": 1, "score": 0.5, "loss": float("-inf")}),
        ("checkpoints", {"step": 1, "score": 0.5, "loss": 1e308}),
        ("tuning", {}),
        ("tuning", TRIED),
        ("tuning", TRIED | {"knobs": {"steps": float("nan")}}),
        ("tuning", TRIED | {"knobs": {"\x1b[2J": 1.0}}),
    ],
)
def test_a_trial_that_lacks_a_field_or_holds_no_ordinary_number_is_refused(stage, row):
    known = {"checkpoints": TRIED | {"step": 40}, "tuning": TRIED | {"knobs": {"steps": 5}}}[stage]
    check_document("manifest", {"scores": {stage: [known]}})
    with pytest.raises(UserError, match=f"manifest: field 'scores.{stage}.0") as refused:
        check_document("manifest", {"scores": {stage: [row]}})
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\u202eabc"])
def test_a_text_that_cannot_be_printed_is_refused(text):
    for name, values in (
        ("card", {"version": text}),
        ("card", {"classes": ["ill", text]}),
        ("manifest", {"left_out": [text]}),
    ):
        with pytest.raises(UserError, match="holds a character that cannot be printed"):
            check_document(name, values)


def test_counts_beyond_what_a_site_can_hold_are_refused():
    check_document("card", {"classes": ["a", "b"], "counts": {"train": [10**7, 0]}})
    with pytest.raises(UserError, match=r"card: field 'counts\.train\.0'"):
        check_document("card", {"classes": ["a", "b"], "counts": {"train": [2**53, 0]}})


def test_a_sites_name_fits_into_the_name_of_a_file():
    assert check_site_name("ü" * 60, "name") == "ü" * 60
    with pytest.raises(UserError, match="at most 120 bytes as UTF-8"):
        check_site_name("\U0001f600" * 64, "name")
