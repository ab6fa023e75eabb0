"""The tables on the terminal."""

import io
import re

import pytest
from rich.console import Console

from fedkr.report.tables import audit_table, print_tables


@pytest.fixture
def printed(results):
    return print_on(80, results)


def print_on(width, results):
    console = Console(file=io.StringIO(), width=width)
    print_tables(results, console)
    return console.file.getvalue()


def test_every_strategy_has_a_row_with_its_scores_and_bytes(printed):
    for text in ("Local only", "FedAvg", "FedKR", "Centralised", "98.0 %", "3.4 MB", "1 min 01 s"):
        assert text in printed


def test_audit_table_names_headline_attack_and_chance(printed):
    assert "headline attack: modified entropy" in printed
    assert "AUC 0.5" in printed
    assert re.search(r"FedKR student +0.510 \[0.48, 0.54\] +not resolvable +0 +2 +0", printed)


def test_audit_table_of_a_full_audit_counts_verdicts_over_the_sites(full_results):
    printed = print_on(80, full_results)
    assert "outsider · pipeline" in printed
    assert re.search(r"FedKR student .* 0 +1 +2 *\n", printed)
    assert re.search(r"Site's teacher .* 3 +0 +0 *\n", printed)
    assert "…" not in printed


def test_nothing_is_cut_on_a_terminal_of_eighty_columns(printed):
    assert "…" not in printed


def test_the_audit_table_says_what_its_intervals_resample(full_results):
    assert "intervals by image: images are resampled" in str(audit_table(full_results).caption)
    for row in full_results["audit"]:
        row["unit"] = "patient"
    assert "intervals by patient" in str(audit_table(full_results).caption)


def test_copies_are_told_below_the_audit_table_and_a_name_is_no_markup(full_results):
    assert "near-copies" not in print_on(80, full_results)
    full_results["audit_extras"]["copies"][0] |= {"site": "[red]ward", "flagged": 1}
    assert "near-copies of members in the release of [red]ward (7 of" in " ".join(print_on(80, full_results).split())
