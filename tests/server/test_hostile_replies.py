"""Whatever a site answers is read in one line or refused in one, and nothing passes that the rules below forbid.

``FEDKR_HYPOTHESIS_CASES=11000 python -m pytest tests/server/test_hostile_replies.py`` is a thorough run.
"""

import json
import math
import unicodedata
from functools import partial

import numpy as np
import pytest
import torch

import fedkr
from fedkr import wire
from fedkr.audit.document import AuditQuestion, Pair, audit_extras, check_comparison
from fedkr.config import AuditConfig
from fedkr.errors import UserError
from fedkr.release import ROW_SUM_TOLERANCE
from server.audit import with_summaries
from server.releases import Releases
from server.site_models import SiteFigures
from server.weight_sharing import _distance, _pooled, outsized
from tests.hostile import contents, read_bounded, thorough

CLASSES = ["healthy", "ill", "rare"]
SITE = "site-1"


# The rules, written down without the readers' own code.


def whole(value, least=0, most=2**53):
    return type(value) is int and least <= value <= most


def number(value, least=-math.inf, most=math.inf):
    return type(value) in (int, float) and math.isfinite(value) and least <= value <= most


def rate(value):
    return number(value, 0, 1)


def text(value, most=120):
    return isinstance(value, str) and len(value) <= most and not any(0xD800 <= ord(c) < 0xE000 for c in value)


def texts(value, most):
    return isinstance(value, list) and len(value) <= most and all(map(text, value))


def group(value, required, optional=()):
    return isinstance(value, dict) and {*required} <= value.keys() <= {*required, *optional}


def is_card(card):
    name = card["site"]
    return all(
        [
            group(
                card,
                ["site", "version", "classes", "size", "channels", "allow"],
                ["counts", "recipients", "threads", "data"],
            ),
            text(name, 64) and name.isprintable() and name == unicodedata.normalize("NFC", name.strip()),
            name and name[0] != "." and "/" not in name and "\\" not in name and name.lower() != "all sites",
            card["version"] == fedkr.__version__,
            texts(card["classes"], 1000) and len(card["classes"]) == len(set(card["classes"])) > 0,
            whole(card["size"], 1, 4096) and type(card["channels"]) is int and card["channels"] in (1, 3),
            texts(card["allow"], 128),
            text(card.get("recipients", "")) and whole(card.get("threads", 1)),
            all(
                split in ("train", "val", "test", "holdout")
                and len(counts) == len(card["classes"])
                and all(map(whole, counts))
                for split, counts in card.get("counts", {}).items()
            ),
            "data" not in card or (len(card["data"]) == 64 and {*card["data"]} <= {*"0123456789abcdef"}),
        ]
    )


def is_quality(quality):
    real = quality.get("real", {"score": 0.5, "less": 0.0, "clear": 0})
    return all(
        [
            group(quality, ["precision", "recall", "recognised"], ["frechet", "real"]),
            rate(quality["precision"]) and rate(quality["recall"]) and len(quality["recognised"]) == 3,
            all(share is None or rate(share) for share in quality["recognised"]),
            group(real, ["score", "less", "clear"], []) and real["clear"] in (0, 1),
        ]
    )


def is_release(release, manifest):
    images, labels = release["images"].numpy(), release["soft-labels"].numpy()
    sums = labels.astype(np.float64).sum(axis=1)
    scores, teacher = manifest.get("scores", {}), manifest.get("teacher", {})
    ordinary = lambda v: type(v) is float or whole(v, -(2**53))  # noqa: E731
    return all(
        [
            (images.dtype, images.shape[1:], labels.dtype) == (np.uint8, (8, 8, 1), np.float16),
            labels.shape == (len(images), 3) and len(images) > 0,
            np.isfinite(labels).all() and (labels >= 0).all() and (abs(sums - 1) <= 1.1 * ROW_SUM_TOLERANCE).all(),
            manifest.keys()
            <= {
                *(
                    "site",
                    "round",
                    "slices",
                    "count",
                    "left_out",
                    "knobs",
                    "checkpoint",
                    "scores",
                    "recalls",
                    "teacher",
                ),
                "quality",
            },
            text(manifest.get("site", "")) and texts(manifest.get("left_out", []), 3),
            {*manifest.get("left_out", [])} <= {*CLASSES},
            all(whole(manifest.get(name, 1)) for name in ("round", "slices", "count", "checkpoint")),
            len(images) % manifest.get("slices", 1) == 0,
            all(text(k) and ordinary(v) for k, v in manifest.get("knobs", {}).items()),
            len(manifest.get("recalls", CLASSES)) == 3
            and all(r is None or rate(r) for r in manifest.get("recalls", [])),
            is_quality(manifest["quality"]) if "quality" in manifest else True,
            group(teacher, [], ["step", "val_accuracy"]) and group(scores, [], ["checkpoints", "tuning"]),
            all(len(rows) <= 128 for rows in scores.values()),
            all(ordinary(row.get("score", 0)) and ordinary(row.get("loss", 0)) for rs in scores.values() for row in rs),
        ]
    )


def is_utility(metrics, split):
    own = {name: value for name, value in metrics.items() if name.startswith(f"{split}/")}
    if not own:
        return True
    counts = own.get(f"{split}/confusion", [0])
    return all(
        [
            rate(own[f"{split}/accuracy"]) and rate(own[f"{split}/balanced_accuracy"]),
            rate(own.get(f"{split}/auc", 0.5)) and number(own[f"{split}/loss"], 0),
            number(own[f"{split}/count"], 1, 1e9),
            isinstance(counts, list) and all(map(whole, counts)) and math.isqrt(len(counts)) ** 2 == len(counts),
        ]
    )


def is_round(content, sent):
    metrics, arrays = content[wire.METRICS], {name: array.numpy() for name, array in content[wire.ARRAYS].items()}
    fits = arrays.keys() == sent.keys() and all(arrays[name].shape == tuple(sent[name].shape) for name in sent)
    with np.errstate(all="ignore"):
        finite = all(np.isfinite(array.astype(np.float32)).all() for array in arrays.values())
    ranges = {"num-examples": (1, 1e9), "val-count": (0, 1e9), "val-correct": (0, 1e9), "val-loss": (0, 1e9)}
    figures = all(number(metrics[name], *range_) for name, range_ in ranges.items())
    rest = number(metrics.get("seconds", 0), 0, 1e9) and number(metrics.get("diverged", 0), 0, 1)
    return fits and finite and figures and rest and metrics["val-correct"] <= metrics["val-count"]


NAMES = {"target", "site", "attack", "references"}
INTERVAL = ("", "_low", "_high")


def is_findings(document, config):
    rows, attacks = document["audit"], [row["attack"] for row in document["audit"]]
    figures = {f"{name}{end}" for name in ("auc", "tpr_at_fpr_0.01", "balanced_accuracy") for end in INTERVAL}
    unresolved = {f"unresolved_tpr_at_fpr_0.01{end}" for end in INTERVAL}
    rest = {"kind", "adversary", "others", "unit", "members", "nonmembers", "duplicates", "headline", "roc"}
    rates = {f"{name}{end}" for name in ("auc", "tpr_at_fpr_0.01") for end in INTERVAL}
    planted, patients = {"channel", "included", "excluded", "unit"} | rates, document["patients"]
    return all(
        [
            group(document, ["audit", "canaries", "patients", "per_class", "epsilon", "two_sample", "copies"]),
            document["two_sample"] == document["copies"] == [],
            attacks == config.attacks,
            all(group(row, NAMES | figures | rest, unresolved | {"elsewhere"}) for row in rows),
            all(whole(row.get("elsewhere", 1), 1) for row in rows),
            len({(row["unit"], row.get("elsewhere")) for row in rows}) == 1 and rows[0]["unit"] in ("image", "patient"),
            all(group(row, NAMES | rates | {"members", "nonmembers", "unit"}, unresolved) for row in patients),
            all(row["unit"] == rows[0]["unit"] == "patient" for row in patients),
            [row["attack"] for row in patients] in ([], attacks),
            all(1 <= row[s] <= rows[0][s] and whole(row[s]) for row in patients for s in ("members", "nonmembers")),
            all(row[name] is None or rate(row[name]) for row in patients for name in (rates | unresolved) & row.keys()),
            all(group(row, NAMES | planted) for row in document["canaries"]),
            all(group(row, NAMES | {"reason"}, ["coins", "guesses", "correct"]) for row in document["epsilon"]),
            all(group(row, NAMES | {"auc", "low", "high", "classes", "unit"}) for row in document["per_class"]),
            all(row["unit"] == rows[0]["unit"] for row in document["per_class"]),
            all(row["unit"] == "image" for row in document["canaries"]),
            all(row["target"] == "student" and row["site"] == SITE for rows in document.values() for row in rows),
            all(row[name] is None or rate(row[name]) for row in rows for name in (figures | unresolved) & row.keys()),
            all(whole(row["members"], 1) and whole(row["nonmembers"], 1) and whole(row["duplicates"]) for row in rows),
            len({(row["members"], row["nonmembers"], row["duplicates"]) for row in rows}) == 1,
            all(len(row["roc"]) <= 64 and all(rate(x) for point in row["roc"] for x in point) for row in rows),
            [row["headline"] for row in rows] == [int(name == config.headline) for name in attacks],
            all(row[name] is None or rate(row[name]) for row in document["canaries"] for name in rates),
            len(document["epsilon"]) <= 1 and len(document["per_class"]) <= 1,
            all(
                0 <= row.get("correct", 0) <= row.get("guesses", 0) <= row.get("coins", 0) <= config.canaries
                for row in document["epsilon"]
            ),
            all(len(row[name]) == 3 for row in document["per_class"] for name in ("auc", "low", "high", "classes")),
        ]
    )


def is_comparison(document, pair):
    (blind,), (row,) = document["blind"], document["paired"]
    return all(
        [
            group(document, ["blind", "paired"]) and group(blind, ["site", "auc", "p_value", "classes_p_value"]),
            blind["site"] == SITE and rate(blind["auc"]) and rate(blind["p_value"]) and rate(blind["classes_p_value"]),
            group(row, ["site", "target", "other", "attack", "references", "difference", "low", "high", "unit"]),
            row["unit"] in ("image", "patient"),
            {name: row[name] for name in pair.names(SITE)} == pair.names(SITE),
            all(number(row[name], -1, 1) for name in ("difference", "low", "high")) and row["low"] <= row["high"],
        ]
    )


# What an honest site answers.

CARD = {"site": SITE, "version": fedkr.__version__, "classes": CLASSES, "size": 8, "channels": 1, "threads": 1}
CARD |= {"allow": ["metrics", "release", "weights"], "recipients": "server", "data": "0123456789abcdef" * 4}
CARD |= {"counts": {split: [5, 6, 7] for split in ("train", "val", "test", "holdout")}}
UTILITY = {"accuracy": 0.5, "balanced_accuracy": 0.5, "auc": 0.5, "loss": 1.0, "confusion": [1, 0, 0, 1], "count": 2}
ROUND = {"num-examples": 4, "val-correct": 1.0, "val-loss": 1.0, "val-count": 2, "diverged": 0, "seconds": 3.0}
WEIGHTS = {"0.weight": torch.ones(2, 3), "0.bias": torch.zeros(2), "1.num_batches_tracked": torch.tensor(3)}
CONFIG = AuditConfig(attacks=["loss", "modified-entropy"], fprs=[0.01], canaries=30)
KNOBS = {"guidance": 1.0, "steps": 18}
PAIR = Pair("loss", "none", "student", "0a", "weights", "1b")


def ends(name, value, low, high):
    return dict(zip((f"{name}{end}" for end in INTERVAL), (value, low, high), strict=True))


def findings():
    rows, canaries, patients = [], [], []
    for attack in CONFIG.attacks:
        names = {"target": "student", "site": SITE, "attack": attack, "references": "none"}
        rates = ends("auc", 0.5, 0.4, 0.6) | ends("tpr_at_fpr_0.01", 0.02, 0.0, 0.1)
        about = {"kind": "student", "adversary": "outsider", "others": None, "headline": int(attack == CONFIG.headline)}
        counts = {"members": 1500, "nonmembers": 1500, "duplicates": 0, "unit": "patient"}
        patients.append(names | rates | {"members": 300, "nonmembers": 200, "unit": "patient"})
        curve = {"roc": [[0.0, 0.0], [0.5, 0.6], [1.0, 1.0]]}
        rows.append(names | rates | about | counts | curve | ends("balanced_accuracy", 0.5, 0.4, 0.6))
        unknown = ends("tpr_at_fpr_0.01", None, None, None)
        canaries.append(
            names
            | ends("auc", 0.5, 0.4, 0.6)
            | unknown
            | {"channel": "label", "included": 15, "excluded": 15, "unit": "image"}
        )
    by_class = {"auc": [0.5, 0.5, None], "low": [0.4, 0.4, None], "high": [0.6, 0.6, None], "classes": [0, 1, 2]}
    by_class["unit"] = "patient"
    coins = {"reason": "", "coins": 30, "guesses": 6, "correct": 4}
    return {
        "audit": rows,
        "canaries": canaries,
        "patients": patients,
        "per_class": [names | by_class],
        "epsilon": [names | coins],
        "two_sample": [],
        "copies": [],
    }


def comparison():
    blind = {"site": SITE, "auc": 0.5, "p_value": 0.5, "classes_p_value": 0.5}
    return {
        "blind": [blind],
        "paired": [PAIR.names(SITE) | {"difference": 0.1, "low": 0.0, "high": 0.2, "unit": "image"}],
    }


def manifest():
    tried = {"checkpoints": [{"step": 20, "score": 0.5, "loss": 1.2}], "tuning": [{"knobs": KNOBS, "score": 0.5}]}
    values = {"round": 1, "left_out": ["rare"], "knobs": KNOBS, "checkpoint": 20, "scores": tried}
    quality = {"frechet": 1.5, "precision": 0.9, "recall": 0.8, "recognised": [0.9, 1.0, None]}
    quality["real"] = {"score": 0.8, "less": 0.1, "clear": 1}
    return values | {"recalls": [0.5, 0.4, None], "quality": quality, "teacher": {"step": 100, "val_accuracy": 0.7}}


def figures(*splits):
    return wire.metrics_reply({f"{s}/{name}": v for s in splits for name, v in UTILITY.items()} | {"seconds": 1.0})


@pytest.fixture
def coordinator(federation):
    return federation(min_sites=2)[1]


def described():
    content = wire.metrics_reply({})
    content[wire.CARD] = wire.document(CARD)
    return content


class Read:
    """A message that arrived, of which the card's reader sees the content alone."""

    def __init__(self, content):
        self.content = content


@thorough
def test_what_is_read_as_a_card_is_one(rng, coordinator):
    content = contents(rng, described(), [wire.CARD])
    accepted, card = read_bounded("card", coordinator._read_card, SITE, Read(content))
    assert not accepted or is_card(card)


@pytest.fixture
def releases(coordinator):
    return Releases(coordinator)


@thorough
def test_what_is_read_as_a_release_is_one(rng, releases, release_of):
    honest = wire.release_reply(release_of(SITE, **manifest()), 2.0)
    content = contents(rng, honest, [wire.MANIFEST])
    accepted, artifact = read_bounded("release", releases._accept, SITE, content)
    if accepted:
        json.dumps(artifact.info)
        assert is_release(content[wire.SHARED], json.loads(str(content[wire.MANIFEST]["json"])))
        assert number(artifact.info["seconds"], 0, 1e9)


def read_round(content):
    weights, read = wire.read_round(content, WEIGHTS)
    read |= {"bytes_up": 1, "bytes_down": 1, "update": _distance(weights, WEIGHTS, list(WEIGHTS))}
    everyone = {SITE: read} | {f"site-{i}": dict(read, update=1.0) for i in (2, 3)}
    outsized(everyone)
    return _pooled(everyone)


@thorough
def test_what_is_read_as_a_round_is_one(rng):
    content = contents(rng, wire.round_content(WEIGHTS, ROUND))
    accepted, pooled = read_bounded("round", read_round, content)
    assert not accepted or is_round(content, WEIGHTS)
    if accepted:
        assert math.isfinite(pooled["val_loss"]) if pooled["val_count"] else pooled["val_loss"] is None


@thorough
def test_what_is_read_as_figures_of_the_own_model_are_some(rng):
    content = contents(rng, figures("test", "global"))
    accepted, _ = read_bounded("local", lambda: SiteFigures.read(wire.read_metrics(content)))
    if accepted:
        metrics = dict(content[wire.METRICS])
        assert is_utility(metrics, "test") and is_utility(metrics, "global") and number(metrics["seconds"], 0, 1e9)


@thorough
def test_what_is_read_as_figures_of_a_model_are_some(rng):
    content = contents(rng, figures("val"))
    accepted, _ = read_bounded("evaluation", lambda: wire.read_utility(wire.read_metrics(content), "val"))
    assert not accepted or is_utility(dict(content.get(wire.METRICS) or {}), "val")


@thorough
def test_what_is_read_as_seconds_are_some(rng):
    content = contents(rng, wire.metrics_reply({"direct": 4, "pipeline": 0, "others": 0, "seconds": 1.0}))
    accepted, seconds = read_bounded("references", lambda: wire.read_seconds(wire.read_metrics(content)))
    assert not accepted or number(seconds, 0, 1e9)


def read_document(name, check, content):
    document = wire.read_document(content, name)
    check(document)
    return document


@thorough
def test_what_is_read_as_findings_are_some_and_the_report_can_be_made_of_them(rng):
    content = contents(rng, wire.document_reply(wire.FINDINGS, findings(), 1.0), [wire.FINDINGS])
    check = partial(AuditQuestion("student", "student", 3, CONFIG).check, SITE)
    accepted, document = read_bounded("findings", read_document, wire.FINDINGS, check, content)
    if accepted:
        assert is_findings(document, CONFIG)
        with_summaries(document["audit"], audit_extras(document | {"epsilon": []}, CONFIG))


@thorough
def test_what_is_read_as_a_comparison_is_one(rng):
    content = contents(rng, wire.document_reply(wire.COMPARISON, comparison(), 1.0), [wire.COMPARISON])
    check = partial(check_comparison, [PAIR], SITE)
    accepted, document = read_bounded("comparison", read_document, wire.COMPARISON, check, content)
    assert not accepted or is_comparison(document, PAIR)


def test_a_long_name_in_a_comparison_is_refused_in_a_short_line():
    document = comparison()
    document["paired"][0]["site"] = "s" * 10_000
    with pytest.raises(UserError, match="is not the comparison of") as refused:
        check_comparison([PAIR], SITE, document)
    assert len(str(refused.value)) < 1000


def test_the_answers_that_these_tests_start_from_are_read_and_allowed(coordinator, releases, release_of):
    assert is_card(coordinator._read_card(SITE, Read(described())))
    releases._accept(SITE, wire.release_reply(release_of(SITE, **manifest()), 2.0))
    assert is_round(wire.round_content(WEIGHTS, ROUND), WEIGHTS) and read_round(wire.round_content(WEIGHTS, ROUND))
    SiteFigures.read(wire.read_metrics(figures("test", "global")))
    AuditQuestion("student", "student", 3, CONFIG).check(SITE, findings())
    check_comparison([PAIR], SITE, comparison())
    assert is_findings(findings(), CONFIG) and is_comparison(comparison(), PAIR)
