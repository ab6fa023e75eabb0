"""The documents in which an audit travels, and their one check: by the site before they leave, by the server after.

``evaluate.audit`` is answered by a document with the lists ``audit`` (rows of ``results["audit"]``), ``canaries``,
``patients``, ``per_class``, ``epsilon``, ``two_sample`` and ``copies`` (of ``results["audit_extras"]``),
``evaluate.compare`` by one with ``blind`` and ``paired``. Each row is spelled as in ``results.json``, and says in
``unit`` whether its intervals resample images or patients. What follows from counts (the bound on epsilon, the copy
check's p-value) does not travel: who reads the document works it out.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from fedkr.audit.attacks.with_references import KINDS
from fedkr.audit.coins import REASONS
from fedkr.audit.copies import CopyFigures
from fedkr.audit.findings import AuditReport, Row
from fedkr.audit.statistics.epsilon import one_run_bound
from fedkr.audit.statistics.fdp import epsilon_of_mu, mu_lower_bound
from fedkr.audit.statistics.membership import (
    ENDS,
    IMAGE,
    PATIENT,
    ROC_POINTS,
    UNITS,
    guessing_rates,
    resolvable,
    tpr_name,
)
from fedkr.audit.targets import RELEASE, RELEASED, adversary_of, headline_key, row_key, row_names
from fedkr.config import CANARY_CHANNELS, QUANTILE, AuditConfig
from fedkr.config.reading import brief
from fedkr.errors import UserError
from fedkr.strict_json import (
    Count,
    Flag,
    ImageCount,
    Positive,
    Rate,
    SomeImages,
    Strict,
    check_strict,
    list_of,
    object_of,
    one_of,
)

Document = dict[str, Any]
# Between two rates.
Difference = Annotated[float, Field(ge=-1, le=1)]
# Each canary has a coin of its own, so that its unit is an image.
_PLANTED = {"included": SomeImages, "excluded": SomeImages, "unit": one_of(IMAGE)}
_PLANTED |= {"channel": one_of(*CANARY_CHANNELS)}
_GUESSED = {"coins": Positive, "guesses": Positive, "correct": Count}
# Far more than a study compares.
MOST_PAIRS = 64
# The bound on epsilon takes time and memory for each coin.
MOST_COINS = 1_000_000
# Where exact counts may not leave a site, a number of images is a multiple of the first, and a part of them that a copy
# check found one of the second.
COUNT_STEP, PART_STEP = 50, 5
POWERLESS = "so few coins are guessed that even a perfect attack would show no epsilon"
# Which count of a copy check is part of which.
COPY_PARTS = {
    "suspects": "released",
    "verbatim": "suspects",
    "holdout_near": "holdout",
    "members_found": "members",
    "nonmembers_found": "nonmembers",
}


@dataclass(frozen=True)
class Pair:
    """Two targets that were audited by the same attack, whose AUCs are compared.

    Attributes:
        attack, references: by which rows.
        target, other: the difference is the AUC of the first less that of the second.
        about, other_about: digests of the models' weights.
    """

    attack: str
    references: str
    target: str
    about: str
    other: str
    other_about: str

    def names(self, site: str) -> Row:
        """Return what the pair's row of ``audit_extras.paired`` begins with."""
        names = {"target": self.target, "other": self.other, "attack": self.attack, "references": self.references}
        return {"site": site} | names


def audit_document(report: AuditReport, copies: Iterable[Row] = ()) -> Document:
    """Return all of a report that may leave its site, with the counts of the copy check beside a release's."""
    lists = {name: getattr(report, name) for name in ("canaries", "patients", "per_class", "epsilon", "two_sample")}
    return {"audit": report.rows, **lists, "copies": list(copies)}


def audit_extras(document: Document, config: AuditConfig) -> dict[str, list[Row]]:
    """Return a document's part of ``audit_extras``, with all that follows from its counts."""
    return {name: document[name] for name in ("per_class", "two_sample")} | {
        "canaries": [row | guessing_rates(row, row["excluded"]) for row in document["canaries"]],
        "patients": [row | guessing_rates(row, row["nonmembers"]) for row in document["patients"]],
        "epsilon": [_with_bound(row, config.delta) for row in document["epsilon"]],
        "copies": [CopyFigures.of_counts(row).as_row(row["site"]) for row in document["copies"]],
    }


def _with_bound(row: Row, delta: float) -> Row:
    names = {name: row[name] for name in ("target", "site", "attack", "references")}
    if "coins" not in row:
        return names | {"epsilon": None, "reason": row["reason"]}
    counts = row["coins"], row["guesses"], row["correct"]
    mu = mu_lower_bound(*counts)
    gaussian = None if mu is None else epsilon_of_mu(mu, delta)
    bound = vars(one_run_bound(*counts, delta=delta)) | {"mu": mu, "gaussian_epsilon": gaussian}
    # By the site it would be told by its exact count of coins.
    refused = {"epsilon": None, "mu": None, "gaussian_epsilon": None, "reason": POWERLESS}
    return names | bound | ({"reason": ""} if bound["largest"] else refused)


@dataclass(frozen=True)
class AuditQuestion:
    """One question of an audit, as both ends know it: an answer may say nothing else.

    Attributes:
        classes: of the study; a list over classes is so long, so that no list over images can pass for one.
    """

    target: str
    kind: str
    classes: int
    config: AuditConfig

    def check(self, site: str, document: Document, exact: bool = True) -> None:
        """Check a site's answer, in which members and non-members are ``exact`` counts or rounded ones.

        A field that is missing, unknown or out of range, a row that this study does not have, and figures that
        contradict each other are a :class:`UserError`.
        """
        try:
            check_strict(self._shape(site), document)
            self._check_extras(document, self._check_rows(document["audit"]))
            if not exact:
                _check_rounded(document, self.config.coins)
        except UserError as error:
            where = f"audit of {self.target} at {site}"
            raise UserError(f"{where}: {error}; is the site's fedkr of the same version?") from None

    def _shape(self, site: str) -> type[Strict]:
        """Return what each list may hold, row by row."""
        asked = row_names(self.kind, self.config.attacks)
        names = {
            "target": one_of(self.target),
            "site": one_of(site),
            "attack": one_of(*dict(asked)),
            "references": one_of("none", *KINDS, RELEASED),
        }
        tprs = [f"{tpr_name(fpr)}{end}" for fpr in self.config.fprs for end in ENDS]
        unresolved = [f"unresolved_{name}" for name in tprs]
        rates = {f"auc{end}": Rate for end in ENDS} | dict.fromkeys(tprs, Rate | None)
        figures = {
            "kind": one_of(self.kind),
            "adversary": one_of(adversary_of(self.kind)),
            "others": bool | None,
            **{f"balanced_accuracy{end}": Rate | None for end in ENDS},
            "unit": one_of(*UNITS),
            "members": SomeImages,
            "nonmembers": SomeImages,
            "duplicates": ImageCount,
            "headline": Flag,
            "roc": list_of(list_of(Rate, 2, 2), ROC_POINTS),
        }
        optional = dict.fromkeys(unresolved, Rate) | {"elsewhere": SomeImages}
        counted = {"members": SomeImages, "nonmembers": SomeImages, "unit": one_of(PATIENT)}
        of_patients = object_of("patient row", names | rates | counted, dict.fromkeys(unresolved, Rate))
        by_class = dict.fromkeys(("auc", "low", "high"), list_of(Rate | None, self.classes, self.classes))
        by_class |= {"classes": list_of(Count, self.classes, self.classes), "unit": one_of(*UNITS)}
        counts = {field.name: ImageCount for field in dataclasses.fields(CopyFigures)}
        channels, coins, copies = self.config.canary_channels, self.config.coins, int(self.target == RELEASE)
        rows = {
            "audit": list_of(object_of("row", names | rates | figures, optional), len(asked)),
            "canaries": list_of(object_of("canary row", names | rates | _PLANTED), len(asked) * len(channels)),
            "patients": list_of(of_patients, len(asked)),
            "per_class": list_of(object_of("class row", names | by_class), 1),
            "epsilon": list_of(
                object_of("coin row", names | {"reason": one_of("", *REASONS)}, _GUESSED), bool(channels) or coins
            ),
            "two_sample": list_of(object_of("two-sample row", {"site": one_of(site), "p_value": Rate}), copies),
            "copies": list_of(object_of("copy row", {"site": one_of(site)} | counts), copies, copies),
        }
        return object_of("document", rows)

    def _check_rows(self, rows: Sequence[Row]) -> dict[str, Row]:
        """Check which rows there are, and the figures of each; return them by their key."""
        found = keyed(rows)
        asked = {row_key(*names): names[1] for names in row_names(self.kind, self.config.attacks)}
        # A site may lack reference models, and the rows with them; one whose figures leave coarsely has no quantile.
        expected = [key for key, kind in asked.items() if key in found or (kind == "none" and key != QUANTILE)]
        if [_key(row) for row in rows] != expected:
            raise UserError(f"rows {[_key(row) for row in rows]}, expected each once, of {list(asked)}")
        _check_same(rows, ("members", "nonmembers", "duplicates"))
        _check_same(rows, ("elsewhere",))
        quoted = headline_key(self.target, self.config.headline, found)
        for key, row in found.items():
            self._check_rates(key, row, row["nonmembers"])
            _check_interval(key, row, "balanced_accuracy")
            _check_roc(key, row["roc"])
            if (row["others"] is None) != (row["references"] == "none") or row["headline"] != (key == quoted):
                raise UserError(f"{key}: headline={row['headline']} or others={row['others']} is not such a row's")
        return found

    def _check_extras(self, document: Document, rows: Mapping[str, Row]) -> None:
        """Check that what stands beside the rows is of them."""
        self._check_canaries(document["canaries"], list(rows))
        _check_same([*rows.values(), *document["per_class"]], ("unit",))
        self._check_patients(document["patients"], rows)
        for row in (*document["per_class"], *document["epsilon"]):
            if not rows.get(_key(row), {}).get("headline"):
                raise UserError(f"{_key(row)} is not the headline, so that it has no figures of classes or coins")
        for row in document["per_class"]:
            _check_classes(row)
        for row in document["epsilon"]:
            _check_coins(row, MOST_COINS if self.config.coins else self.config.canaries)
        for row in document["copies"]:
            for part, whole in COPY_PARTS.items():
                if row[part] > row[whole] or (whole != "suspects" and not row[whole]):
                    raise UserError(f"copies: {part}={row[part]} of {whole}={row[whole]}")

    def _check_patients(self, patients: Sequence[Row], rows: Mapping[str, Row]) -> None:
        """Check that patients have a row beside each of the images' or none, and are no more than their images."""
        if patients and [_key(row) for row in patients] != list(rows):
            raise UserError(f"patients {[_key(row) for row in patients]} are not those of the rows {list(rows)}")
        _check_same(patients, ("members", "nonmembers"))
        for row in patients:
            key, images = _key(row), rows[_key(row)]
            self._check_rates(f"patients of {key}", row, row["nonmembers"])
            fits = all(row[side] <= images[side] for side in ("members", "nonmembers"))
            if images["unit"] != PATIENT or not fits:
                raise UserError(
                    f"patients of {key}: {row['members']} and {row['nonmembers']} do not fit {images['members']} and "
                    f"{images['nonmembers']} images, resampled by {images['unit']}"
                )

    def _check_canaries(self, canaries: Sequence[Row], rows: Sequence[str]) -> None:
        """Check that they are of the rows and of the channels that the study plants in, each channel's of one set."""
        found, channels = [(_key(row), row["channel"]) for row in canaries], self.config.canary_channels
        if found != [place for place in itertools.product(rows, channels) if place in found]:
            raise UserError(f"canaries {found} are not those of the rows {list(rows)} and channels {channels}")
        for channel in channels:
            _check_same([row for row in canaries if row["channel"] == channel], ("included", "excluded"))
        for row in canaries:
            self._check_rates(f"canaries of {_key(row)}", row, row["excluded"])

    def _check_rates(self, key: str, row: Row, nonmembers: int) -> None:
        """Check the AUC, and that a TPR is given where so many non-members resolve it and only there."""
        _check_interval(key, row, "auc")
        for fpr in self.config.fprs:
            name, unresolved = tpr_name(fpr), f"unresolved_{tpr_name(fpr)}"
            known, hidden = _check_interval(key, row, name), _check_interval(key, row, unresolved)
            natural = "members" in row
            if known != resolvable(fpr, nonmembers) or hidden != (natural and not known):
                raise UserError(f"{key}: {name}={row[name]} is not what {nonmembers} non-members can show")


def check_comparison(pairs: Sequence[Pair], site: str, document: Document) -> None:
    """Check a site's answer about the blind baseline and pairs of targets.

    A field that is missing, unknown or out of range is a :class:`UserError`, as are other pairs than were asked for.
    """
    if len(pairs) > MOST_PAIRS:
        raise UserError(f"comparison at {site}: {len(pairs)} pairs of targets, more than {MOST_PAIRS}")
    blind = object_of("blind row", {"site": one_of(site), "auc": Rate, "p_value": Rate, "classes_p_value": Rate})
    names = dict.fromkeys(("site", "target", "other", "attack", "references"), str)
    figures = dict.fromkeys(("difference", "low", "high"), Difference) | {"unit": one_of(*UNITS)}
    paired = object_of("paired row", names | figures)
    lists = {"blind": list_of(blind, 1, 1), "paired": list_of(paired, len(pairs), len(pairs))}
    try:
        check_strict(object_of("comparison", lists), document)
        for pair, row in zip(pairs, document["paired"], strict=True):
            if not pair.names(site).items() <= row.items() or row["low"] > row["high"]:
                raise UserError(f"{brief(row)} is not the comparison of {pair.names(site)}")
    except UserError as error:
        raise UserError(f"comparison at {site}: {error}; is the site's fedkr of the same version?") from None


def keyed(rows: Iterable[Row]) -> dict[str, Row]:
    """Return rows by attack and references (:func:`~fedkr.audit.targets.row_key`)."""
    return {_key(row): row for row in rows}


def _key(row: Row) -> str:
    return row_key(row["attack"], row["references"])


def _check_interval(key: str, row: Row, name: str) -> bool:
    """Check a rate with its limits, which may lie on one side of it (a percentile interval's do at times).

    Returns:
        Whether there is one: the rate and both limits are given, or none of them.
    """
    value, low, high = (row.get(f"{name}{end}") for end in ENDS)
    if value is None or low is None or high is None:
        if (value, low, high) != (None, None, None):
            raise UserError(f"{key}: {name} or one of its limits is missing")
        return False
    if low > high:
        raise UserError(f"{key}: the lower limit of {name}, {low}, is above the upper limit {high}")
    return True


def _check_same(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Check that all rows rest on the same images."""
    if len({tuple(row.get(name) for name in names) for row in rows}) > 1:
        raise UserError(f"{', '.join(names)} are not the same in all rows")


def _check_rounded(document: Document, coins: bool) -> None:
    """Check that no count of private images is exact."""
    steps = dict.fromkeys(("members", "nonmembers", "duplicates", "elsewhere", "holdout"), COUNT_STEP)
    steps |= {part: PART_STEP for part, whole in COPY_PARTS.items() if whole not in ("released", "suspects")}
    steps |= {"coins": COUNT_STEP, "correct": PART_STEP} if coins else {}
    for row in (*document["audit"], *document["patients"], *document["copies"], *document["epsilon"]):
        for name in row.keys() & steps.keys():
            if row[name] % steps[name]:
                raise UserError(f"{name}={row[name]} is an exact count, which does not leave this site")


def _check_roc(key: str, points: Sequence[Sequence[float]]) -> None:
    for axis in zip(*points, strict=True):
        if list(axis) != sorted(axis):
            raise UserError(f"{key}: roc does not rise, as a ROC curve does")


def _check_classes(row: Row) -> None:
    if row["classes"] != list(range(len(row["classes"]))):
        raise UserError(f"per_class: classes={row['classes']} are not all classes in order")
    for label, (auc, low, high) in enumerate(zip(row["auc"], row["low"], row["high"], strict=True)):
        _check_interval(f"class {label}", {"auc": auc, "auc_low": low, "auc_high": high}, "auc")


def _check_coins(row: Row, most: int) -> None:
    counts = [row[name] for name in ("correct", "guesses", "coins") if name in row]
    if len(counts) != (0 if row["reason"] else 3) or [*counts, most] != sorted([*counts, most]):
        raise UserError(
            f"epsilon: correct, guesses, coins = {counts} do not fit the reason {row['reason']!r} or {most} coins"
        )
