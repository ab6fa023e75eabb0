"""How often the audit's verdicts are wrong: on simulated scores, of which it is known whether members stand out.

Run as ``python -m simulations.evidence.verdicts out=FILE alarms=1000 power=400 members=300,1000,3000``: how many audits
are simulated of each kind, and of models of how many members power is counted. No model is trained: members' and
non-members' scores are drawn from one normal distribution, but for those members that are exposed beyond doubt.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from fedkr.audit.claims import TO_LIMIT
from fedkr.audit.statistics.membership import ENDS, membership_figures, tpr_name
from fedkr.audit.targets import CONTROL
from fedkr.audit.verdict import FOUND, NONE_FOUND, VERDICTS, site_verdicts
from fedkr.disk import write_json
from fedkr.site_name import ALL_SITES

# Within one study, each with RMIA and LiRA.
TARGETS = tuple(f"target-{number}" for number in range(7))
ATTACKS = ("rmia", "lira-online")
SITES = (3, 10, 30)
SMALL, LARGE = 300, 1000
EXPOSED = (0.0, 0.01, 0.02, 0.03)
FPR = 0.01
# Of a target (a study has 1,000, which make its limits steadier), and of a control, of which the AUC alone is read.
BOOTSTRAP, OF_CONTROL = 300, 10

Row = dict[str, Any]
Floats = NDArray[np.float64]


def two_attacks(rng: np.random.Generator, shape: tuple[int, ...], exposed: float = 0.0) -> tuple[Floats, Floats]:
    """Return members' and non-members' scores float64 ``[2, *shape]`` by two attacks that mostly agree.

    Of the members, along the last axis, a share is ``exposed``: far above everybody else.
    """
    own, others = rng.normal(size=shape), rng.normal(size=shape)
    own[..., : round(exposed * shape[-1])] += 20
    members, nonmembers = (np.stack([side + rng.normal(size=shape) / 3 for _ in ATTACKS]) for side in (own, others))
    return members, nonmembers


def plain_figures(members: Floats, nonmembers: Floats) -> list[Row]:
    """Return AUC and TPR of each row of scores ``[R, n]`` and ``[R, m]``, no two of which are equal.

    The AUC's limits follow from its standard error under guessing (Mann & Whitney 1947), and the TPR has none. A claim
    takes the larger of the errors under guessing and of the bootstrap, so that p-values are at most smaller than an
    audit's: what these figures accuse is at least what an audit accuses.
    """
    m, n = members.shape[1], nonmembers.shape[1]
    ranks = scipy.stats.rankdata(np.concatenate([members, nonmembers], axis=1), axis=1)[:, :m]
    aucs = (ranks.sum(axis=1) - m * (m + 1) / 2) / (m * n)
    half = TO_LIMIT * math.sqrt((m + n + 1) / (12 * m * n))
    threshold = np.sort(nonmembers, axis=1)[:, n - 1 - math.floor(FPR * n + 1e-9)]
    tprs = (members > threshold[:, None]).mean(axis=1)
    return [
        {"auc": auc, "auc_low": auc - half, "auc_high": auc + half, "members": m, "nonmembers": n}
        | dict.fromkeys((f"{tpr_name(FPR)}{end}" for end in ENDS), tpr)
        for auc, tpr in zip(aucs.tolist(), tprs.tolist(), strict=True)
    ]


def attack_row(site: str, target: str, attack: str, figures: Mapping[str, Any]) -> Row:
    """Return the row of an attack by direct references at a site on a target."""
    names = {"site": site, "target": target, "attack": attack, "references": "direct"}
    return names | {"headline": int(attack == ATTACKS[0])} | dict(figures)


def null_audit(rng: np.random.Generator, sites: int) -> list[Row]:
    """Return the rows of an audit of models that reveal nothing."""
    members, nonmembers = two_attacks(rng, (sites * len(TARGETS), SMALL))
    figures = plain_figures(members.reshape(-1, SMALL), nonmembers.reshape(-1, SMALL))
    places = [(f"site-{site}", target, attack) for attack in ATTACKS for site in range(sites) for target in TARGETS]
    return [attack_row(*place, found) for place, found in zip(places, figures, strict=True)]


def exposed_audit(rng: np.random.Generator, exposed: float, count: int = LARGE) -> list[Row]:
    """Return the rows of an audit of one model at one site, whose control the attack detects."""
    sides = zip(ATTACKS, *two_attacks(rng, (count,), exposed), strict=True)
    seed = int(rng.integers(1 << 30))
    rows = [
        attack_row("site", TARGETS[0], attack, membership_figures(*scores, fprs=[FPR], bootstrap=BOOTSTRAP, seed=seed))
        for attack, *scores in sides
    ]
    control = rng.normal(size=count) + 1, rng.normal(size=count)
    figures = membership_figures(*control, fprs=[FPR], bootstrap=OF_CONTROL, seed=seed)
    return [*rows, attack_row("site", CONTROL, ATTACKS[0], figures)]


def share(count: int, audits: int) -> Row:
    """Return a count as a share of all audits with its 95 % interval (Clopper & Pearson 1934)."""
    limits = scipy.stats.binomtest(count, audits).proportion_ci(0.95)
    return {"count": count, "share": count / audits, "low": float(limits.low), "high": float(limits.high)}


def false_alarms(audits: int, sites: int) -> Row:
    """Return in how many audits of nothing any target was called leaking, at a site or at all sites together."""
    rng, found = np.random.default_rng(sites), Counter[str]()
    for _ in range(audits):
        leaking = {verdict.site for verdict in site_verdicts(null_audit(rng, sites)) if verdict.verdict == FOUND}
        found["a site"] += bool(leaking - {ALL_SITES})
        found["all sites"] += ALL_SITES in leaking
        found["either"] += bool(leaking)
    shares = {name: share(found[name], audits) for name in ("a site", "all sites", "either")}
    return {"sites": sites, "targets": len(TARGETS), "members": SMALL, "audits": audits, "leakage found": shares}


def power(audits: int, exposed: float, count: int = LARGE) -> Row:
    """Return the verdicts on one model at one site of so many members, a share of whom is exposed."""
    rng, found = np.random.default_rng(round(1000 * exposed)), Counter[str]()
    for _ in range(audits):
        verdicts = site_verdicts(exposed_audit(rng, exposed, count))
        found[next(verdict.verdict for verdict in verdicts if verdict.target == TARGETS[0])] += 1
    shares = {verdict: share(found[verdict], audits) for verdict in VERDICTS}
    return {"exposed": exposed, "members": count, "audits": audits, "verdicts": shares}


def checks(alarms: Iterable[Row], powers: Iterable[Row]) -> dict[str, bool]:
    """Return what was asked for beforehand, and whether it holds."""
    passes = {row["exposed"]: row["verdicts"][NONE_FOUND]["share"] for row in powers if row["members"] == LARGE}
    false = {row["sites"]: row["leakage found"]["either"]["share"] for row in alarms}
    return {
        **{f"leakage falsely found in at most 5 % of audits of {sites} sites": false[sites] <= 0.05 for sites in false},
        "3 % exposed pass in at most 5 % of audits": passes[0.03] <= 0.05,
        "nothing exposed passes in at least 80 % of audits": passes[0.0] >= 0.8,
    }


def main(words: list[str]) -> None:
    """Simulate, and write what was counted."""
    own = dict(word.split("=", 1) for word in words)
    alarms, powers = list[Row](), list[Row]()
    for sites in SITES:
        alarms.append(false_alarms(int(own.get("alarms", 1000)), sites))
        print(alarms[-1], flush=True)
    for count, exposed in itertools.product(map(int, own.get("members", str(LARGE)).split(",")), EXPOSED):
        powers.append(power(int(own.get("power", 400)), exposed, count))
        print(powers[-1], flush=True)
    write_json(Path(own["out"]), {"false alarms": alarms, "power": powers, "checks": checks(alarms, powers)})


if __name__ == "__main__":
    main(sys.argv[1:])
