"""How well an attack tells members from non-members: AUC, TPR at low FPR, balanced accuracy, each from scores alone.

Scores are float ``[n]``, higher means "more like a member". Everything returned is an aggregate over examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedkr.audit.statistics.separated import least_auc, least_share
from fedkr.errors import UserError
from fedkr.resampling import LIMITS, Floats, Groups, blocks, drawn, unit_index
from fedkr.roc import RocCounts, area_under_roc

ROC_POINTS = 60
# What an interval resamples: single images, or patients with all their images.
IMAGE, PATIENT = UNITS = ("image", "patient")
# Which unit, image or patient, each member and each non-member belongs to.
Units = tuple[NDArray[np.intp], NDArray[np.intp]]
# A rate with the limits of its 95 % interval, and the endings of their names in a row of figures.
Interval = tuple[float, float, float]
ENDS = ("", "_low", "_high")


def tpr_name(fpr: float) -> str:
    """Return the name of the true-positive rate at a false-positive rate, as ``tpr_at_fpr_0.01``."""
    return f"tpr_at_fpr_{fpr:g}"


def fprs_of(row: Mapping[str, Any]) -> list[float]:
    """Return the FPRs at which a row of figures has a TPR, or says that it is not resolvable."""
    start = tpr_name(0).removesuffix("0")
    return [float(key.removeprefix(start)) for key in row if key.startswith(start) and not key.endswith(ENDS[1:])]


def guessing_rates(row: Mapping[str, Any], nonmembers: int) -> dict[str, float]:
    """Return what guessing has beside each TPR of a row, ``guessing_tpr_at_fpr_*``, where there is one."""
    names = {fpr: tpr_name(fpr) for fpr in fprs_of(row)}
    return {f"guessing_{name}": guessing_tpr(fpr, nonmembers) for fpr, name in names.items() if row[name] is not None}


def with_limits(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Return a rate and its limits under their names, as ``auc``, ``auc_low`` and ``auc_high``."""
    values = (None, None, None) if interval is None else map(float, interval)
    return dict(zip((f"{name}{end}" for end in ENDS), values, strict=True))


def auc(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> float:
    """Return the probability that a member scores above a non-member; a tie counts half (Mann-Whitney)."""
    members, nonmembers = _checked("member", member_scores), _checked("non-member", nonmember_scores)
    return area_under_roc(members, nonmembers)


def resolvable(fpr: float, nonmembers: int) -> bool:
    """Say whether ``nonmembers`` examples can show a false-positive rate of ``fpr``: at least 1 / fpr of them."""
    return nonmembers * fpr >= 1 - 1e-9


def guessing_tpr(fpr: float, nonmembers: int) -> float:
    """Return the TPR that guessing has at an FPR, on average: somewhat more than the FPR, as 1.98 % at 1 % of 100.

    The threshold is the ``k``-th highest score of the non-members themselves, ``k = floor(FPR n) + 1``, above which a
    member is as likely to lie as above the ``k``-th of ``n + 1`` places (David & Nagaraja 2003, section 2.5).
    """
    return (math.floor(fpr * nonmembers + 1e-9) + 1) / (nonmembers + 1)


def roc_points(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> list[tuple[float, float]]:
    """Return at most ``ROC_POINTS`` pairs (FPR, TPR), FPRs log-spaced from 1 / nonmembers to 1, for log-log axes."""
    members, nonmembers = _checked("member", member_scores), _checked("non-member", nonmember_scores)
    n = len(nonmembers)
    steps = np.unique(np.floor(np.geomspace(1, n, ROC_POINTS) + 1e-9).astype(int))
    fprs = [float(step / n) for step in steps if step < n]
    counts = RocCounts(members, nonmembers)
    tprs = counts.tpr(np.ones((1, len(members))), np.ones((1, n)), fprs)[0]
    return [*zip(fprs, map(float, tprs), strict=True), (1.0, 1.0)]


def membership_figures(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    *,
    fprs: Sequence[float],
    bootstrap: int,
    seed: int,
    groups: tuple[Groups, Groups] = (None, None),
) -> dict[str, Any]:
    """Return an attack's figures with 95 % intervals, by their names in ``results.json``.

    The intervals are percentiles of a bootstrap stratified by membership that re-estimates the threshold of each TPR
    in each resample; where groups (patients) are given, whole groups are resampled. One image or patient alone on a
    side cannot be resampled: the intervals are then 0 to 1. Nor do sides that lie apart have another AUC or TPR in any
    resample: no limit of these is nearer to 0 or 1 than :mod:`fedkr.audit.statistics.separated` has it. That of
    balanced accuracy may be.

    Scores are float ``[n]`` of the members and ``[m]`` of the non-members, as are int64 ``groups``. ``seed`` is that of
    the ``bootstrap`` resamples and of the split into halves.

    Returns:
        ``auc``, ``tpr_at_fpr_*`` (at the lowest threshold whose FPR is at most the one asked for) and
        ``balanced_accuracy`` (at the best threshold of one half, measured on the other; None with fewer than two of a
        side), each with ``_low`` and ``_high``; what the intervals resample (``unit``, of :data:`UNITS`); the counts
        ``members`` and ``nonmembers``. A TPR whose FPR the
        non-members cannot resolve is None; ``unresolved_tpr_at_fpr_*``, at the threshold that lets none of them
        through, then holds what the site has to add to the rate pooled over sites.

    Raises:
        UserError: no scores, scores that are not numbers, an FPR outside (0, 1), or fewer than one resample.
    """
    members, nonmembers = _checked("member", member_scores), _checked("non-member", nonmember_scores)
    for fpr in fprs:
        if not 0 < fpr < 1:
            raise UserError(f"audit.fprs={fpr}: a false-positive rate lies between 0 and 1")
    if bootstrap < 1:
        raise UserError(f"audit.bootstrap={bootstrap}: must be at least 1")
    units = unit_index(members, groups[0]), unit_index(nonmembers, groups[1])
    rng = np.random.default_rng(seed)
    counts = RocCounts(members, nonmembers)
    resampled = [(counts.auc(*weights), counts.tpr(*weights, fprs)) for weights in resamples(units, bootstrap, rng)]
    aucs, tprs = (np.concatenate(parts) for parts in zip(*resampled, strict=True))
    several = several_units(units)
    rates = counts.tpr(np.ones((1, len(members))), np.ones((1, len(nonmembers))), fprs)[0]
    limits = _tpr_limits(tprs, units) if several else np.tile([0.0, 1.0], (len(fprs), 1))
    halves = _balanced_accuracy(members, nonmembers, units, bootstrap, rng) if several else None
    overall = auc(members, nonmembers)
    ends = _auc_limits(aucs, units) if several else (0.0, 1.0)
    figures: dict[str, Any] = with_limits("auc", (overall, *ends))
    figures |= _tpr_figures(fprs, [(rate, *ends) for rate, ends in zip(rates, limits, strict=True)], len(nonmembers))
    figures |= with_limits("balanced_accuracy", halves) | {"unit": unit_of(groups)}
    return figures | {"members": len(members), "nonmembers": len(nonmembers)}


def _auc_limits(resampled: Floats, units: Units) -> tuple[float, float]:
    """Return the percentiles of the resamples, neither nearer to 0 or 1 than those of sides that lie apart would be."""
    low, high = map(float, np.quantile(resampled, LIMITS))
    least = least_auc(*(len(np.unique(side)) for side in units))
    return min(low, least), max(high, 1 - least)


def _tpr_limits(resampled: Floats, units: Units) -> Floats:
    """Return ``[len(fprs), 2]``, the percentiles; neither nearer to 0 or 1 than where none or all members are hits."""
    least = least_share(len(np.unique(units[0])))
    low, high = np.quantile(resampled, LIMITS, axis=0)
    return np.stack([np.minimum(low, least), np.maximum(high, 1 - least)], axis=1)


def _tpr_figures(fprs: Sequence[float], rates: Sequence[Interval], nonmembers: int) -> dict[str, float | None]:
    resolved, unresolved = dict[str, float | None](), dict[str, float | None]()
    for fpr, rate in zip(fprs, rates, strict=True):
        known = resolvable(fpr, nonmembers)
        resolved |= with_limits(tpr_name(fpr), rate if known else None)
        if not known:
            unresolved |= with_limits(f"unresolved_{tpr_name(fpr)}", rate)
    return resolved | unresolved


def accuracy_over_privacy(accuracy_percent: float, attack_auc: float) -> float:
    """Return AOP = Acc / (2 max(AUC, 0.5))^2: accuracy in percent, undiminished where the attack only guesses."""
    return accuracy_percent / (2 * max(attack_auc, 0.5)) ** 2


def resamples(units: Units, count: int, rng: np.random.Generator) -> Iterator[tuple[Floats, Floats]]:
    """Yield blocks of weights ``[B, n]`` and ``[B, m]``, ``count`` rows in all: how often each example was drawn.

    ``units`` are those of members ``[n]`` and non-members ``[m]`` (:func:`unit_index`).
    """
    for size in blocks(count, max(map(len, units))):
        yield drawn(units[0], size, rng), drawn(units[1], size, rng)


def _balanced_accuracy(
    members: Floats,
    nonmembers: Floats,
    units: tuple[NDArray[np.intp], NDArray[np.intp]],
    bootstrap: int,
    rng: np.random.Generator,
) -> Interval:
    """Choose the threshold on a random half of the units; return the figure on the other half with its interval."""
    choosing = [_half(unit, rng) for unit in units]
    threshold = _best_threshold(members[choosing[0]], nonmembers[choosing[1]])
    right = members[~choosing[0]] > threshold, nonmembers[~choosing[1]] <= threshold
    value = float((right[0].mean() + right[1].mean()) / 2)
    rest = unit_index(right[0], units[0][~choosing[0]]), unit_index(right[1], units[1][~choosing[1]])
    if not several_units(rest):
        return value, 0.0, 1.0
    drawn = [
        (hits @ right[0] / hits.sum(1) + passed @ right[1] / passed.sum(1)) / 2
        for hits, passed in resamples(rest, bootstrap, rng)
    ]
    low, high = np.quantile(np.concatenate(drawn), LIMITS)
    return value, float(low), float(high)


def _half(unit: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.bool_]:
    count = int(unit.max()) + 1
    chosen = np.zeros(count, bool)
    chosen[rng.permutation(count)[: count // 2]] = True
    return chosen[unit]


def _best_threshold(members: Floats, nonmembers: Floats) -> float:
    """Return the threshold (positive is strictly above) with the best balanced accuracy on these scores."""
    candidates = np.unique(np.concatenate([members, nonmembers]))
    hits = 1 - np.searchsorted(np.sort(members), candidates, side="right") / len(members)
    rejections = np.searchsorted(np.sort(nonmembers), candidates, side="right") / len(nonmembers)
    return float(candidates[np.argmax(hits + rejections)])


def unit_of(groups: tuple[Groups, Groups]) -> str:
    """Return what resamples of two sides with these groups draw."""
    return IMAGE if groups[0] is None or groups[1] is None else PATIENT


def several_units(units: tuple[NDArray[np.intp], NDArray[np.intp]]) -> bool:
    """Say whether either side has more than one unit (see :func:`unit_index`), so that resampling tells anything."""
    return all(int(unit.max()) > 0 for unit in units)


def _checked(side: str, scores: ArrayLike) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise UserError(f"{side} scores: expected one or more in a row, got shape {list(values.shape)}")
    if np.isnan(values).any():
        raise UserError(
            f"{side} scores: {int(np.isnan(values).sum())} of {len(values)} are NaN; did the model diverge?"
        )
    return values
