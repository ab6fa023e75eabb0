"""The wire: the one place where something becomes a Flower message and a message becomes something.

Requests carry one ConfigRecord ``config`` with the study as JSON and, where a model is sent, one ArrayRecord
``arrays``. Replies carry one MetricRecord ``metrics`` and what :data:`REPLIES` names for their message type, nothing
else. Arrays travel in NumPy's ``npy`` format without pickle.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from fedkr.audit.document import MOST_PAIRS, Pair
from fedkr.config import AUDIT_TARGETS
from fedkr.config.reading import brief
from fedkr.documents import check_document, is_confusion
from fedkr.errors import UserError
from fedkr.fingerprint import array_digest, fingerprint
from fedkr.learning.evaluation import Utility
from fedkr.learning.models import check_weights
from fedkr.release import Release, ReleasedSets, SoftSet

DESCRIBE = "query.describe"
LOCAL = "train.local"
PERSONALISE = "train.personalise"
FINETUNE = "train.finetune"
RELEASE = "train.release"
TRAIN = "train"
EVALUATE = "evaluate"
REFERENCES = "train.references"
AUDIT = "evaluate.audit"
COMPARE = "evaluate.compare"

CONFIG, ARRAYS, METRICS, SHARED = "config", "arrays", "metrics", "release"
# JSON documents.
DOCUMENTS = MANIFEST, CARD, FINDINGS, COMPARISON, CHOICE = "manifest", "card", "findings", "comparison", "choice"
OFFER = "offer"

# How Flower names the format of its arrays.
STYPE = "numpy.ndarray"
# Error code of a site that refused or failed by itself; Flower's own codes are below 100.
SITE_ERROR = 500

# What each reply may hold, by record name: the contract that a site's policy enforces.
REPLIES: dict[str, frozenset[str]] = {
    DESCRIBE: frozenset({CARD}),
    LOCAL: frozenset({METRICS}),
    PERSONALISE: frozenset({METRICS, CHOICE}),
    FINETUNE: frozenset({METRICS}),
    RELEASE: frozenset({METRICS, SHARED, MANIFEST}),
    TRAIN: frozenset({METRICS, ARRAYS}),
    EVALUATE: frozenset({METRICS}),
    REFERENCES: frozenset({METRICS}),
    AUDIT: frozenset({METRICS, FINDINGS}),
    COMPARE: frozenset({METRICS, COMPARISON}),
}
UTILITY_FIELDS = ("accuracy", "balanced_accuracy", "auc", "loss", "confusion", "count")
# How a site's own model was tuned, with the least and the most that each can be.
TUNED = {"lr": (0, 1e7), **dict.fromkeys(("step", "steps", "looks"), (0, 10**9)), "by_val": (0, 1)}
# What an answer that is metrics only may say.
METRIC_NAMES = frozenset(
    {"seconds"}
    | {f"tuned/{name}" for name in TUNED}
    | {f"{split}/{name}" for split in ("val", "test", "global") for name in UTILITY_FIELDS}
)

# Characters of all documents of a reply. Figures for each of the most classes there can be take a fifth of it.
LARGEST_DOCUMENTS = 500_000
# A reply with more could hold a figure for each image.
MOST_METRICS = 64
# What a site says about its round of weight sharing, with the least and the most that each figure can be.
MOST_COUNTED = 10**9
# The longest deadline that a study can have.
MOST_SECONDS = 100 * 24 * 3600
ROUND_FIGURES = {
    "num-examples": (1, MOST_COUNTED),
    **dict.fromkeys(("val-count", "val-correct", "val-loss"), (0, MOST_COUNTED)),
    "seconds": (0, MOST_SECONDS),
    "diverged": (0, 1),
}

Metric = int | float | list[int] | list[float]
Figures = dict[str, float]
Setting = str | int | float | list[int] | list[str]
R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)


@dataclass(frozen=True)
class Request:
    """What a site reads from a request: the study's JSON, other settings, and a model's weights or images if any.

    ``shared`` is a set of other sites' synthetic images with their soft labels.
    """

    study: str
    settings: dict[str, Any]
    weights: dict[str, Tensor] | None
    shared: SoftSet | None = None

    def setting(self, name: str) -> Any:
        """Return a setting; raise :class:`UserError` where it is missing."""
        if name not in self.settings:
            raise UserError(f"the request lacks the setting {name!r}; is the server fedkr's, and of this version?")
        return self.settings[name]


def pairs_setting(pairs: Iterable[Pair]) -> str:
    """Return pairs as the value of the setting ``pairs``."""
    return json.dumps([dataclasses.asdict(pair) for pair in pairs])


def read_pairs(request: Request) -> list[Pair]:
    """Read the setting ``pairs``; raise :class:`UserError` for one that is none, or of more pairs than a study has."""
    try:
        pairs = json.loads(request.settings["pairs"])
        found = [Pair(**{name: str(value) for name, value in pair.items()}) for pair in pairs]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise UserError("evaluate.compare: the setting 'pairs' is missing or no list of pairs") from None
    # Here, too, since each costs a site a bootstrap.
    if len(found) > MOST_PAIRS:
        raise UserError(f"evaluate.compare: {len(found)} pairs of targets, more than {MOST_PAIRS}")
    return found


def read_target(request: Request) -> tuple[str, str]:
    """Return the target that a request for an audit names, and its kind; raise :class:`UserError` for no such kind."""
    target = str(request.setting("target"))
    kind = str(request.settings.get("kind", target))
    if kind not in AUDIT_TARGETS:
        raise UserError(f"evaluate.audit: target={target!r} is of an unknown kind {kind!r}")
    return target, kind


def offer_content(study: str, contestant: str, offered: Mapping[str, ReleasedSets]) -> RecordDict:
    """Return the content of a request that brings a site other sites' releases, by site; there may be none."""
    parts = {site: sets.arrays() for site, sets in offered.items()}
    sets = [{"site": site, "size": size} for site, (_, sizes) in parts.items() for size in sizes]
    shared = SoftSet.union([images for images, _ in parts.values()]) if parts else None
    return request_content(study, shared=shared, contestant=contestant, offer=json.dumps({"sets": sets}))


def read_offer(request: Request) -> dict[str, list[int]]:
    """Return how many images each of an offer's sets has, by the site that released them, in the order of the images.

    A setting ``offer`` that is none, or that does not fit the images, is a :class:`UserError`.
    """
    text = request.settings.get(OFFER)
    if isinstance(text, str) and len(text) > LARGEST_DOCUMENTS:
        raise UserError(f"{PERSONALISE}: the setting {OFFER!r} has {len(text)} characters; {LARGEST_DOCUMENTS} at most")
    try:
        values = json.loads(text if isinstance(text, str) else "")
    except (ValueError, RecursionError):
        raise UserError(f"{PERSONALISE}: the setting {OFFER!r} is missing or not JSON") from None
    check_document(OFFER, values)
    names = [part["site"] for part in values["sets"]]
    sizes: dict[str, list[int]] = {name: [] for name in names}
    for part in values["sets"]:
        sizes[part["site"]].append(part["size"])
    count = 0 if request.shared is None else len(request.shared.images)
    if sum(map(sum, sizes.values())) != count or sorted(names, key=list(sizes).index) != names:
        raise UserError(f"{PERSONALISE}: the offer's sets do not fit its {count} images")
    return sizes


def request_content(
    study: str, weights: Mapping[str, Tensor] | None = None, shared: SoftSet | None = None, **settings: Setting
) -> RecordDict:
    """Return a request's content; underscores in ``settings`` become hyphens, as Flower's own keys have them."""
    config = {name.replace("_", "-"): value for name, value in settings.items()}
    content = RecordDict({CONFIG: ConfigRecord({"study": study, **config})})
    if weights is not None:
        content[ARRAYS] = weights_record(weights)
    if shared is not None:
        content[SHARED] = _soft_record(*shared)
    return content


def read_request(message: Message) -> Request:
    """Read a request; raise :class:`UserError` when it holds no study."""
    study = study_of(message)
    arrays = _record(message.content, ARRAYS, ArrayRecord)
    weights = None if arrays is None else read_weights(arrays)
    return Request(
        study, settings_of(message), weights, _soft_set(message.content) if SHARED in message.content else None
    )


def study_of(message: Message) -> str:
    """Return the study's JSON of a request; raise :class:`UserError` when it holds none."""
    study = (_record(message.content, CONFIG, ConfigRecord) or ConfigRecord()).get("study")
    if not isinstance(study, str):
        raise UserError(f"{message.metadata.message_type}: the request holds no study; is the server fedkr's?")
    return study


def settings_of(message: Message) -> dict[str, Any]:
    """Return what a request asks beside its study and what it sends."""
    config = dict(_record(message.content, CONFIG, ConfigRecord) or {})
    return {name: value for name, value in config.items() if name != "study"}


def _record(content: RecordDict, name: str, kind: type[R]) -> R | None:
    """Return a record if it is there and of its kind.

    RecordDict's own views (``array_records`` and so on) tie it into a reference cycle: a release would stay in memory
    until the collector happens to run.
    """
    record = content.get(name)
    return record if isinstance(record, kind) else None


def weights_record(weights: Mapping[str, Tensor]) -> ArrayRecord:
    """Return a model's state as an ArrayRecord."""
    return ArrayRecord({name: Array(tensor.detach().cpu().numpy()) for name, tensor in weights.items()})


def read_weights(record: ArrayRecord) -> dict[str, Tensor]:
    """Return the tensors of an ArrayRecord, by name; raise :class:`UserError` for an array that cannot be read."""
    return {
        name: torch.from_numpy(read_array(array, f"model weights: {brief(name)}")) for name, array in record.items()
    }


def read_array(array: Array, where: str) -> NDArray[Any]:
    """Return an array of numbers; raise :class:`UserError`, which begins with ``where``, for anything else.

    NumPy's own reader makes room for all that a header promises before it looks for it, and unpacks archives.
    """
    stream = BytesIO(array.data)
    try:
        if array.stype != STYPE or np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("of another format")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype.kind not in "biufc" or not dtype.isnative:
            raise ValueError(f"of {dtype}")
        if min(shape, default=0) < 0 or dtype.itemsize * math.prod(shape) != len(array.data) - stream.tell():
            raise ValueError("its header promises more or less than it holds")
        return np.ndarray(shape, dtype, array.data, stream.tell(), order="F" if fortran_order else "C").copy()
    except Exception as error:  # the parser of a damaged header raises whatever its bytes lead it to
        raise UserError(f"{where} is no array of numbers ({brief(error)})") from None


def read_round(content: RecordDict, sent: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Figures]:
    """Return the weights, which have the names and shapes of those ``sent``, and figures of an answer to ``train``.

    Weights that do not fit or are not finite, and a figure that is missing or out of range, are a :class:`UserError`.
    """
    weights = read_weights(_record(content, ARRAYS, ArrayRecord) or ArrayRecord())
    check_weights(weights, sent)
    metrics = {"diverged": 0, "seconds": 0.0} | read_metrics(content)
    for name, (least, most) in ROUND_FIGURES.items():
        _check_figure(name, metrics.get(name), least, most)
    if metrics["val-correct"] > metrics["val-count"]:
        raise UserError(f"the metric 'val-correct' is above 'val-count': {metrics['val-correct']!r}")
    return weights, {name: metrics[name] for name in ROUND_FIGURES}


def round_content(weights: Mapping[str, Tensor], figures: Mapping[str, Metric | None]) -> RecordDict:
    """Return the content of the answer to ``train``."""
    content = metrics_reply(figures)
    content[ARRAYS] = weights_record(weights)
    return content


def document_reply(name: str, values: Mapping[str, Any], seconds: float) -> RecordDict:
    """Return the content of an answer that is a document: of an audit or a comparison."""
    return RecordDict({METRICS: MetricRecord({"seconds": seconds}), name: document(values)})


def release_reply(release: Release, seconds: float) -> RecordDict:
    """Return the content of the answer to ``train.release``."""
    arrays = _soft_record(release.images, release.soft_labels)
    metrics = MetricRecord({"count": len(release), "seconds": seconds})
    return RecordDict({SHARED: arrays, METRICS: metrics, MANIFEST: document(release.manifest)})


def read_release(content: RecordDict) -> Release:
    """Read a release; raise :class:`UserError` when a part is missing. Values are checked by ``check_release``."""
    return Release(*_soft_set(content), read_document(content, MANIFEST))


def _soft_record(images: NDArray[np.uint8], soft_labels: NDArray[np.float16]) -> ArrayRecord:
    return ArrayRecord({"images": Array(images), "soft-labels": Array(soft_labels)})


def _soft_set(content: RecordDict) -> SoftSet:
    arrays = _record(content, SHARED, ArrayRecord) or ArrayRecord()
    found = []
    for name in ("images", "soft-labels"):
        if name not in arrays:
            raise UserError(f"the set of images lacks {name!r}")
        found.append(read_array(arrays[name], f"the set of images: {name}"))
    return SoftSet(*found)


def document(values: Mapping[str, Any]) -> ConfigRecord:
    """Return a JSON document as a record."""
    return ConfigRecord({"json": json.dumps(values)})


def read_document(content: RecordDict, name: str) -> dict[str, Any]:
    """Read a JSON document (an object) from the record ``name``."""
    text = (_record(content, name, ConfigRecord) or ConfigRecord()).get("json")
    if isinstance(text, str) and len(text) > LARGEST_DOCUMENTS:
        raise UserError(f"the reply's {name!r} is {len(text)} characters long; {LARGEST_DOCUMENTS} at most")
    try:
        values = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        values = None
    if values is None:
        raise UserError(f"the reply's {name!r} is missing or not JSON")
    if not isinstance(values, dict):
        raise UserError(f"the reply's {name!r} is not a JSON object")
    return values


def metrics_reply(values: Mapping[str, Metric | None]) -> RecordDict:
    """Return the content of an answer that is metrics only; None is left out, since the record has no such value."""
    return RecordDict({METRICS: MetricRecord({name: value for name, value in values.items() if value is not None})})


def read_metrics(content: RecordDict) -> dict[str, Any]:
    """Return the metrics of a reply; raise :class:`UserError` for more than any has."""
    metrics = dict(_record(content, METRICS, MetricRecord) or {})
    if len(metrics) > MOST_METRICS:
        raise UserError(f"{len(metrics)} metrics, more than {MOST_METRICS}")
    return metrics


def utility_metrics(utility: Utility, prefix: str) -> dict[str, Metric | None]:
    """Return a utility as flat metrics, ``"<prefix>/<figure>"``."""
    return {f"{prefix}/{name}": getattr(utility, name) for name in UTILITY_FIELDS}


def read_utility(metrics: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the figures that :func:`utility_metrics` wrote, those that a test set cannot give None.

    All are None where there is none: a site answers for no model on fewer images than its policy asks for. A figure
    that every model has but is missing, or one out of its range (other code's), is a :class:`UserError`.
    """
    values = {name: metrics.get(f"{prefix}/{name}") for name in UTILITY_FIELDS}
    if not any(name.startswith(f"{prefix}/") for name in metrics):
        return values
    ranges = {"accuracy": (0, 1), "balanced_accuracy": (0, 1), "loss": (0, math.inf), "count": (1, MOST_COUNTED)}
    if values["auc"] is not None:
        ranges["auc"] = (0, 1)
    for name, (least, most) in ranges.items():
        _check_figure(f"{prefix}/{name}", values[name], least, most)
    if values["confusion"] is not None and not is_confusion(values["confusion"]):
        raise UserError(f"the metric '{prefix}/confusion' is no square matrix of counts")
    return values


def _check_figure(name: str, value: Any, least: float, most: float = math.inf) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not least <= value <= most or value == math.inf:
        raise UserError(f"the metric {name!r} is missing or no number from {least} to {most}: {brief(repr(value))}")


def tuning_metrics(tuning: Mapping[str, Any]) -> dict[str, Metric | None]:
    """Return how a model was tuned as flat metrics."""
    return {f"tuned/{name}": float(tuning[name]) for name in TUNED}


def read_tuning(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return what :func:`tuning_metrics` wrote, empty where nothing was; :class:`UserError` for what it cannot be."""
    values = {name: metrics.get(f"tuned/{name}") for name in TUNED}
    if all(value is None for value in values.values()):
        return {}
    for name, (least, most) in TUNED.items():
        _check_figure(f"tuned/{name}", values[name], least, most)
    return {name: float(value) for name, value in values.items() if value is not None}


def read_seconds(metrics: Mapping[str, Any]) -> float:
    """Return the seconds that a site spent; raise :class:`UserError` where it does not say."""
    seconds = metrics.get("seconds")
    _check_figure("seconds", seconds, 0, MOST_SECONDS)
    return float(seconds)  # type: ignore[arg-type]  # it was just checked


def weights_digest(weights: Mapping[str, Tensor] | None) -> str:
    """Return 64 hex digits that name a model's weights, or an empty string for no model."""
    if weights is None:
        return ""
    return fingerprint({name: array_digest([tensor.detach().cpu().numpy()]) for name, tensor in weights.items()})
