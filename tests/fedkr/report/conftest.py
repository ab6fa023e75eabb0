"""A small made-up run for the report's tests."""

import copy
from functools import cache

import numpy as np
import pytest

from fedkr.audit.statistics.membership import auc, membership_figures, roc_points
from fedkr.audit.statistics.pooling import pooled_rows, worst_site
from fedkr.audit.targets import OF_ONE_SITE
from fedkr.report.samples import SiteSamples

CLASSES = ["<script>alert(1)</script>", "cost $5 & $6", "plain"]
SITES = ["site-0", "site-1"]


def strategy(name, accuracy):
    scores = {"accuracy": accuracy, "balanced_accuracy": accuracy, "auc": None}
    cost = {"bytes_up": 1200, "bytes_down": 3_400_000, "seconds": 61.0}
    return {"name": name, **scores, **cost, "per_site": [{"site": site, **scores, **cost} for site in SITES]}


def audit_row(target, site, attack, auc):
    return {
        "target": target,
        "site": site,
        "attack": attack,
        "auc": auc,
        "auc_low": auc - 0.04,
        "auc_high": auc + 0.04,
        "tpr_at_fpr_0.01": None if site == "site-1" else 0.03,
        "tpr_at_fpr_0.01_low": None if site == "site-1" else 0.0,
        "tpr_at_fpr_0.01_high": None if site == "site-1" else 0.07,
        "members": 220,
        "nonmembers": 60 if site == "site-1" else 120,
        "headline": int(attack == "modified-entropy"),
        "roc": [[1 / 60, 0.0], [0.1, 0.15], [1.0, 1.0]],
    }


TARGETS = [
    {"name": name, "kind": kind, "contestant": contestant}
    for name, kind, contestant in (
        ("fedavg", "weights", "fedavg"),
        ("fedavg-update", "update", "fedavg"),
        ("student", "student", "fedkr"),
        ("teacher", "teacher", "fedkr"),
        ("local", "local", "local"),
        ("centralised", "oracle", "centralised"),
    )
]


@pytest.fixture
def results():
    attacks = ("loss", "modified-entropy")
    return {
        "fedkr": "0.1.0",
        "study": {"data": {"name": "digits"}, "audit": {"headline": "modified-entropy"}},
        "identity": "abc123",
        "backend": "inline",
        "seed": 7,
        "classes": list(CLASSES),
        "versions": {"torch": "2.15"},
        "hardware": {"cpus": 2},
        "sites": [{"name": site, "counts": {"train": [5, 0, 9], "holdout": [2, 1, 3]}} for site in SITES],
        "strategies": [
            strategy("local", 0.79),
            strategy("fedavg", 0.96),
            strategy("fedkr", 0.98),
            strategy("centralised", 0.985),
        ],
        "audit": [
            audit_row(target, site, attack, auc)
            for target, auc in (("student", 0.51), ("fedavg", 0.58), ("teacher", 0.66))
            for site in SITES
            for attack in attacks
        ],
        "recycling": {
            "site-0": {
                "checkpoints": [{"step": 10, "score": 0.5}, {"step": 20, "score": 0.7}],
                "tuning": [{"knobs": {"steps": 18}, "score": 0.75}],
                "teacher": {"val_accuracy": 0.9},
                "images": 40,
                "left_out": [CLASSES[1]],
            }
        },
        "targets": copy.deepcopy(TARGETS),
        "weights_search": [
            {"strategy": "fedavg", "lr": 0.1, "local_epochs": 2, "round": r, "val_accuracy": value}
            for r, value in ((1, 0.1), (2, 0.2), (3, 0.3), (4, None))  # None: that round no site let a figure leave
        ],
        "missing_sites": [],
        "notes": [],
        "seconds": 200.0,
        "test_images": 360,
    }


# How far the scores of members lie above those of non-members, by target.
SHIFTS = {"student": 0.03, "fedavg": 0.3, "centralised": 0.35, "site-student": 0.08, "fedavg-update": 0.5}
SHIFTS |= {"release": 0.05, "teacher": 1.1, "local": 0.9}
REFERENCES = {"student": ["direct", "pipeline"], "site-student": ["direct", "pipeline"], "release": ["none"]}
ADVERSARIES = {
    "site-student": "server",
    "fedavg-update": "server",
    "release": "server",
    "teacher": "owner",
    "local": "owner",
}
COUNTS = {"site-0": (400, 160), "site-1": (220, 60), "site-2": (900, 400)}


def measured_row(target, site, attack, references, headline):
    """A row of an attack on scores drawn for it, with an interval of about the right width."""
    members, nonmembers = COUNTS[site]
    rng = np.random.default_rng([len(target), len(attack), len(references), members])
    inside = rng.normal(SHIFTS[target], 1, members)
    inside[: members // 40] += 3 * SHIFTS[target]
    outside = rng.normal(0, 1, nonmembers)
    half = 0.6 / nonmembers**0.5
    area = auc(inside, outside)
    row = {"target": target, "site": site, "attack": attack, "references": references}
    row |= {"adversary": ADVERSARIES.get(target, "outsider"), "others": site != "site-2" and target not in OF_ONE_SITE}
    row |= {"auc": area, "auc_low": max(area - half, 0), "auc_high": min(area + half, 1)}
    for fpr in (0.01, 0.001):
        key = f"tpr_at_fpr_{fpr:g}"
        tpr = membership_figures(inside, outside, fprs=[fpr], bootstrap=1, seed=0)[key]
        around = (None, None) if tpr is None else (max(tpr - 0.02, 0.0), min(tpr + 0.03, 1.0))
        row |= {key: tpr, f"{key}_low": around[0], f"{key}_high": around[1]}
        if tpr is None:
            rate = float((inside > outside.max()).mean())
            row |= {f"unresolved_{key}": rate, f"unresolved_{key}_low": 0.0, f"unresolved_{key}_high": rate + 0.02}
    row |= {"balanced_accuracy": 0.5 + (area - 0.5) / 2, "members": members, "nonmembers": nonmembers, "unit": "image"}
    return row | {"duplicates": 1, "headline": int(headline), "roc": [list(p) for p in roc_points(inside, outside)]}


@cache
def measured_rows():
    rows = []
    for target in SHIFTS:
        for references in REFERENCES.get(target, ["direct"]):
            named = {"distance-features": True, "distance-pixels": False}
            if target != "release":
                named = {"rmia": True, "lira-online": False}
            rows += [measured_row(target, s, a, references, named[a]) for a in named for s in COUNTS]
        if target != "release":
            rows += [measured_row(target, site, "loss", "none", False) for site in COUNTS]
    return rows + pooled_rows(rows)


def audit_extras():
    sites, targets = list(COUNTS), list(SHIFTS)
    answers = {"student": "no leakage found", "release": "no leakage found", "site-student": "cannot tell"}
    reasons = {
        "no leakage found": "the upper limit 0.54 is at most 0.55, and the site's teacher is detected",
        "leakage found": "the lower limit 0.57 is above 0.5",
        "cannot tell": "the interval [0.46, 0.58] allows both: too few images",
    }
    verdicts = [
        {"site": site, "target": target, "verdict": answers.get(target, "leakage found")}
        for target in targets
        for site in sites
    ]
    verdicts[1]["verdict"] = "cannot tell"
    attack = {"attack": "rmia", "references": "pipeline"}
    canary = {"target": "student", **attack, "auc": 0.56, "auc_low": 0.48, "auc_high": 0.64, "included": 98}
    canary |= {"excluded": 102, "tpr_at_fpr_0.01": 0.04, "tpr_at_fpr_0.01_low": 0.0, "tpr_at_fpr_0.01_high": 0.09}
    bound = {"target": "student", **attack, "epsilon": 0.31, "largest": 4.6, "delta": 1e-5, "confidence": 0.95}
    bound |= {"coins": 560, "guesses": 56, "correct": 36}
    copies = {"released": 1600, "suspects": 7, "verbatim": 0, "share": 0.0044, "chance_share": 0.005, "flagged": 0}
    copies |= {"members": 400, "members_found": 5, "nonmembers": 160, "nonmembers_found": 2, "p_value": 0.7}
    aucs = {"student": [0.5, 0.56, 0.52], "fedavg": [0.55, 0.71, None]}
    return {
        "blind": [{"site": site, "auc": 0.51, "p_value": 0.3, "rejected": False} for site in sites],
        "paired": [
            {
                "site": s,
                "target": "student",
                "other": other,
                **attack,
                "difference": d,
                "low": d - 0.04,
                "high": d + 0.04,
            }
            for other, d in (("fedavg", -0.09), ("centralised", -0.02))
            for s in sites
        ],
        "copies": [{"site": site, **copies} for site in sites],
        "epsilon": [
            *({"site": site, **bound, "reason": ""} for site in sites[:2]),
            {"site": "site-2", "target": "student", **attack, "epsilon": None, "reason": "there are too few coins"},
        ],
        "canaries": [{"site": site, **canary, "channel": name} for site in sites for name in ("label", "image")],
        "per_class": [
            {"site": s, "target": t, **attack, "classes": [0, 1, 2], "auc": values}
            | {"low": [v and v - 0.05 for v in values], "high": [v and v + 0.05 for v in values]}
            for t, values in aucs.items()
            for s in sites
        ],
        "verdicts": [v | {"reason": reasons[v["verdict"]]} for v in verdicts],
        "worst_site": worst_site(row for row in measured_rows() if row["headline"]),
        "notes": ["site-2 made its references without the other sites' releases: its policy keeps them"],
    }


@pytest.fixture
def full_results(results):
    """The run with every attack, target and control of the audit."""
    options = {"headline": "rmia", "direct_references": 16, "pipeline_references": 8}
    return results | {
        "study": {"data": {"name": "digits"}, "audit": options},
        "sites": [{"name": site, "counts": {"train": [5, 0, 9], "holdout": [2, 1, 3]}} for site in COUNTS],
        "audit": copy.deepcopy(measured_rows()),
        "audit_extras": audit_extras(),
    }


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
    colour = rng.integers(0, 256, (12, 40, 40, 3), dtype=np.uint8)
    labels = np.arange(12) % 2
    return {
        "site-0": SiteSamples(CLASSES, grey, labels, grey, labels),
        "site-1": SiteSamples(CLASSES, None, None, colour, labels),
    }


SEARCH = {
    "checkpoints": [{"step": 20, "score": 0.7, "loss": 0.9}, {"step": 10, "score": 0.7, "loss": 0.8}],
    "tuning": [
        {"knobs": {"steps": 9, "guidance": 1.0}, "score": 0.7, "loss": 0.8},
        {"knobs": {"steps": 9, "guidance": 1.5}, "score": 0.75, "loss": 0.6},
        {"knobs": {"steps": 9, "guidance": 1.5}, "score": 0.75, "loss": 0.6},
        {"knobs": {"steps": 9, "guidance": 1.5, "filter": 0.5}, "score": None, "loss": None},
    ],
}


@pytest.fixture
def tried():
    """What one site tells of its search."""
    return copy.deepcopy(SEARCH)


@pytest.fixture
def searched(results, tried):
    """The run with everything that a site tells of its search."""
    site = {
        **tried,
        "teacher": {"val_accuracy": 0.9},
        "images": 40,
        "left_out": ["plain"],
        "recalls": [0.92, None, None],
    }
    return results | {"recycling": {"site-0": site}}
