"""Any study that a site reads before it opens data is one that the table below allows, or is refused in one line."""

import json
import math

import pytest

from fedkr.config import Study, parse_study
from sites.admission import permit
from sites.policy import Policy
from sites.splits import SiteSplit
from sites.studies import StudyRules, named_modules
from tests.hostile import json_text, read_bounded, thorough

# Least and most of each number, the texts that an option may be, or a type: the limits of schema, written down anew.
MILLION, MOST = 1_000_000, 10_000_000
COUNT, NATURAL, POSITIVE, NOT_NEGATIVE = (1, MOST), (0, MOST), (1e-320, 1e38), (0.0, 1e38)
SHARE, BELOW_ONE = (1e-320, 1 - 1e-16), (0.0, 1 - 1e-16)
CLASSIFIER = {"arch": str, "width": (1, 1024), "norm": ["batch", "group"], "steps": (1, MILLION), "batch": (1, 65_536)}
CLASSIFIER |= {"lr": POSITIVE, "weight_decay": NOT_NEGATIVE, "augment": ["none", "standard", "strong"]}
CLASSIFIER |= {"label_smoothing": BELOW_ONE, "mixup": NOT_NEGATIVE, "logit_adjustment": (0.0, 2.0)}
SEARCH = {"rounds": (1, 10_000), "search_rounds": (0, 10_000), "lrs": [POSITIVE], "local_epochs": [(1, 1000)]}
SEARCH |= {"steps": NATURAL, "norms": [["batch", "group"]]}
BALANCES = ["histogram", "balanced", "tempered"]
OPTIONS = {
    "": {"seed": (-(2**53), 2**53), "threads": COUNT, "device": str, "precision": ["auto", "float32", "bfloat16"]}
    | {"out": str, "run_dir": str, "data_digest": str, "budget": ["quick", "standard", "thorough"]},
    "facts": {"images": NATURAL, "side": (0, 4096), "channels": (0, 3), "classes": (0, 1000)},
    "data": {"name": str, "root": str, "path": str, "size": (0, 4096), "download": bool, "classes": [str]}
    | {"flip": ["none", "horizontal", "both"], "limit": (0, 2**53), "test_fraction": (-1e38, 1e38)}
    | {"channels": (0, 3), "fit": ["crop", "pad", "stretch"], "background": (0, 255), "scale": ["type", "image"]}
    | {"range": [(-1e38, 1e38)], "frames": ["first", "all"], "patients": ["auto", "none", "folder"]}
    | {"least_usable": (0.0, 1.0), "remove_leaks": bool, "near_leaks": (0.0, 255.0)},
    "federation": {"sites": (1, 10_000), "min_sites": NATURAL}
    | {"deadline": (1e-320, 8.64e6), "register_deadline": (1e-320, 8.64e6)},
    "partition": {"kind": ["iid", "dirichlet", "pathological", "quantity"], "alpha": POSITIVE}
    | {"classes_per_site": (1, 1000), "redraws": (0, 100_000)},
    "split": {"val": SHARE, "test": SHARE, "holdout": SHARE, "min_images": NATURAL},
    "generator": {"kind": str, "steps": (1, MILLION), "batch": (1, 65_536), "checkpoints": (1, 100), "options": dict},
    "teacher": CLASSIFIER
    | {
        "patience": COUNT,
        "evaluations": (1, 10_000),
        "keep_by": ["accuracy", "loss", "last"],
        "calibrate": bool,
    }
    | {"single_class": ["error", "constant"]},
    "student": CLASSIFIER | {"loss": ["cross_entropy", "kl"], "regenerate_every": COUNT, "components": (0, 128)},
    "recycle": {"search_steps": (1, MILLION), "search_images": COUNT, "search_rungs": (1, 100)}
    | {
        "search_tolerance": NOT_NEGATIVE,
        "leakage_weight": NOT_NEGATIVE,
        "tuning_budget": (0, 100),
        "tune_balances": [BALANCES],
    }
    | {"tune_filters": [BELOW_ONE], "metric": ["accuracy", "auc"], "rounds": (1, 1000), "ratio": (1e-320, 1000.0)}
    | {"exchange": ["once", "each"], "views": (1, 100), "temperature": (1e-320, 1000.0), "balance": BALANCES}
    | {"doubt": BELOW_ONE, "filter": BELOW_ONE, "min_class_count": COUNT, "refuse_collapsed": bool},
    "strategy": SEARCH | {"compare": [str], "options": dict},
    "privacy": {"mode": ["off", "dp"], "epsilon": (1e-320, 100.0), "delta": (1e-320, 0.01)},
    "audit": {"enabled": bool, "attacks": [str], "headline": str, "targets": [str], "fprs": [SHARE]}
    | {"bootstrap": (1, 100_000), "direct_references": (0, 1024), "pipeline_references": (0, 1024)}
    | {"queries": (1, 100), "gamma": (1.0, 1e9), "canaries": (0, 100_000), "canary_toss": (0, 1_000_000)}
    | {"canary_kinds": [["mislabelled", "noise", "near-duplicate", "outlier"]], "coins": bool, "guesses": NATURAL}
    | {"delta": (0.0, 1.0), "permutations": (0, 100_000), "features": ["pixels", "efficientnet-lite0"]},
    "backend": {"kind": ["inline", "ray", "deploy"], "cpus_per_site": COUNT, "gpus_per_site": NOT_NEGATIVE}
    | {"cpus": NATURAL, "address": str, "port": (0, 65_535), "restarts": (0, 1000)},
}


def holds(rule, value):
    """Whether a value is of a type, within limits (of its kind of number), one of some texts, or a list of such."""
    if isinstance(rule, tuple):
        kinds = (int,) if isinstance(rule[1], int) else (int, float)
        return type(value) in kinds and rule[0] <= value <= rule[1]
    if isinstance(rule, list) and len(rule) > 1:
        return isinstance(value, str) and value in rule
    if isinstance(rule, list):
        return isinstance(value, list) and len(value) <= 1000 and all(holds(rule[0], item) for item in value)
    return type(value) is rule and (rule is not str or (len(value) <= 4096 and value.isprintable()))


def plain(value, depth=0):
    """Whether all within a value is finite, printable and of ordinary size."""
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        named = all(holds(str, name) for name in value) if isinstance(value, dict) else True
        return depth <= 9 and len(value) <= 1000 and named and all(plain(item, depth + 1) for item in items)
    if type(value) in (int, float):
        return math.isfinite(value) and abs(value) <= (2**53 if type(value) is int else 1e38)
    return value is None or type(value) is bool or holds(str, value)


def can_reject(sites, permutations):
    """Whether 1 / (permutations + 1), rounded up to 1, 2 or 5 times a power of ten, is 1 % over two tests a site."""
    least = min(digit * 10**power for digit in (1, 2, 5) for power in range(9) if digit * 10**power >= 200 * sites)
    return (permutations or max(2000, min(20_000, least - 1))) >= least - 1


def is_study(values):
    groups = {"": {name: value for name, value in values.items() if name not in OPTIONS}} | {
        name: value for name, value in values.items() if name in OPTIONS
    }
    known = all(
        name in OPTIONS[group] and holds(OPTIONS[group][name], value)
        for group, options in groups.items()
        for name, value in options.items()
    )
    own = values.get("strategy", {}).get("options", {})
    searched = all(holds(SEARCH[name], o[name]) for o in own.values() for name in o if name in SEARCH)
    return known and searched and plain(values) and is_consistent(values)


def is_consistent(values):
    of = lambda group, name, usual: values.get(group, {}).get(name, usual)  # noqa: E731
    usual = Study()
    shares = sum(of("split", name, getattr(usual.split, name)) for name in ("val", "test", "holdout"))
    compare, audit = of("strategy", "compare", usual.strategy.compare), usual.audit
    attacks = of("audit", "attacks", audit.attacks)
    return all(
        [
            shares < 1,
            of("federation", "min_sites", 0) <= of("federation", "sites", 3),
            len(set(compare)) == len(compare) <= 32 and {*of("strategy", "options", {})} <= {*compare},
            len(set(of("recycle", "tune_balances", []))) == len(of("recycle", "tune_balances", [])),
            len(set(of("recycle", "tune_filters", []))) == len(of("recycle", "tune_filters", [])) <= 10,
            len(set(attacks)) == len(attacks) <= 32 and len(of("audit", "fprs", audit.fprs)) <= 16,
            not of("audit", "enabled", True) or of("audit", "headline", audit.headline) in attacks,
            not of("audit", "enabled", True)
            or can_reject(of("federation", "sites", 3), of("audit", "permutations", 0)),
            of("audit", "direct_references", 0) % 2 == 0 and of("audit", "pipeline_references", 0) not in (2,),
            of("privacy", "mode", "off") == "off" or of("generator", "kind", "edm") in ("moments", "edm"),
            of("privacy", "mode", "off") == "off" or not (of("recycle", "doubt", 0.0) or of("recycle", "filter", 0.0)),
            values.get("device", "auto").split(":")[0] in ("auto", "cpu", "cuda"),
        ]
    )


def valid():
    study = Study()
    study.strategy.options = {"fedavg": {"lrs": [0.1], "rounds": 5}, "fedkr": {"quarantine": False}}
    study.generator.options = {"width": 8, "members": [{"kind": "edm", "options": {"width": 4}}]}
    return json.loads(study.to_json())


@pytest.fixture(scope="module")
def text():
    return valid()


@thorough
def test_what_is_read_as_a_study_is_one(rng, text):
    written = json_text(rng, text)
    accepted, study = read_bounded("study", parse_study, written)
    if accepted:
        assert is_study(json.loads(written))
        assert parse_study(study.to_json()) == study


BOUNDED = {"strategy.rounds": 200, "strategy.local_epochs": 20, "generator.steps": 20_000, "audit.bootstrap": 10_000}
BOUNDED |= {"strategy.steps": 100_000}


@thorough
def test_a_study_that_may_run_is_within_the_sites_bounds_and_names_no_module(rng, text, tmp_path):
    path = tmp_path / "site.yaml"
    if not path.exists():
        path.write_text(
            json.dumps({"name": "st-mary", "workspace": "work", "data": {"name": "npz", "path": "none.npz"}})
        )
    written = json_text(rng, text)
    accepted, _ = read_bounded("admission", permit, {"site-file": str(path)}, "query.describe", written)
    if accepted:
        values, study = json.loads(written), parse_study(written)
        assert is_study(values) and not list(named_modules(study)) and "." not in study.data.name
        strategies = values.get("strategy", {}).get("options", {})
        for option, most in BOUNDED.items():
            group, name = option.split(".")
            rows = [values.get(group, {}), *(strategies.values() if group == "strategy" else [])]
            for value in [row[name] for row in rows if name in row]:
                assert max(value if isinstance(value, list) else [value], default=0) <= most
        searched, recycle = study.generator.checkpoints, study.recycle
        searched += recycle.tuning_budget + len(recycle.tune_balances) + len(recycle.tune_filters)
        own = study.generator.steps + study.teacher.steps + study.student.steps + searched * recycle.search_steps
        steps = [row.get("steps", study.strategy.steps) for row in (values.get("strategy", {}), *strategies.values())]
        assert all(steps) or own <= BOUNDED["strategy.steps"]
        assert not study.audit.coins and study.recycle.refuse_collapsed
        assert not study.audit.canaries or study.audit.canary_kinds in ([], ["noise"])


def test_the_rules_of_this_test_allow_the_study_that_it_starts_from(text):
    assert is_study(text)
    SiteSplit().allow(parse_study(json.dumps(text)))
    assert StudyRules().outside(parse_study(json.dumps(text))) == []
    Policy().check("usual")
