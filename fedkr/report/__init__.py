"""The report: results.json, tables for the terminal, figures, self-contained pages, TensorBoard events."""

from fedkr.report.results import (
    AuditRow,
    Results,
    SiteResult,
    StrategyResult,
    check_results,
    load_results,
    plain,
)
from fedkr.report.samples import SiteSamples
from fedkr.report.selection import headline_rows
from fedkr.report.tables import audit_table, comparison_table, print_tables

__all__ = [
    "AuditRow",
    "Results",
    "SiteResult",
    "SiteSamples",
    "StrategyResult",
    "audit_table",
    "check_results",
    "comparison_table",
    "headline_rows",
    "load_results",
    "plain",
    "print_tables",
]
