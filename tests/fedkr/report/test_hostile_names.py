"""Names come from sites: wherever they stand, they are read as they are spelled."""

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.text import Text
from rich.console import Console

from fedkr.audit.challenge import build_challenge
from fedkr.audit.findings import AuditReport
from fedkr.data.images import ImageSet
from fedkr.report.pages.outside import render_outside
from fedkr.report.pages.report import render_report
from fedkr.report.pages.site_audit import write_local_report
from fedkr.report.plots import draw_figures
from fedkr.report.plots.style import to_svg
from fedkr.report.results import plain
from fedkr.report.tables import print_tables

# Ends a tag and an attribute, opens a script, and is markup to rich and a broken formula to matplotlib.
NAME = """<script>alert("1")</script>'"><img src=x onerror=alert(2)>[bold red][/italic]{{ 7 * 7 }}$\\frac{$"""
FORMULA = r"$\frac{$ & $x^2$"
TAGS = re.compile(
    "html|head|meta|title|style|script|body|header|nav|main|section|footer|div|h1|h2|h3|p|b|a|ul|li|dl|dt|dd|pre|small"
    "|table|thead|tbody|tr|th|td|span|details|summary|figure|img|figcaption"
)
SCRIPT = """addEventListener("beforeprint",()=>document.querySelectorAll("details").forEach(d=>d.open=true));"""


class Page(HTMLParser):
    """What a browser makes of a page: its tags, their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.scripts, self.within = set(), [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        self.within = tag

    def handle_data(self, data):
        (self.scripts if self.within == "script" else self.texts).append(data)


def renamed(document, to=NAME):
    """Return a document in which site-0, its class, its strategy and an attack have a hostile name."""
    text = json.dumps(plain(document))
    for name in ("site-0", "fedavg", "rmia", "plain", "the lower limit 0.57 is above 0.5"):
        text = text.replace(json.dumps(name), json.dumps(to))
    return json.loads(text)


def is_harmless(text):
    page = Page(text)
    assert all(TAGS.fullmatch(tag) for tag in page.tags)
    assert [script.strip() for script in page.scripts if script.strip()] in ([], [SCRIPT])
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(value.startswith("data:image/") for name, value in page.attributes if name == "src")
    assert any(NAME in text for text in page.texts)


@pytest.fixture
def hostile(full_results, searched):
    whole = full_results | {"recycling": searched["recycling"], "notes": ["site-0"], "missing_sites": ["site-0"]}
    return renamed(whole | {"identity": "site-0", "hardware": {"site-0": "site-0"}})


def test_a_runs_page_shows_hostile_names_as_text(hostile, samples):
    is_harmless(render_report(hostile, {NAME: samples["site-0"]}, figures={}))


def test_a_sites_own_page_shows_hostile_names_as_text(tmp_path):
    rng = np.random.default_rng(0)
    sets = [ImageSet(rng.integers(0, 256, (9, 8, 8, 1), dtype=np.uint8), np.arange(9) % 2, (NAME, "b")) for _ in "ab"]
    reports = [AuditReport(NAME, [])]
    is_harmless(write_local_report(tmp_path / "audit.html", NAME, reports, build_challenge(*sets)).read_text())


def test_an_outside_models_page_shows_hostile_names_as_text(full_results):
    rows = [row for row in full_results["audit"] if row["target"] == "student" and row["references"] == "direct"]
    verdict = {"site": NAME, "target": "student", "verdict": NAME, "reason": NAME}
    extras = full_results["audit_extras"] | {"verdicts": [verdict]}
    names = dict.fromkeys(("model", "kind", "data", "recipe", "fedkr"), NAME)
    document = {**names, "notes": [NAME], "study": full_results["study"], "audit": rows, "audit_extras": extras}
    is_harmless(render_outside(renamed(document)))


def test_the_terminal_shows_hostile_names_as_text(hostile):
    console = Console(file=io.StringIO(), width=800)
    print_tables(hostile, console)
    assert console.file.getvalue().count(NAME) == 4  # the strategy, its model, its update, the headline attack


def test_figures_draw_formulas_in_names_as_they_are_spelled(searched, samples):
    searched["study"]["strategy"] = {"kind": "fedavg"}
    figures = draw_figures(renamed(searched, FORMULA), {FORMULA: samples["site-0"]})
    for figure in figures.values():
        assert to_svg(figure)
        assert not any(text.get_parse_math() for text in figure.findobj(Text))
    shown = " ".join(text.get_text() for figure in figures.values() for text in figure.findobj(Text))
    for text in (f"{FORMULA} · 20 images", f"{FORMULA} model", "cost $5 & $6"):
        assert text in shown
