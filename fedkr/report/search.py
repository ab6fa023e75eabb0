"""A site's search: every generator checkpoint and sampler setting that it scored on val, and what it chose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from fedkr.report.results import ReleaseQuality, Results, SiteRecycling
from fedkr.report.wording import NONE, percent


@dataclass(frozen=True)
class Candidate:
    """One checkpoint, or one setting of the sampler, as its site scored it.

    Attributes:
        name: in words.
        step: of the checkpoint; None for a setting.
        score: on val, higher is better; None where it has none.
        loss: on val, which decides between equal scores; None where it has none.
        leakage: the AUC of telling train from val by what it draws; None where it did not count.
        chosen: whether the site went on with it.
    """

    name: str
    step: int | None
    score: float | None
    loss: float | None
    leakage: float | None = None
    chosen: bool = False


@dataclass(frozen=True)
class SiteSearch:
    """What one site scored: checkpoints by step, sampler settings in the order of the search."""

    checkpoints: list[Candidate]
    settings: list[Candidate]

    @property
    def checkpoint(self) -> Candidate | None:
        """The chosen checkpoint."""
        return next((candidate for candidate in self.checkpoints if candidate.chosen), None)

    @property
    def setting(self) -> Candidate | None:
        """The chosen setting of the sampler."""
        return next((candidate for candidate in self.settings if candidate.chosen), None)


def site_searches(results: Results) -> dict[str, SiteSearch]:
    """Return what every site scored, by site."""
    return {
        site: SiteSearch(checkpoints(tried), settings(tried)) for site, tried in results.get("recycling", {}).items()
    }


def checkpoints(tried: SiteRecycling) -> list[Candidate]:
    """Return a site's checkpoints by step; the chosen one is the one it names, else the best."""
    rows = sorted(tried.get("checkpoints", []), key=lambda row: row["step"])
    found = [
        Candidate(f"step {row['step']:,}", row["step"], row["score"], row.get("loss"), row.get("leakage"))
        for row in rows
    ]
    return _with_choice(found, f"step {tried['checkpoint']:,}" if "checkpoint" in tried else None)


def settings(tried: SiteRecycling) -> list[Candidate]:
    """Return a site's sampler settings in the order of the search; the chosen one is the one it names, else the best.

    A setting that met the next ones as the best so far stands here once.
    """
    found: dict[str, Candidate] = {}
    for row in tried.get("tuning", []):
        name = knobs_text(row["knobs"])
        found.setdefault(name, Candidate(name, None, row["score"], row.get("loss"), row.get("leakage")))
    return _with_choice(list(found.values()), knobs_text(tried["knobs"]) if "knobs" in tried else None)


def pareto_front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates that no other beats by score without giving more away, by leakage; the first of equals."""
    front: list[Candidate] = []
    known = [c for c in candidates if c.score is not None and c.leakage is not None]
    for candidate in sorted(known, key=lambda c: (c.leakage or 0.0, -(c.score or 0.0))):
        if not front or (candidate.score or 0.0) > (front[-1].score or 0.0):
            front.append(candidate)
    return front


def knobs_text(knobs: Mapping[str, Any]) -> str:
    """Return a setting of the sampler as 'steps 18, guidance 1.5'."""
    values = {name: f"{value:g}" if isinstance(value, (int, float)) else str(value) for name, value in knobs.items()}
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "as given"


def search_metric(results: Results) -> str:
    """Return what the sites scored their candidates by: accuracy or auc."""
    return str((results.get("study", {}).get("recycle") or {}).get("metric", "accuracy"))


def class_recalls(results: Results) -> dict[str, list[str]]:
    """Return, by site, how much of each class the chosen set teaches."""
    classes, found = results.get("classes", []), {}
    for site, tried in results.get("recycling", {}).items():
        if recalls := tried.get("recalls"):
            out = tried.get("left_out", [])
            known = zip_longest(classes, recalls[: len(classes)])
            found[site] = ["left out" if name in out else percent(recall, 0) for name, recall in known]
    return found


def release_quality(results: Results) -> dict[str, list[str]]:
    """Return, by site, how its release looks beside its real images, and what as many of these teach."""
    classes, recycling = results.get("classes", []), results.get("recycling", {})
    return {site: _quality(classes, tried["quality"]) for site, tried in recycling.items() if "quality" in tried}


def _quality(classes: Sequence[str], quality: ReleaseQuality) -> list[str]:
    distance, real = quality.get("frechet"), quality.get("real")
    known = [(share, name) for name, share in zip(classes, quality["recognised"], strict=False) if share is not None]
    share, name = min(known, default=(None, NONE))
    cells = [NONE if distance is None else f"{distance:.1f}", percent(quality.get("precision"), 0)]
    cells += [percent(quality.get("recall"), 0), NONE if share is None else f"{name}, {percent(share, 0)}"]
    if real is None:
        return [*cells, NONE, NONE]
    scores = f"{percent(real['score'] - real['less'])}, {percent(real['score'])}"
    return [*cells, scores, "clearly less" if real["clear"] else "not clearly less"]


def _with_choice(found: list[Candidate], named: str | None) -> list[Candidate]:
    known = [candidate for candidate in found if candidate.score is not None]
    if named is None and known:
        named = max(known, key=lambda c: (c.score or 0.0, -(c.loss or 0.0))).name
    return [replace(candidate, chosen=candidate.name == named) for candidate in found]
