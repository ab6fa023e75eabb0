"""The shape of ``results.json``: what a finished run hands to its report, checked when written and when read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, Required

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from typing_extensions import TypedDict

from fedkr.documents import is_confusion
from fedkr.errors import UserError
from fedkr.report.audit_fields import AuditExtras, AuditRow
from fedkr.strict_json import Rate

RESULTS_FILE = "results.json"


class Scores(TypedDict, total=False):
    """Test scores (fractions 0..1), bytes on the wire and computing time in seconds; null where there is none."""

    accuracy: Rate | None
    balanced_accuracy: Rate | None
    auc: Rate | None
    bytes_up: float | None
    bytes_down: float | None
    seconds: float | None


class Tuning(TypedDict, total=False):
    """How a contestant was tuned on val; a site tells it of the model that it keeps only where its policy allows.

    ``looks`` settings were tried, and ``by_val`` says whether val chose anything: with too few images it does not.
    ``steps`` were taken in all settings (the mean over the sites), ``step`` or ``round`` of ``rounds`` was kept.
    Where ``capped``, the most rounds that the study lets it have end its schedule, and not the steps.
    ``epsilon`` and ``delta`` are what holds of the weights that a site sent, where that is guaranteed.
    ``allotted`` are the steps that there were, ``val_images`` those of all sites together; bytes are of all sites, for
    the chosen setting up to the kept round.
    """

    lr: float
    local_epochs: int
    norm: str
    step: float
    round: int
    rounds: int
    capped: bool
    looks: float
    by_val: bool | float
    val_images: int | float
    steps: float
    allotted: int
    bytes_up_without_search: float
    bytes_down_without_search: float
    epsilon: float
    delta: float


class SiteScores(Scores, total=False):
    """One strategy at one site, on that site's own test images."""

    site: Required[str]
    tuning: Tuning


class StrategyResult(Scores, total=False):
    """One strategy of the comparison, on the global test images.

    Limits are of 95 % intervals over these images (:class:`fedkr.learning.paired.PairedUtility`), and there for a model
    that all sites share, as is ``confusion``, the row-major ``[K, K]`` matrix whose rows are the truth.
    """

    name: Required[str]
    accuracy_low: Rate | None
    accuracy_high: Rate | None
    balanced_accuracy_low: Rate | None
    balanced_accuracy_high: Rate | None
    auc_low: Rate | None
    auc_high: Rate | None
    confusion: list[int]
    tuning: Tuning
    per_site: list[SiteScores]


class StrategyDifference(TypedDict):
    """A figure of ``strategy`` less that of ``other`` on the same test images, with its paired 95 % interval."""

    strategy: str
    other: str
    figure: str
    difference: float
    difference_low: float
    difference_high: float
    unit: str


class SiteResult(TypedDict, total=False):
    """One site: images per split and class, null where its policy keeps them."""

    name: Required[str]
    counts: dict[str, list[int]] | None


class CheckpointScore(TypedDict):
    """One generator checkpoint, and how a classifier trained on its images does on the site's val split.

    ``score`` is what ``recycle.metric`` names; the lower ``loss`` decides between equal ones. ``leakage`` is the AUC of
    telling train from val by its images, where ``recycle.leakage_weight`` has it count.
    """

    step: int
    score: float | None
    loss: NotRequired[float | None]
    leakage: NotRequired[float | None]


class TuningTrial(TypedDict):
    """One setting of the sampler and its score, as in :class:`CheckpointScore`."""

    knobs: dict[str, Any]
    score: float | None
    loss: NotRequired[float | None]
    leakage: NotRequired[float | None]


class Guarantee(TypedDict):
    """What holds of all that a site released in the run: one ``unit``, a patient or an image, more or less."""

    epsilon: float
    delta: float
    unit: str
    mechanism: str


class Shortfall(TypedDict):
    """What students of as many real images score, how much ``less`` the release teaches, and if that is ``clear``."""

    score: float
    less: float
    clear: int


class ReleaseQuality(TypedDict, total=False):
    """How a site's release looks beside its real images; see :class:`fedkr.recycle.quality.Quality`."""

    frechet: float
    precision: Rate
    recall: Rate
    recognised: Required[list[Rate | None]]
    real: Shortfall


class SiteRecycling(TypedDict, total=False):
    """What one site tried on its way to its release, and what it released.

    ``checkpoint`` (its step) and ``knobs`` are what it chose; ``recalls`` are those of each class on val, by the
    classifier that scored this choice, null for a class with too few images; ``relabelled`` is the share of images that
    taught the student another class than their teacher gave them; ``by_val`` is 0 where val was too small to choose.
    ``privacy`` is there where the release has a guarantee.
    """

    checkpoints: list[CheckpointScore]
    tuning: list[TuningTrial]
    checkpoint: int
    knobs: dict[str, Any]
    teacher: dict[str, Any]
    images: int
    left_out: list[str]
    recalls: list[float | None]
    quality: ReleaseQuality
    relabelled: float
    by_val: int
    privacy: Guarantee


class TargetResult(TypedDict, total=False):
    """What a contestant left behind that an audit can attack.

    ``kind`` is what ``audit.targets`` also calls it, such as ``weights`` for every model of shared weights. ``model``
    or ``by_site`` say where its models are in the run's folder; without either, the sites hold it.
    """

    name: Required[str]
    kind: Required[str]
    contestant: Required[str]
    model: str
    by_site: dict[str, str]


class SharedWithTest(TypedDict, total=False):
    """What pool and global test set have in common: see :class:`fedkr.data.leaks.Leaks`."""

    images: Required[int]
    near: int | None
    within: float
    patients: Required[int | None]
    removed: int | None
    test_images: int


class DataFacts(TypedDict):
    """What a reader of any figure has to know of the data: one line each, and how the test set was compared.

    ``leaks`` is null where nobody could compare the sites' images with the global test set.
    """

    warnings: list[str]
    leaks: SharedWithTest | None


class SearchPoint(TypedDict):
    """Pooled val accuracy of a weight-sharing strategy after one round of one setting."""

    strategy: str
    lr: float
    local_epochs: int
    norm: NotRequired[str]
    round: int
    val_accuracy: float | None


class Candidate(TypedDict):
    """Another site's release: accuracy of training with it beside one's own images, and 1 where it was chosen."""

    site: str
    alone: Rate
    chosen: int


class SiteChoice(TypedDict, total=False):
    """Which other sites' releases a site trains with; all but ``how`` it chose stays there where its policy says so.

    ``judged`` images were looked at, ``own`` is the accuracy on them of training without any release.
    """

    how: Required[str]
    judged: int
    own: Rate
    candidates: list[Candidate]


class Results(TypedDict, total=False):
    """The whole document. ``test_images`` is the size of the global test set, where it is known.

    ``releases`` names each site's release files, relative to the run folder, in the order of the exchanges;
    ``run_identity`` is the study's identity as it ran, where a later audit took the place of its own.
    """

    fedkr: str
    study: dict[str, Any]
    identity: str
    run_identity: str
    backend: str
    seed: int
    classes: list[str]
    versions: dict[str, Any]
    hardware: dict[str, Any]
    sites: list[SiteResult]
    data: DataFacts
    strategies: Required[list[StrategyResult]]
    differences: list[StrategyDifference]
    audit: list[AuditRow]
    audit_extras: AuditExtras
    releases: dict[str, list[str]]
    recycling: dict[str, SiteRecycling]
    weights_search: list[SearchPoint]
    choices: dict[str, dict[str, SiteChoice]]
    targets: list[TargetResult]
    missing_sites: list[str]
    notes: list[str]
    seconds: float | None
    test_images: int


_SHAPE = TypeAdapter(Results)


def load_results(path: Path) -> Results:
    """Read and check ``results.json`` (or the run folder that holds it).

    Raises:
        UserError: the file is missing, no JSON, or not of this shape.
    """
    path = path / RESULTS_FILE if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name the folder of a finished run") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); run the study again to write it anew") from None
    try:
        return check_results(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check_results(values: Any) -> Results:
    """Return ``values`` unchanged if they have the shape of :class:`Results`; unknown keys are kept.

    Raises:
        UserError: the first field that is missing, of another type or out of range, by its dotted path.
    """
    try:
        _SHAPE.validate_python(values, strict=True)
    except ValidationError as error:
        raise UserError(_first_fault(error)) from None
    _check_rates(values)
    _check_counts(values)
    return values


def plain(value: Any) -> Any:
    """Return ``value`` as JSON can hold it: arrays as lists, NumPy numbers as Python's, NaN and infinity as None."""
    return to_jsonable_python(value, inf_nan_mode="null", fallback=_without_numpy)


def _without_numpy(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


def _first_fault(error: ValidationError) -> str:
    """Return the first field that does not fit as 'results.audit[2].auc='0.5': input should be a valid number'."""
    fault = error.errors()[0]
    where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in fault["loc"])
    found = "" if fault["type"] == "missing" else f"={fault['input']!r:.60}"
    return f"results{where}{found}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _check_rates(results: Results) -> None:
    """Check the TPRs at every FPR: a study chooses its own, so that the schema cannot name them."""
    rows: dict[str, Sequence[Mapping[str, Any]]] = {
        "audit": results.get("audit", []),
        "audit_extras.canaries": results.get("audit_extras", {}).get("canaries", []),
        "audit_extras.patients": results.get("audit_extras", {}).get("patients", []),
    }
    for where, i, row in [(where, i, row) for where, found in rows.items() for i, row in enumerate(found)]:
        for name, value in row.items():
            rate = value is None or (isinstance(value, (int, float)) and 0 <= value <= 1)
            if name.startswith("tpr_at") and not rate:
                raise UserError(f"results.{where}[{i}].{name}={value!r}: expected a fraction between 0 and 1, or null")


def _check_counts(results: Results) -> None:
    classes = results.get("classes")
    for i, row in enumerate(results["strategies"]):
        confusion = row.get("confusion")
        if confusion is not None and not (is_confusion(confusion) and len(confusion) == len(classes or ()) ** 2):
            raise UserError(f"results.strategies[{i}].confusion: expected a count for each pair of classes")
    for i, site in enumerate(results.get("sites", [])):
        for split, counts in (site.get("counts") or {}).items():
            if classes is not None and len(counts) != len(classes):
                raise UserError(
                    f"results.sites[{i}].counts.{split}: {len(counts)} counts for {len(classes)} classes; one a class"
                )
