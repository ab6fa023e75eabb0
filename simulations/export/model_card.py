"""The model card: what a student is, what it was made from, how good it is, what it leaks, and what it is not for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import fedkr
from fedkr.config import Study
from fedkr.report.conclusions import accuracy_verdict, audit_verdict, uncertainty
from fedkr.report.results import AuditRow, Results
from fedkr.report.selection import headline_rows, site_totals
from fedkr.report.wording import (
    attack_label,
    auc_interval,
    decimal,
    duration,
    listing,
    percent,
    size,
    strategy_label,
    strategy_meaning,
    target_label,
    tpr_interval,
)
from simulations.export.bundle import DESCRIPTION_FILE, INPUT, ONNX_FILE, OUTPUT, WEIGHTS_FILE, ModelDescription

LIMITS = (
    "Not a medical device and not for clinical use: nobody has validated it on patients, no regulator has seen it.",
    "An audit finds leakage, it cannot rule it out: an interval that holds 0.5 is no proof, and of the attacks above "
    "those without reference models are the weaker ones.",
    "The images of the releases are synthetic, but the generators that drew them learnt from private images: whoever "
    "passes a release on should read the audit first.",
    "It knows the classes above and no others: an image of none of them also gets probabilities that sum to one.",
    "Other scanners, patients or preprocessing than those of the sites may lower every figure.",
)


def write_card(results: Results, study: Study, description: ModelDescription, command: str | None) -> str:
    """Return the model card in Markdown.

    Args:
        results: of the run, checked.
        study: its configuration.
        description: of the student.
        command: that composes the study, None where no command does.
    """
    sections = {
        f"Student of a federated study on {study.data.name}": _about(results, description),
        "Use": _use(description),
        "Data": _data(results, study, description),
        "Training": _training(results, study, description),
        "Test figures": _figures(results),
        "Membership audit": _audit(results),
        "Limits": [f"- {limit}" for limit in LIMITS],
        "How to make it again": _origin(results, command),
    }
    (title, about), *others = sections.items()
    lines = [f"# {_plain(title)}", "", *about]
    for heading, section in others:
        lines += ["", f"## {heading}", "", *section]
    return "\n".join(lines) + "\n"


def _about(results: Results, description: ModelDescription) -> list[str]:
    sites = _number(len(results.get("sites", [])), "site")
    return [
        f"An image classifier ({description.classifier.arch}) for {len(description.classes)} classes, trained by "
        f"Federated Knowledge Recycling: {sites} shared regenerated images with soft labels, never data or models, and "
        f"this student learnt from their union. Written by fedkr {fedkr.__version__}.",
    ]


def _use(description: ModelDescription) -> list[str]:
    side, channels, classes = description.size, description.channels, len(description.classes)
    return [
        "- `fedkr predict . IMAGES` classifies an image, a folder or an npz file.",
        f"- `{WEIGHTS_FILE}`: the bare weights. Input float32 `[N, {channels}, {side}, {side}]` in [-1, 1], "
        "output logits.",
        f"- `{ONNX_FILE}`: with the preprocessing inside. Input `{INPUT}` uint8 `[N, {side}, {side}, {channels}]`, "
        f"output `{OUTPUT}` float32 `[N, {classes}]`.",
        f"- `{DESCRIPTION_FILE}`: classes, preprocessing, architecture and the study's configuration.",
        "- `releases/`: what each site shared, as npz (images, soft_labels, exchange, classes).",
    ]


def _data(results: Results, study: Study, description: ModelDescription) -> list[str]:
    classes = ", ".join(map(_plain, description.classes))
    lines = [
        f"Dataset `{_plain(study.data.name)}`, {description.size} x {description.size} pixels, "
        f"{_number(description.channels, 'channel')}. Classes, in the order of the outputs: {classes}.",
        "",
    ]
    recycling = results.get("recycling", {})
    rows = [
        [
            site["name"],
            _count(sum(site_totals(site)) or None),
            _count(sum((site.get("counts") or {}).get("train", [])) or None),
            _count(recycling.get(site["name"], {}).get("images")),
            ", ".join(recycling.get(site["name"], {}).get("left_out", [])) or "none",
        ]
        for site in results.get("sites", [])
    ]
    lines += _table(["site", "private images", "of them in training", "released images", "classes left out"], rows)
    missing = results.get("missing_sites", [])
    return [*lines, "", f"Lost on the way: {_plain('; '.join(missing))}."] if missing else lines


def _training(results: Results, study: Study, description: ModelDescription) -> list[str]:
    student, recycle, generator = description.classifier, study.recycle, study.generator
    return [
        f"- Student: {student.arch}, width {student.width}, {student.norm} norm; {student.steps} steps of "
        f"{student.batch} images; SGD, learning rate {student.lr:g}, weight decay {student.weight_decay:g}; "
        f"augmentation {student.augment}; {student.loss} on soft labels; "
        f"{_number(recycle.rounds, 'regeneration round')}.",
        f"- At each site: generator {generator.kind}, {generator.steps} steps; its checkpoint and sampling chosen on "
        f"the site's own val split; teacher {study.teacher.arch}, which gives the soft labels.",
        f"- Seed {results.get('seed', study.seed)}.",
    ]


def _figures(results: Results) -> list[str]:
    rows = [
        [
            strategy_label(row["name"]),
            percent(row.get("accuracy")),
            percent(row.get("balanced_accuracy")),
            decimal(row.get("auc")),
            size(row.get("bytes_up")),
            size(row.get("bytes_down")),
            duration(row.get("seconds")),
        ]
        for row in results["strategies"]
    ]
    meanings = [f"- {strategy_label(row['name'])}: {strategy_meaning(row['name'])}" for row in results["strategies"]]
    return [
        f"{_plain(accuracy_verdict(results))} {uncertainty(results)}",
        "",
        *_table(["strategy", "accuracy", "balanced accuracy", "AUC", "sent up", "sent down", "time"], rows),
        "",
        *meanings,
    ]


def _audit(results: Results) -> list[str]:
    """All attacks on the student; of the other models, which are not exported, the headline attack alone."""
    lines = [_plain(audit_verdict(results))]
    headline = headline_rows(results)
    rows = [row for row in results.get("audit", []) if row["target"] == "student" or row in headline]
    if rows:
        titles = ["model", "site", "attack", "references", "AUC [95 %]", "TPR at 1 % FPR [95 %]"]
        titles += ["members", "non-members"]
        lines += ["", *_table(titles, [_audit_row(row, results) for row in rows])]
        lines += ["", "Guessing gives an AUC of 0.5 and a TPR of 1 %. Only this student is part of the export."]
    return lines


def _audit_row(row: AuditRow, results: Results) -> list[str]:
    return [
        target_label(row["target"], results),
        row["site"],
        attack_label(row["attack"]),
        row.get("references", "none"),
        auc_interval(row),
        tpr_interval(row),
        _count(row.get("members")),
        _count(row.get("nonmembers")),
    ]


def _origin(results: Results, command: str | None) -> list[str]:
    named = ("identity", "backend", "seed")
    facts = [f"{name} {results[name]}" for name in named if name in results]  # type: ignore[literal-required]
    made = f"```\n{command}\n```" if command else f"The study's whole configuration is in `{DESCRIPTION_FILE}`."
    return [
        made,
        "",
        f"- Study: {_plain(listing(facts))}",
        f"- Versions: {_plain(_pairs(results.get('versions', {})))}",
        f"- Hardware: {_plain(_pairs(results.get('hardware', {})))}",
        *(f"- Note: {_plain(note)}" for note in results.get("notes", [])),
    ]


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "not recorded"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _count(value: int | None) -> str:
    return "not told" if value is None else f"{value:,}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(map(_plain, cells))} |" for cells in (titles, ["---"] * len(titles), *rows)]


def _plain(text: str) -> str:
    """Return ``text`` so that Markdown shows it as it is: class and site names are anyone's."""
    for mark in "\\|`*_":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.replace("](", "]\\(").replace("<", "&lt;").split())
