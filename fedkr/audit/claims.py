"""Claims of an audit, each tested against guessing: the figures that are named beforehand, of one site or pooled.

A claim's p-value is one-sided, for "members score no higher than non-members". Whoever judges corrects for the number
of claims (:mod:`fedkr.audit.verdict`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np

from fedkr.audit.statistics.membership import fprs_of, guessing_tpr, resolvable, tpr_name
from fedkr.audit.statistics.pooling import pairs_of, within_reason
from fedkr.privacy.normal import upper_tail

# Standard errors from a figure to a limit of its 95 % interval.
TO_LIMIT = NormalDist().inv_cdf(0.975)
MANY = 1000
# Of more members together, so many are told apart.
MOST_COUNTED = 20_000

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """A figure that members stand out.

    Attributes:
        figure: in words, with its limits.
        p_value: of the figure under guessing.
    """

    figure: str
    p_value: float


def auc_claim(shown: Row, rows: Sequence[Row]) -> Claim:
    """Return the claim of an attack's AUC.

    The standard error of a site is the larger of that under guessing (Mann & Whitney 1947) and that of its bootstrap,
    which knows of patients; sites are independent, and weigh as the pooled AUC weighs them. No p-value is below that of
    a perfect ranking of so few images.

    Args:
        shown: the row to quote: a site's, or that of all sites.
        rows: of the sites that it pools, or the site's alone.
    """
    pairs = within_reason([pairs_of(row) for row in rows])
    weights = [count / sum(pairs) for count in pairs]
    spread = math.hypot(*(w * _spread(row, "auc_low") for w, row in zip(weights, rows, strict=True)))
    least = math.prod(_perfect(row["members"], row["nonmembers"]) for row in rows)
    return Claim(_words("AUC", shown, "auc"), max(upper_tail((shown["auc"] - 0.5) / spread), least))


def upper_limit(shown: Row, level: float) -> float:
    """Return the upper end of a one-sided interval of an AUC, from its 95 % interval, at an error of ``level``."""
    spread = max(0.0, shown["auc_high"] - shown["auc"]) / TO_LIMIT
    return float(shown["auc"] + spread * NormalDist().inv_cdf(1 - level))


def below_guessing(rows: Sequence[Row], shown: Row) -> float:
    """Return the p-value of an AUC that low, where members score no lower than non-members."""
    mirrored = [{**row, "auc": 1 - row["auc"], "auc_low": 1 - row["auc_high"]} for row in (shown, *rows)]
    return auc_claim({**shown, **mirrored[0]}, mirrored[1:]).p_value


def tpr_claim(shown: Row, rows: Sequence[Row]) -> Claim | None:
    """Return the claim of an attack's TPR at the lowest FPR that it resolves; None where it resolves none.

    The threshold is the ``k``-th highest score of ``n`` non-members, ``k = floor(FPR n) + 1``. Under guessing the
    number of the ``m`` members above it is beta-binomial with the parameters ``k`` and ``n + 1 - k``, whatever the
    scores: ``k / (n + 1)`` of them are expected, somewhat more than the FPR. Images of one patient rise and fall
    together, so the p-value is no less than that by a normal distribution with the bootstrap's variance, where that is
    larger. Over several sites their numbers add up, and a site of more members than all others together counts for as
    many as those (:func:`~fedkr.audit.statistics.pooling.within_reason`).
    """
    known = [fpr for fpr in fprs_of(shown) if shown[tpr_name(fpr)] is not None]
    if not known:
        return None
    fpr = min(known)
    sites = [_Hits.of(row, fpr) for row in rows]
    members = [row["members"] for row in rows]
    counted = within_reason(members)
    parts = [1.0 if count == said else count / said for count, said in zip(counted, members, strict=True)]
    excess = sum(part * (s.hits - s.mean) for part, s in zip(parts, sites, strict=True))
    spread = math.sqrt(sum(part**2 * s.variance for part, s in zip(parts, sites, strict=True)))
    p_value = max(upper_tail((excess - 0.5) / spread), _guessed_together(sites, parts))
    expected = sum(part * s.mean for part, s in zip(parts, sites, strict=True)) / sum(counted)
    figure = f"{_words(f'TPR at {fpr:.1%} FPR', shown, tpr_name(fpr))}, {expected:.3f} by guessing"
    return Claim(figure, p_value)


@dataclass(frozen=True)
class _Hits:
    """How many of a site's members lie above the threshold, and what guessing gives: beta-binomial numbers."""

    hits: int
    members: int
    above: int
    below: int
    variance: float

    @property
    def mean(self) -> float:
        """The number that guessing has on average."""
        return self.members * self.above / (self.above + self.below)

    @staticmethod
    def of(row: Row, fpr: float) -> _Hits:
        """Count a site's hits at an FPR, at the threshold that lets no non-member through where it resolves none."""
        members, nonmembers, name = row["members"], row["nonmembers"], tpr_name(fpr)
        if not resolvable(fpr, nonmembers):
            name = f"unresolved_{name}"
        share, total, hits = guessing_tpr(fpr, nonmembers), nonmembers + 1, round(row[name] * members)
        guessing = members * share * (1 - share) * (total + members) / (total + 1)
        bootstrap = members * (row[name] - row[f"{name}_low"]) / TO_LIMIT
        above = round(share * total)
        return _Hits(hits, members, above, total - above, max(guessing, bootstrap**2))


def _guessed_together(sites: Sequence[_Hits], parts: Sequence[float]) -> float:
    """Return the chance that guessing has as many hits at all sites together, of which each counts in its part.

    A normal distribution would accuse too often: the few non-members that a threshold is estimated from make these
    numbers skew. A site that counts in part is taken for one of so many members, as are all where they are very many.
    """
    scale = min(1.0, MOST_COUNTED / sum(part * site.members for part, site in zip(parts, sites, strict=True)))
    members = [math.ceil(scale * part * site.members) for part, site in zip(parts, sites, strict=True)]
    hits = sum(math.floor(scale * part * site.hits + 1e-9) for part, site in zip(parts, sites, strict=True))
    counted = Counter((count, site.above, site.below) for count, site in zip(members, sites, strict=True))
    return _at_least(hits, tuple(sorted(counted.items())))


# An audit asks for few different ones, many times: its sites' targets have hardly more hits than guessing has.
@lru_cache(maxsize=4096)
def _at_least(hits: int, counted: tuple[tuple[tuple[int, int, int], int], ...]) -> float:
    """Return the chance that independent beta-binomial numbers add up to ``hits`` or more.

    Each is ``(members, a, b)``, beside how many there are of its kind.
    """
    # Imported here: both apps start without it.
    from scipy.signal import fftconvolve
    from scipy.stats import betabinom

    if not hits:
        return 1.0
    # Of fewer hits than these, the chance of each number of hits.
    fewer = np.eye(1, hits)[0]
    for numbers, times in counted:
        own = betabinom.pmf(np.arange(hits), *numbers)
        for _ in range(times):
            fewer = fftconvolve(fewer, own)[:hits]
    return float(min(1.0, max(0.0, 1.0 - fewer.sum())))


def _perfect(members: int, nonmembers: int) -> float:
    """Return the chance that guessing ranks all members above all non-members."""
    # Below the least float64; the number itself would take hours for the most images that a site can say it has.
    return 0.0 if min(members, nonmembers) > MANY else 1 / math.comb(members + nonmembers, members)


def _spread(row: Row, low: str) -> float:
    members, nonmembers = row["members"], row["nonmembers"]
    guessing = math.sqrt((members + nonmembers + 1) / (12 * members * nonmembers))
    return max(guessing, (row["auc"] - row[low]) / TO_LIMIT)


def _words(what: str, row: Row, name: str) -> str:
    return f"{what} {row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
