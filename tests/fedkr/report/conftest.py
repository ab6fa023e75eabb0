"""A small made-up run for the report's tests."""

import numpy as np
import pytest

from fedkr.report import SiteSamples

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
            for target, auc in (("student", 0.51), ("weights", 0.58), ("teacher", 0.66))
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
        "weights_search": [{"lr": 0.1, "local_epochs": 2, "round": r, "val_accuracy": r / 10} for r in (1, 2, 3)],
        "missing_sites": [],
        "notes": [],
        "seconds": 200.0,
        "test_images": 360,
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
