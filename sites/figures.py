"""A site's figures as its policy lets them leave: exact, or on a grid with an offset that the site alone knows."""

from __future__ import annotations

import time
from typing import Any

from torch import nn

from fedkr import wire
from fedkr.data import ImageSet
from fedkr.learning.evaluation import Utility, measure_utility
from fedkr.learning.prediction import predict_logits
from sites.coarse import Grid, coarse_seconds, coarse_utility, step_for
from sites.policy import COUNT_STEP, EXACT_OF_MANIFEST, FIGURES_OF_MANIFEST
from sites.secret import keyed
from sites.workspace import Site


def figures_of(site: Site, model: nn.Module, data: ImageSet, split: str, name: str) -> dict[str, wire.Metric | None]:
    """Return a model's figures on a split as metrics ``split/figure``, none on fewer images than the policy asks for.

    ``name`` is the model's digest: asked again, it gets the same figures.
    """
    utility = utility_of(site, model, data, split, name)
    if utility is None:
        return {}
    figures = wire.utility_metrics(utility, split) | {f"{split}/count": public_count(site, len(data))}
    if site.policy.coarse:
        del figures[f"{split}/confusion"]
    return figures


def utility_of(site: Site, model: nn.Module, data: ImageSet, split: str, name: str) -> Utility | None:
    """Return the utility of a model as it may leave; None where none may, as on too few images for the policy."""
    if len(data) < site.policy.min_evaluated or site.policy.privacy.required:
        return None
    logits, classes = predict_logits(model, data.images, site.runtime), len(data.classes)
    if not site.policy.coarse:
        return measure_utility(logits, data.labels, classes)
    return coarse_utility(logits, data.labels, classes, grid_of(site, len(data), split, name))


def grid_of(site: Site, count: int, *about: str) -> Grid:
    """Return the grid for rates on so many images; its offset depends on what they are of and on the site's secret."""
    drawn = int.from_bytes(keyed(site.records, "\0".join(about).encode())[:8], "big")
    return Grid(audit_grid(site, count).step, drawn / 2**64)


def audit_grid(site: Site, count: int) -> Grid:
    """Return the grid for an audit's rates on so many images: they are rounded to the nearest, since a verdict reads
    them against fixed limits.
    """
    known = count if count < COUNT_STEP or site.policy.exact_counts else count // COUNT_STEP * COUNT_STEP
    return Grid(step_for(known, site.policy.rate_step))


def public_count(site: Site, count: int) -> int:
    """Return a count as it may leave: exact, or rounded where the policy withholds exact counts."""
    return count if site.policy.exact_counts else max(COUNT_STEP, round(count / COUNT_STEP) * COUNT_STEP)


def least_of_class(site: Site) -> int:
    """Return how many images a class needs for a figure of its own: up to ``COUNT_STEP`` more, which the site alone
    knows, where the policy withholds exact counts.
    """
    more = int.from_bytes(keyed(site.records, b"least of a class")[:8], "big") % COUNT_STEP
    return site.policy.min_evaluated + (0 if site.policy.exact_counts else more)


def seconds_since(site: Site, started: float) -> float:
    """Return the seconds since ``started`` on the performance counter, as they may leave."""
    seconds = time.perf_counter() - started
    return coarse_seconds(seconds) if site.policy.coarse else seconds


def public_tuning(site: Site, info: dict[str, Any]) -> dict[str, wire.Metric | None]:
    """Return how the site's own model was tuned as metrics, where it may leave.

    What val chose is as exact as a figure on val: it leaves where those leave as they are.
    """
    if site.policy.coarse or len(site.data.val) < site.policy.min_evaluated:
        return {}
    return wire.tuning_metrics(info)


def public_manifest(site: Site, manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a release's manifest without the figures that may not leave, the others on a grid.

    A ratio of small counts gives the counts away, so recalls and quality leave only as exact figures do, and so does
    what a candidate gives away of training images, which the site has chosen by already; without ``metrics`` in the
    policy, or on too few val images, no figure leaves.
    """
    policy, count = site.policy, len(site.data.val)
    if site.study.privacy.guaranteed:
        # It holds no figure, and whether val is large is no part of the guarantee.
        return manifest
    if "metrics" not in policy.allow or count < policy.min_evaluated:
        return {name: value for name, value in manifest.items() if name not in (*FIGURES_OF_MANIFEST, "by_val")}
    if not policy.coarse:
        return manifest
    grid, teacher = grid_of(site, count, "val", name), manifest["teacher"]

    def coarse(row: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in row.items() if name != "leakage"}
        return kept | {"score": grid.rate(row["score"]), "loss": grid.loss(row["loss"])}

    scores = {stage: [coarse(row) for row in rows] for stage, rows in manifest["scores"].items()}
    kept = {name: value for name, value in manifest.items() if name not in (*EXACT_OF_MANIFEST, "by_val")}
    return kept | {"scores": scores, "teacher": teacher | {"val_accuracy": grid.rate(teacher["val_accuracy"])}}
