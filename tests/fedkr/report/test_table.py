"""The tables on the terminal."""

import io

import pytest
from rich.console import Console

from fedkr.report import print_tables


@pytest.fixture
def printed(results):
    console = Console(file=io.StringIO(), width=80)
    print_tables(results, console)
    return console.file.getvalue()


def test_every_strategy_has_a_row_with_its_scores_and_bytes(printed):
    for text in ("Local only", "FedAvg", "FedKR", "Centralised", "98.0 %", "3.4 MB", "1 min 01 s"):
        assert text in printed


def test_audit_table_names_headline_attack_and_chance(printed):
    assert "headline attack: modified entropy" in printed
    assert "AUC 0.5" in printed
    assert "0.510 [0.47, 0.55]" in printed
    assert "not resolvable" in printed


def test_nothing_is_cut_on_a_terminal_of_eighty_columns(printed):
    assert "…" not in printed
