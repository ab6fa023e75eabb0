"""Puts a finished run's report into its folder: its results, two pages, figures and TensorBoard events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedkr.disk import write_atomic
from fedkr.errors import UserError
from fedkr.report.events import write_events
from fedkr.report.pages.report import render_report, render_statement
from fedkr.report.plots import draw_figures
from fedkr.report.plots.style import to_png
from fedkr.report.results import RESULTS_FILE, Results, check_results, plain
from fedkr.report.samples import SiteSamples

REPORT_FILE = "report.html"
STATEMENT_FILE = "privacy.html"


def write_report(run_dir: Path, results: dict[str, Any] | Results, samples: dict[str, SiteSamples] | None) -> Path:
    """Write the report of one run and return the path of ``report.html``.

    Args:
        run_dir: the run's folder; gets results.json, report.html, privacy.html, figures/ and tensorboard/.
        results: of the shape of :class:`fedkr.report.results.Results`; NaN becomes null.
        samples: a few images of each site by its name, or None.

    Raises:
        UserError: results of another shape, or a disk that refuses.
    """
    finished = check_results(plain(results))
    samples = samples or {}
    write_atomic(run_dir / RESULTS_FILE, json.dumps(finished, indent=2, allow_nan=False).encode() + b"\n")
    figures = draw_figures(finished, samples)
    for name, figure in figures.items():
        write_atomic(run_dir / "figures" / f"{_file_name(name)}.png", to_png(figure))
    report = run_dir / REPORT_FILE
    write_atomic(report, render_report(finished, samples, figures).encode())
    write_atomic(run_dir / STATEMENT_FILE, render_statement(finished).encode())
    try:
        write_events(run_dir / "tensorboard", finished, samples)
    except OSError as error:
        raise UserError(f"{run_dir / 'tensorboard'}: cannot be written ({error.strerror}); free space there") from None
    return report


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
