"""How often the audit's verdicts are wrong: on simulated scores, of which it is known whether members stand out.

Run as ``python -m simulations.evidence.verdicts out=FILE audits=100``. No model is trained: members' and non-members'
scores are drawn from one normal distribution, but for those members that are exposed beyond doubt.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fedkr.audit.statistics.membership import membership_figures
from fedkr.audit.targets import CONTROL
from fedkr.audit.verdict import FOUND, VERDICTS, site_verdicts
from fedkr.disk import write_json
from fedkr.site_name import ALL_SITES

# Within one study, each with RMIA and LiRA.
TARGETS = tuple(f"target-{number}" for number in range(7))
SITES = (3, 10, 30)
SMALL, LARGE = 300, 1000
EXPOSED = (0.0, 0.01, 0.02, 0.03)
BOOTSTRAP = 100

Row = dict[str, Any]


def attack_row(place: tuple[str, str], attack: str, sides: tuple[Any, Any], seed: int) -> Row:
    """Return the row of an attack by direct references at a site on a target, from both sides' scores."""
    figures = membership_figures(*sides, fprs=[0.01], bootstrap=BOOTSTRAP, seed=seed)
    names = {"site": place[0], "target": place[1], "attack": attack, "references": "direct"}
    return names | {"headline": int(attack == "rmia")} | figures


def simulated_audit(
    rng: np.random.Generator, sites: int, targets: tuple[str, ...], members: int, exposed: float
) -> list[Row]:
    """Return the rows of an audit: every target alike, and at each site a teacher that the attack detects."""
    rows = []
    for site in (f"site-{number}" for number in range(sites)):
        for target in targets:
            own, others = rng.normal(size=members), rng.normal(size=members)
            own[: round(exposed * members)] += 20
            # Two attacks that mostly agree.
            for attack in ("rmia", "lira-online"):
                sides = own + rng.normal(size=members) / 3, others + rng.normal(size=members) / 3
                rows.append(attack_row((site, target), attack, sides, int(rng.integers(1 << 30))))
        sides = rng.normal(size=members) + 1, rng.normal(size=members)
        rows.append(attack_row((site, CONTROL), "rmia", sides, 0))
    return rows


def false_alarms(audits: int, sites: int) -> Row:
    """Return in how many audits of nothing any target was called leaking, at a site or at all sites together."""
    rng, found = np.random.default_rng(sites), Counter[str]()
    for _ in range(audits):
        verdicts = site_verdicts(simulated_audit(rng, sites, TARGETS, SMALL, 0.0))
        leaking = [v.site for v in verdicts if v.verdict == FOUND and v.target != CONTROL]
        found["any site"] += any(site != ALL_SITES for site in leaking)
        found["all sites"] += ALL_SITES in leaking
        found["any of both"] += bool(leaking)
    return {"sites": sites, "targets": len(TARGETS), "members": SMALL, "audits": audits, "leakage found": found}


def power(audits: int, exposed: float) -> Row:
    """Return the verdicts on one model at one site of many images, a share of whose members is exposed."""
    rng, found = np.random.default_rng(round(1000 * exposed)), Counter[str](dict.fromkeys(VERDICTS, 0))
    for _ in range(audits):
        found[site_verdicts(simulated_audit(rng, 1, TARGETS[:1], LARGE, exposed))[0].verdict] += 1
    return {"exposed": exposed, "members": LARGE, "audits": audits, "verdicts": found}


def main(words: list[str]) -> None:
    """Simulate, and write what was counted."""
    own = dict(word.split("=", 1) for word in words)
    audits = int(own.get("audits", 100))
    results: Row = {"audits": audits, "false alarms": [], "power": []}
    for exposed in EXPOSED:
        results["power"].append(power(audits, exposed))
        print(results["power"][-1], flush=True)
    for sites in SITES:
        results["false alarms"].append(false_alarms(audits, sites))
        print(results["false alarms"][-1], flush=True)
        write_json(Path(own["out"]), results)


if __name__ == "__main__":
    main(sys.argv[1:])
