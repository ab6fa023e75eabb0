"""The report: results.json, tables for the terminal, figures, the self-contained page, TensorBoard events."""

from fedkr.report.html import render_report
from fedkr.report.results import (
    AuditRow,
    Results,
    SiteResult,
    StrategyResult,
    check_results,
    headline_rows,
    load_results,
    plain,
)
from fedkr.report.samples import SiteSamples
from fedkr.report.table import audit_table, comparison_table, print_tables
from fedkr.report.write import write_report

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
    "render_report",
    "write_report",
]
