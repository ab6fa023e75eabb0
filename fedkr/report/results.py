"""The shape of ``results.json``: what a finished run hands to its report, checked when written and when read."""

import json
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, Required, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

import numpy as np

from fedkr.audit.statistics.pooling import ALL_SITES
from fedkr.errors import UserError
from fedkr.report.audit_fields import AuditExtras, AuditRow

RESULTS_FILE = "results.json"


class Scores(TypedDict, total=False):
    """Test scores (fractions 0..1), bytes on the wire and computing time in seconds; null where there is none."""

    accuracy: float | None
    balanced_accuracy: float | None
    auc: float | None
    bytes_up: float | None
    bytes_down: float | None
    seconds: float | None


class SiteScores(Scores, total=False):
    """One strategy at one site, on that site's own test images."""

    site: Required[str]


class StrategyResult(Scores, total=False):
    """One strategy of the comparison, on the global test images."""

    name: Required[str]
    per_site: list[SiteScores]


class SiteResult(TypedDict, total=False):
    """One site: images per split and class, or per class alone (``counts.total`` or ``total``)."""

    name: Required[str]
    counts: dict[str, list[int]] | None
    total: list[int]


class CheckpointScore(TypedDict):
    """One generator checkpoint, and how a classifier trained on its images does on the site's val split.

    ``score`` is what ``recycle.metric`` names; the lower ``loss`` decides between equal ones.
    """

    step: int
    score: float | None
    loss: NotRequired[float | None]


class TuningTrial(TypedDict):
    """One setting of the sampler and its score, as in :class:`CheckpointScore`."""

    knobs: dict[str, Any]
    score: float | None
    loss: NotRequired[float | None]


class SiteRecycling(TypedDict, total=False):
    """What one site tried on its way to its release, and what it released.

    ``checkpoint`` (its step) and ``knobs`` are what it chose; ``recalls`` are those of each class on val, by the
    classifier that scored this choice, null for a class with too few images.
    """

    checkpoints: list[CheckpointScore]
    tuning: list[TuningTrial]
    checkpoint: int
    knobs: dict[str, Any]
    teacher: dict[str, Any]
    images: int
    left_out: list[str]
    recalls: list[float | None]


class SearchPoint(TypedDict):
    """Pooled val accuracy of the weight-sharing baseline after one round of one setting."""

    lr: float
    local_epochs: int
    round: int
    val_accuracy: float | None


class Results(TypedDict, total=False):
    """The whole document. ``test_images`` is the size of the global test set, where it is known."""

    fedkr: str
    study: dict[str, Any]
    identity: str
    backend: str
    seed: int
    classes: list[str]
    versions: dict[str, Any]
    hardware: dict[str, Any]
    sites: list[SiteResult]
    strategies: Required[list[StrategyResult]]
    audit: list[AuditRow]
    audit_extras: AuditExtras
    recycling: dict[str, SiteRecycling]
    weights_search: list[SearchPoint]
    missing_sites: list[str]
    notes: list[str]
    seconds: float | None
    test_images: int


def load_results(path: Path) -> Results:
    """Read and check ``results.json`` (or the run folder that holds it).

    Raises:
        UserError: the file is missing, no JSON, or not of this shape.
    """
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name the folder of a finished run") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); run the study again to write it anew") from None
    try:
        return check_results(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check_results(values: Any) -> Results:
    """Return ``values`` unchanged if they have the shape of :class:`Results`; unknown keys are kept.

    Raises:
        UserError: the first field that is missing, of another type or out of range, by its dotted path.
    """
    _check(Results, values, "results")
    for i, strategy in enumerate(values["strategies"]):
        _check_fractions(strategy, f"results.strategies[{i}]")
        for k, score in enumerate(strategy.get("per_site", [])):
            _check_fractions(score, f"results.strategies[{i}].per_site[{k}]")
    for i, row in enumerate(values.get("audit", [])):
        _check_fractions(row, f"results.audit[{i}]")
    for i, row in enumerate(values.get("audit_extras", {}).get("canaries", [])):
        _check_fractions(row, f"results.audit_extras.canaries[{i}]")
    classes = values.get("classes")
    for i, site in enumerate(values.get("sites", [])):
        for split, counts in (site.get("counts") or {}).items():
            if classes is not None and len(counts) != len(classes):
                raise UserError(
                    f"results.sites[{i}].counts.{split}: {len(counts)} counts for {len(classes)} classes; one a class"
                )
    return values


def plain(value: Any) -> Any:
    """Return ``value`` as JSON can hold it: arrays as lists, NumPy numbers as Python's, NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def site_totals(site: SiteResult) -> list[int]:
    """Return int ``[classes]``: the site's images of each class over all splits; empty where it did not say."""
    if site.get("total"):
        return site["total"]
    counts = site.get("counts") or {}
    if "total" in counts:
        return counts["total"]
    return [sum(column) for column in zip(*counts.values(), strict=True)]


def headline_rows(results: Results) -> list[AuditRow]:
    """Return one row per target and site: the attack named beforehand, with the closest kind of references.

    That is the flagged attack, else the configured one, else the target's first. Of several kinds of reference models
    the strongest leads: whole pipelines, then direct ones. Rows pooled over the sites are not among them.
    """
    best: dict[tuple[str, str], AuditRow] = {}
    for row in headline_attack_rows(results):
        place = row["target"], row["site"]
        if row["site"] != ALL_SITES and _kind_rank(row) > _kind_rank(best.get(place)):
            best[place] = row
    return list(best.values())


def headline_attack_rows(results: Results) -> list[AuditRow]:
    """Return each target's rows of its headline attack: every site, ``all sites``, every kind of references."""
    rows = results.get("audit", [])
    configured = (results.get("study", {}).get("audit") or {}).get("headline")
    attacks: dict[str, set[str]] = {}
    for target in dict.fromkeys(row["target"] for row in rows):
        own = [row for row in rows if row["target"] == target]
        flagged = {row["attack"] for row in own if row.get("headline")}
        known = {row["attack"] for row in own}
        attacks[target] = flagged or {configured if configured in known else own[0]["attack"]}
    return [row for row in rows if row["attack"] in attacks[row["target"]]]


def references_kind(row: Mapping[str, Any]) -> str:
    """Return the kind of an attack's reference models; ``none`` for rows from before there were any."""
    return row.get("references") or "none"


def _kind_rank(row: AuditRow | None) -> int:
    return -1 if row is None else {"direct": 1, "pipeline": 2}.get(references_kind(row), 0)


def strategy_by_name(results: Results, name: str) -> StrategyResult | None:
    """Return a strategy of the comparison, or None where it was not part of it."""
    return next((s for s in results["strategies"] if s["name"] == name), None)


def _check_fractions(scores: dict[str, Any], where: str) -> None:
    for name, value in scores.items():
        bounded = name in ("accuracy", "balanced_accuracy") or name.startswith(("auc", "tpr_at"))
        if bounded and isinstance(value, (int, float)) and not math.isnan(value) and not 0 <= value <= 1:
            raise UserError(f"{where}.{name}={value}: expected a fraction between 0 and 1, or null")


def _check(hint: Any, value: Any, where: str) -> None:
    origin = get_origin(hint)
    if is_typeddict(hint):
        _check_mapping(hint, value, where)
    elif origin is list:
        _expect(isinstance(value, list), "a list", value, where)
        for i, item in enumerate(value):
            _check(get_args(hint)[0], item, f"{where}[{i}]")
    elif origin is dict:
        _expect(isinstance(value, dict), "an object", value, where)
        for name, item in value.items():
            _check(get_args(hint)[1], item, f"{where}.{name}")
    elif origin is types.UnionType:
        if value is not None:
            _check(get_args(hint)[0], value, where)
    elif hint is float:
        _expect(isinstance(value, (int, float)) and not isinstance(value, bool), "a number", value, where)
    elif hint is not Any:
        _expect(isinstance(value, hint), f"a value of type {hint.__name__}", value, where)


def _check_mapping(hint: Any, values: Any, where: str) -> None:
    _expect(isinstance(values, dict), "an object", values, where)
    for name in hint.__required_keys__:
        _expect(name in values, f"the key {name!r}", sorted(values), where)
    for name, inner in get_type_hints(hint).items():
        if name in values:
            _check(inner, values[name], f"{where}.{name}")


def _expect(fits: bool, wanted: str, value: Any, where: str) -> None:
    if not fits:
        raise UserError(f"{where}: expected {wanted}, got {str(value)[:60]!r}")
