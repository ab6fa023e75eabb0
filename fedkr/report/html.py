"""The page that a reader opens after a run: one self-contained HTML file, section by section."""

from __future__ import annotations

from html import escape

from matplotlib.figure import Figure

from fedkr.report.audit_section import audit_section
from fedkr.report.conclusions import accuracy_verdict, audit_verdict, most_exposed, uncertainty
from fedkr.report.elements import (
    Cell,
    Markup,
    cards,
    definitions,
    folded,
    heading,
    notice,
    page,
    paragraph,
    png_figure,
    preformatted,
    section,
    svg_figure,
    table,
)
from fedkr.report.plots import draw_figures
from fedkr.report.results import Results, SiteRecycling, site_totals, strategy_by_name
from fedkr.report.samples import SiteSamples
from fedkr.report.search_section import search_section
from fedkr.report.wording import (
    decimal,
    duration,
    percent,
    size,
    strategy_label,
    strategy_meaning,
)

# Folded parts are opened before printing: paper has nothing to click on.
SCRIPT = """addEventListener("beforeprint",()=>document.querySelectorAll("details").forEach(d=>d.open=true));"""
OPEN_GRIDS = 3
PRIVATE_IMAGES = (
    "Real images appear here because this run simulated its sites in one place. "
    "If the data are not public, this page is not to be passed on."
)

Figures = dict[str, Figure]

COST_NOTE = (
    "Bytes are those of the exchanges that train; computing time is what sites and server spent on it, added up, "
    "also where they worked at the same time or shared a processor."
)


def render_report(results: Results, samples: dict[str, SiteSamples] | None, figures: Figures | None = None) -> str:
    """Return the whole page.

    Args:
        results: what :func:`fedkr.report.results.check_results` accepts, free of NaN.
        samples: a few images of each site by its name, or None where there are none to show.
        figures: what :func:`fedkr.report.plots.draw_figures` returned; drawn here if not given.
    """
    samples = samples or {}
    figures = draw_figures(results, samples) if figures is None else figures
    parts = {
        "result": ("Result", _headline(results)),
        "comparison": ("Comparison", _comparison(results, figures)),
        "sites": ("Sites", _sites(results, figures)),
        "shared": ("Shared", _shared(results, samples, figures)),
        "audit": ("Audit", audit_section(results, figures)),
        "cost": ("Cost", _cost(results, figures)),
        "recycling": ("Recycling", search_section(results, figures)),
        "setup": ("Setup", _setup(results)),
    }
    links = "".join(f'<a href="#{name}">{title}</a>' for name, (title, body) in parts.items() if body)
    body = "\n".join(body for _, body in parts.values())
    return page(_title(results), _subtitle(results), body, _imprint(results), links=links, script=SCRIPT)


def _title(results: Results) -> str:
    data = results.get("study", {}).get("data") or {}
    return f"Federated Knowledge Recycling on {data.get('name', 'a data set')}"


def _subtitle(results: Results) -> str:
    parts = []
    if sites := results.get("sites"):
        parts.append(f"{len(sites)} site{'s' if len(sites) != 1 else ''}")
    if partition := results.get("study", {}).get("partition"):
        kind = str(partition.get("kind", ""))
        parts.append(f"Dirichlet alpha {partition.get('alpha')}" if kind == "dirichlet" else f"{kind} partition")
    if classes := results.get("classes"):
        parts.append(f"{len(classes)} classes")
    if "seed" in results:
        parts.append(f"seed {results['seed']}")
    if results.get("seconds") is not None:
        parts.append(f"finished in {duration(results['seconds'])}")
    return " · ".join(parts)


def _imprint(results: Results) -> str:
    version = results.get("fedkr", "")
    return f"Made by fedkr {version} · study {results.get('identity', 'unnamed')} · results.json holds every figure."


def _headline(results: Results) -> str:
    missing = results.get("missing_sites", [])
    return section(
        "result",
        "What came out",
        paragraph(accuracy_verdict(results), "verdict"),
        paragraph(audit_verdict(results)),
        cards(_figures(results)),
        paragraph(uncertainty(results), "quiet"),
        notice("These sites did not take part to the end:", missing),
        notice("Notes of the run:", results.get("notes", [])),
    )


def _figures(results: Results) -> list[tuple[str, str]]:
    entries = []
    if student := strategy_by_name(results, "fedkr"):
        entries.append((percent(student.get("accuracy")), "accuracy of the student (FedKR)"))
        if student.get("auc") is not None:
            entries.append((decimal(student.get("auc")), "AUC of the student on the task"))
        if student.get("bytes_up") is not None:
            entries.append((size(student.get("bytes_up")), "sent by all sites together"))
    if exposed := most_exposed(results):
        entries.append((decimal(exposed[0]), f"highest membership AUC of a site (0.5: guessing): {exposed[1]}"))
    return entries


def _comparison(results: Results, figures: Figures) -> str:
    strategies = results["strategies"]
    rows: list[list[Cell]] = [
        [
            Markup(f"<b>{escape(strategy_label(s['name']))}</b><small>{escape(strategy_meaning(s['name']))}</small>"),
            percent(s.get("accuracy")),
            percent(s.get("balanced_accuracy")),
            decimal(s.get("auc")),
        ]
        for s in strategies
    ]
    styles = ["ours" if s["name"] == "fedkr" else "" for s in strategies]
    return section(
        "comparison",
        "Comparison on the global test images",
        paragraph("All strategies are scored on the same test images, which no site trained or selected on."),
        table(["strategy", "accuracy", "balanced accuracy", "AUC"], rows, 1, styles) if rows else "",
        svg_figure(figures.get("accuracy"), "Accuracy of each strategy, with each site's own test as points"),
        _per_site(results),
        "" if strategy_by_name(results, "centralised") else paragraph(_no_oracle(results), "quiet"),
    )


def _no_oracle(results: Results) -> str:
    if results.get("backend") == "deploy":
        return "There is no centralised model: in a deployment no place holds all images."
    return "There is no centralised model in this comparison."


def _per_site(results: Results) -> str:
    strategies = [s for s in results["strategies"] if s.get("per_site")]
    sites = list(dict.fromkeys(score["site"] for s in strategies for score in s["per_site"]))
    if not sites:
        return ""
    scores = {(s["name"], score["site"]): score.get("accuracy") for s in strategies for score in s["per_site"]}
    rows = [[site, *(percent(scores.get((s["name"], site))) for s in strategies)] for site in sites]
    titles = ["site", *(strategy_label(s["name"]) for s in strategies)]
    return folded(
        "Accuracy on each site's own test images",
        "the circles above as numbers",
        table(titles, rows, 1, [""] * len(rows)),
    )


def _sites(results: Results, figures: Figures) -> str:
    figure = svg_figure(figures.get("classes"), "Images of each class at each site", _site_caption(results))
    return section("sites", "What each site has", figure)


def _site_caption(results: Results) -> str:
    total = sum(sum(site_totals(site)) for site in results.get("sites", []))
    split = results.get("study", {}).get("split") or {}
    shares = ", ".join(f"{percent(split[key], 0)} {key}" for key in ("val", "test", "holdout") if key in split)
    after = f" Each site sets apart {shares}; the rest trains." if shares else ""
    return f"{total:,} images in all, over all splits of the sites.{after}"


def _shared(results: Results, samples: dict[str, SiteSamples], figures: Figures) -> str:
    recycling = results.get("recycling", {})
    student = strategy_by_name(results, "fedkr")
    sent = {score["site"]: score.get("bytes_up") for score in (student.get("per_site", []) if student else [])}
    names = list(dict.fromkeys([*recycling, *samples]))
    rows: list[list[Cell]] = []
    for name in names:
        tried: SiteRecycling = recycling.get(name, {})
        left_out = ", ".join(tried.get("left_out", [])) or "none"
        images = f"{tried['images']:,}" if "images" in tried else "-"
        rows.append([name, left_out, images, size(sent.get(name))])
    grids = [
        folded(
            name,
            "real on the left, synthetic on the right",
            png_figure(figures.get(f"samples-{name}"), f"Real and synthetic images of {name}, by class"),
            opened=index < OPEN_GRIDS,
        )
        for index, name in enumerate(samples)
    ]
    private = any(few.real is not None for few in samples.values())
    intro = "Sites sent synthetic images with soft labels: no private image, no model weights."
    titles = ["site", "classes left out", "images shared", "bytes sent"]
    return section(
        "shared",
        "What each site shared",
        paragraph(intro) if names else "",
        table(titles, rows, 2, [""] * len(rows)) if rows else "",
        paragraph(PRIVATE_IMAGES, "quiet") if private else "",
        *grids,
    )


def _cost(results: Results, figures: Figures) -> str:
    sites = {
        (s["name"], score["site"]): score
        for s in results["strategies"]
        for score in s.get("per_site", [])
        if any(score.get(key) is not None for key in ("bytes_up", "bytes_down", "seconds"))
    }
    rows = [
        [strategy_label(name), site, size(x.get("bytes_up")), size(x.get("bytes_down")), duration(x.get("seconds"))]
        for (name, site), x in sites.items()
    ]
    titles = ["strategy", "site", "sent", "received", "time"]
    return section(
        "cost",
        "What it cost",
        svg_figure(figures.get("cost"), "Bytes and computing time of each strategy", COST_NOTE),
        folded("Per site", f"{len(rows)} rows", table(titles, rows, 2, [""] * len(rows))) if rows else "",
    )


def _setup(results: Results) -> str:
    run = {
        "study": results.get("identity", "-"),
        "backend": results.get("backend", "-"),
        "seed": results.get("seed", "-"),
        "wall time": duration(results.get("seconds")),
        "fedkr": results.get("fedkr", "-"),
    }
    return section(
        "setup",
        "How it was run",
        definitions(run),
        heading("Versions") + definitions(results["versions"]) if results.get("versions") else "",
        heading("Hardware") + definitions(results["hardware"]) if results.get("hardware") else "",
        folded("Configuration", "the study as it was run", preformatted(results["study"]))
        if results.get("study")
        else "",
    )
