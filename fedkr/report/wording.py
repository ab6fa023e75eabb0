"""How the report says things: names of strategies and targets, and numbers with their units."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedkr.audit.statistics.membership import ENDS, IMAGE, PATIENT, fprs_of, tpr_name
from fedkr.audit.statistics.pooling import MIXED
from fedkr.audit.targets import RELEASED
from fedkr.config import explained, parse_study
from fedkr.errors import UserError
from fedkr.report.audit_fields import AttackFigures, AuditRow, PairedRow
from fedkr.report.results import Results
from fedkr.report.selection import kind_and_owner, references_kind

STRATEGY_LABELS = {
    "local": "Local only",
    "fedavg": "FedAvg",
    "fedprox": "FedProx",
    "dp-fedavg": "DP-FedAvg",
    "fedadam": "FedAdam",
    "fedyogi": "FedYogi",
    "fedkr": "FedKR",
    "fedkr-dda": "FedKR-DDA",
    "fedkr+ft": "FedKR, fine-tuned",
    "centralised": "Centralised",
}
STRATEGY_MEANING = {
    "local": "each site trains on its own images; the mean over the sites",
    "dp-fedavg": "sites share model weights, round by round, with noise that limits what one image tells",
    "fedkr": "sites share regenerated images with soft labels; the server trains a student on them",
    "fedkr-dda": "each site trains on its own images and on shared ones that it chooses; the mean over the sites",
    "fedkr+ft": "each site trains the FedKR student further on its own images; the mean over the sites",
    "centralised": "all images in one place, which hospitals may not do: the reference",
}
TARGET_LABELS = {
    "student": "FedKR student",
    "teacher": "Site's teacher",
    "local": "Site's own model",
    "centralised": "Centralised model",
    "site-student": "Student of one site's releases",
    "release": "Released images",
    "control": "Control: overfitted classifier",
    "control-student": "Control: student of planted images",
}
_OF_CONTESTANT = {
    **dict.fromkeys(("student", "weights", "oracle"), " model"),
    "update": " update of a site",
    "rounds": " updates of a site, round by round",
    "teacher": " teacher of a site",
    "personal": " model of a site",
}
ATTACK_LABELS = {
    "loss": "loss threshold",
    "modified-entropy": "modified entropy",
    "logit-margin": "logit margin",
    "label-only": "label only",
    "quantile": "quantile regression",
    "round-gain": "gain of the rounds",
    "rmia": "RMIA",
    "rmia-offline": "RMIA (offline)",
    "lira-online": "LiRA (online)",
    "lira-online-fixed": "LiRA (online, fixed variance)",
    "lira-offline": "LiRA (offline)",
    "lira-offline-fixed": "LiRA (offline, fixed variance)",
    "bavaria": "BaVarIA",
    "bavaria-offline": "BaVarIA (offline)",
    "distance-pixels": "distance in pixels",
    "distance-features": "distance in features",
    "monte-carlo": "Monte-Carlo density",
    "domias": "DOMIAS",
    "calibrated-pixels": "calibrated distance in pixels",
    "calibrated-features": "calibrated distance in features",
    "soft-label-neighbours": "soft-label neighbours",
    "fused": "calibrated distance fused with a classifier",
}
# One plain sentence for each attack on what was released; "nearest" are the five released images nearest to an image.
RELEASE_ATTACK_MEANING = {
    "distance-pixels": "how near the nearest released image is, pixel by pixel",
    "distance-features": "the same in features that all images share",
    "monte-carlo": "how many released images are near",
    "domias": "whether the release is denser around an image than real images are",
    "calibrated-pixels": "whether the nearest released images are nearer than the nearest of other releases",
    "calibrated-features": "the same in features that all images share",
    "soft-label-neighbours": "whether the nearest released images are surer of the true class than the nearest of "
    "other releases",
    "fused": "the calibrated distance in pixels together with whether a classifier trained on the release knows the "
    "image",
}
ADVERSARY_MEANING = {
    "outsider": "sees the final model",
    "server": "sees what each site sent",
    "owner": "the site itself: this never leaves it",
}
# Models that references of the other kinds are; these are none.
REFERENCES_IN_WORDS = {RELEASED: "by the other sites' releases"}
NONE = "-"
NOT_RESOLVABLE = "not resolvable"


def strategy_label(name: str) -> str:
    """Return how a strategy is called in text."""
    return STRATEGY_LABELS.get(name, name)


def strategy_meaning(name: str, results: Results) -> str:
    """Return in half a sentence what a strategy does; of a contestant of one's own, what is seen of it."""
    if name in STRATEGY_MEANING:
        return STRATEGY_MEANING[name]
    shares = name in STRATEGY_LABELS or name in weight_sharers(results)
    return "sites share model weights, round by round" if shares else "a contestant of this study's own"


def weight_sharers(results: Results) -> list[str]:
    """Return the contestants that sent model weights."""
    return [row["contestant"] for row in results.get("targets", []) if row["kind"] == "weights"]


def target_label(target: str, results: Results) -> str:
    """Return how an audited model is called in text."""
    if target in TARGET_LABELS:
        return TARGET_LABELS[target]
    kind, contestant = kind_and_owner(results, target)
    return strategy_label(contestant) + _OF_CONTESTANT[kind] if kind in _OF_CONTESTANT else target


def attack_label(attack: str) -> str:
    """Return how an attack is called in text."""
    return ATTACK_LABELS.get(attack, attack)


def percent(fraction: float | None, digits: int = 1) -> str:
    """Return a fraction as '97.2 %'."""
    return NONE if fraction is None else f"{100 * fraction:.{digits}f} %"


def decimal(value: float | None, digits: int = 3) -> str:
    """Return a number with a fixed count of decimals."""
    return NONE if value is None else f"{value:.{digits}f}"


def figure_interval(row: Mapping[str, Any], figure: str) -> str:
    """Return a strategy's figure with its interval: '97.2 % [95.1, 98.8]', an AUC as '0.991 [0.984, 0.997]'."""
    value, low, high = (row.get(f"{figure}{end}") for end in ENDS)
    if figure == "auc":
        return decimal(value) + _limits(low, high, ".3f")
    return percent(value) + _limits(low, high, ".1f", 100)


def points_interval(row: Mapping[str, Any] | None) -> str:
    """Return a difference of two strategies in points, '+0.8 [-0.3, 1.9]', of AUCs as '+0.0041 [-0.0020, 0.0102]'."""
    if row is None:
        return NONE
    scale, digits = (1, 4) if row["figure"] == "auc" else (100, 1)
    value, low, high = (row[f"difference{end}"] for end in ENDS)
    return f"{scale * value:+.{digits}f}" + _limits(low, high, f".{digits}f", scale)


def choice_cell(candidate: Mapping[str, Any] | None) -> str:
    """Return what a site found of another's release: '83.1 %, chosen' or '71.4 %'."""
    return NONE if candidate is None else percent(candidate["alone"]) + (", chosen" if candidate["chosen"] else "")


def setting_text(chosen: Mapping[str, Any]) -> str:
    """Return a setting of the search as 'lr 0.1, 5 local epochs, group norm': what of it there is."""
    parts = [f"lr {chosen['lr']:g}"] if "lr" in chosen else []
    parts += [plural(chosen["local_epochs"], "local epoch")] if "local_epochs" in chosen else []
    return ", ".join(parts + ([f"{chosen['norm']} norm"] if "norm" in chosen else []))


def kept_text(tuning: Mapping[str, Any]) -> str:
    """Return what was kept of a contestant's training as 'round 60 of 72' or 'step 1,200'."""
    if "round" in tuning:
        capped = ", the most that the study allows, before its steps are taken" if tuning.get("capped") else ""
        return f"round {tuning['round']} of {tuning.get('rounds', tuning['round'])}{capped}"
    return f"step {tuning['step']:,.0f}" if "step" in tuning else NONE


def whole(value: int | None) -> str:
    """Return a whole number as '1,234'."""
    return NONE if value is None else f"{value:,}"


def share_of(part: int | None, whole_count: int | None) -> str:
    """Return '12 (3.4 %)': a count and its share of a larger one."""
    return NONE if part is None or not whole_count else f"{whole(part)} ({percent(part / whole_count)})"


def plural(value: int, noun: str) -> str:
    """Return '1 site' or '3 sites'."""
    return f"{value} {noun}" if value == 1 else f"{value} {noun}s"


def span(values: Sequence[int]) -> str:
    """Return '200' or '180 to 1,220': the least and the largest."""
    low, high = min(values), max(values)
    return whole(low) if low == high else f"{whole(low)} to {whole(high)}"


def p_value(value: float | None) -> str:
    """Return a p-value with two decimals, small ones with four."""
    return decimal(value, 4 if value is not None and value < 0.01 else 2)


def fpr_label(fpr: float) -> str:
    """Return a false-positive rate as '1 %' or '0.1 %'."""
    return percent(fpr, 0 if fpr >= 0.01 else 1)


def tpr_title(fpr: float) -> str:
    """Return how a column of TPRs is called."""
    return f"TPR at {fpr_label(fpr)} FPR"


def size(count: float | None) -> str:
    """Return bytes as '1.24 MB' (powers of 1000)."""
    if count is None:
        return NONE
    if count == 0:
        return "0"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}" if count / scale < 1000 else f"{count / scale:,.0f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float | None) -> str:
    """Return seconds as '8.2 s', '4 min 10 s' or '2 h 05 min'."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def attack_with_references(row: Mapping[str, Any]) -> str:
    """Return an attack and the kind of reference models that it used, as in 'RMIA, pipeline references'."""
    kind, attack = references_kind(row), attack_label(row.get("attack", NONE))
    return f"{attack}, {REFERENCES_IN_WORDS.get(kind, f'{kind} references')}" if kind else attack


# By what the intervals of rows of figures resample.
_RESAMPLED = {
    IMAGE: "by image: images are resampled",
    PATIENT: "by patient: all images of a patient are resampled together",
    MIXED: "by patient where a site's data name patients, else by image",
}


def unit_label(row: Mapping[str, Any]) -> str:
    """Return what a row's interval resamples: 'image', 'patient', or 'mixed' over sites."""
    return str(row.get("unit", NONE))


def intervals_by(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return what the intervals of rows resample, as in 'by image: images are resampled'; empty where none says it."""
    units = {row["unit"] for row in rows if "unit" in row}
    return _RESAMPLED[units.pop() if len(units) == 1 else MIXED] if units else ""


def auc_interval(row: AttackFigures) -> str:
    """Return '0.512 [0.47, 0.55]', or the AUC alone where there is no interval."""
    return decimal(row.get("auc")) + _limits(row.get("auc_low"), row.get("auc_high"), ".2f")


def tpr_interval(row: AttackFigures, fpr: float = 0.01) -> str:
    """Return the TPR at an FPR with its interval and what guessing has, or that too few non-members resolve it."""
    tpr, low, high = tpr_figures(row, fpr)
    if tpr is None:
        return NOT_RESOLVABLE
    guessing = guessing_figure(row, fpr)
    return percent(tpr) + _limits(low, high, ".1f", 100) + (f" (guessing: {percent(guessing)})" if guessing else "")


def tpr_intervals(row: AttackFigures, fprs: Iterable[float]) -> list[str]:
    """Return the TPR at each FPR, as :func:`tpr_interval` does."""
    return [tpr_interval(row, fpr) for fpr in fprs]


def balanced_interval(row: AuditRow) -> str:
    """Return the balanced accuracy at a threshold of other images, with its interval where there is one."""
    limits = _limits(row.get("balanced_accuracy_low"), row.get("balanced_accuracy_high"), ".1f", 100)
    return percent(row.get("balanced_accuracy")) + limits


def difference_interval(row: PairedRow) -> str:
    """Return a paired difference of AUCs as '-0.090 [-0.13, -0.05]'."""
    difference = row.get("difference")
    return NONE if difference is None else f"{difference:+.3f}" + _limits(row.get("low"), row.get("high"), "+.2f")


def _limits(low: float | None, high: float | None, digits: str, scale: int = 1) -> str:
    return "" if low is None or high is None else f" [{scale * low:{digits}}, {scale * high:{digits}}]"


def tpr_figures(row: Mapping[str, Any], fpr: float) -> tuple[float | None, float | None, float | None]:
    """Return the TPR at an FPR and both ends of its interval, None for what is not there."""
    rate, low, high = (row.get(f"{tpr_name(fpr)}{end}") for end in ENDS)
    return rate, low, high


def guessing_figure(row: Mapping[str, Any], fpr: float) -> float | None:
    """Return the TPR at an FPR that guessing has on so many non-members, None where a run did not say it."""
    return row.get(f"guessing_{tpr_name(fpr)}")


def measured_fprs(rows: Iterable[Mapping[str, Any]]) -> list[float]:
    """Return the FPRs at which rows have a TPR or say that it is not resolvable, the highest first."""
    return sorted({fpr for row in rows for fpr in fprs_of(row)}, reverse=True)


def listing(names: list[str]) -> str:
    """Return 'a', 'a and b' or 'a, b and c'."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def shortened(text: str, longest: int = 12) -> str:
    """Return ``text`` cut to ``longest`` characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def schedule(study: Mapping[str, Any]) -> str:
    """Say how long a study trained, and what decided it; "-" for a study of another version of fedkr."""
    with contextlib.suppress(UserError):
        return explained(parse_study(json.dumps(study)))
    return "-"
