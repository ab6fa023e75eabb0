"""The site's policy: what may leave, in a file at the site that no message can change."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedkr import wire
from fedkr.audit.document import COUNT_STEP
from fedkr.config import Count, Natural, Study
from fedkr.config.schema import Delta, Epsilon
from fedkr.data.images import Shape
from fedkr.documents import check_document, is_confusion, is_number
from fedkr.errors import UserError
from fedkr.recycle.terms import EXACT
from fedkr.release import Release, check_release

KINDS = ("metrics", "release", "weights")
NEEDS = {
    wire.DESCRIBE: None,
    wire.LOCAL: "metrics",
    wire.PERSONALISE: "metrics",
    wire.FINETUNE: "metrics",
    wire.RELEASE: "release",
    wire.TRAIN: "weights",
    wire.EVALUATE: "metrics",
    wire.REFERENCES: "metrics",
    wire.AUDIT: "metrics",
    wire.COMPARE: "metrics",
}
LARGEST_STEP = 0.25
Check = Callable[[dict[str, Any]], None]


def _pattern(*names: str) -> re.Pattern[str]:
    return re.compile("|".join(("seconds", *names)))


def _utility(splits: str) -> str:
    return f"({splits})/({'|'.join(wire.UTILITY_FIELDS)})"


# Which metrics a reply may hold, by their whole name.
METRICS = {
    **dict.fromkeys((wire.PERSONALISE, wire.FINETUNE), _pattern(_utility("test|global"))),
    wire.LOCAL: _pattern(_utility("test|global"), *(f"tuned/{name}" for name in wire.TUNED)),
    wire.RELEASE: _pattern("count"),
    wire.TRAIN: _pattern("num-examples", "val-correct", "val-count", "val-loss", "diverged"),
    wire.EVALUATE: _pattern(_utility("test|val")),
    wire.REFERENCES: _pattern("direct", "pipeline", "others"),
    wire.AUDIT: _pattern(),
    wire.COMPARE: _pattern(),
}
# The global set too: a hospital whose file has no test split takes it from its own images.
ROUNDED_COUNT = re.compile(r"(test|val|global)/count|num-examples|val-count")
EXACT_FIGURE = re.compile(r"(test|val|global)/confusion")
# Of a release's manifest what are figures of the site's images; and of these, those of few images or of single classes.
FIGURES_OF_MANIFEST = ("scores", "recalls", "quality", "teacher")
EXACT_OF_MANIFEST = ("recalls", "quality")


class PolicyError(UserError):
    """A reply, or a request, that the site's policy does not allow."""


# What a site that requires a guarantee answers. Of a model's figures there are none: no noise is in those.
GUARANTEED = frozenset({wire.DESCRIBE, wire.RELEASE, wire.EVALUATE})


@dataclass
class PrivacyBudget:
    """What releases with a guarantee may cost this site's patients (without groups: images), of all studies together.

    Two training splits are neighbours that differ in one patient, each split as it is. Which images are in it is drawn
    by class and number: one patient more at the site can move others into or out of it, which no guarantee is of.

    Attributes:
        epsilon: the most that they may come to, at ``delta``.
        delta: well below one in the number of patients.
        required: whether releases without a guarantee, and figures of models on this site's images, may leave.
    """

    epsilon: Epsilon = 10.0
    delta: Delta = 1e-5
    required: bool = False


@dataclass
class Policy:
    """What may leave a site.

    Attributes:
        allow: kinds of record that may leave: ``metrics``, ``release``, ``weights``.
        max_images: cap on the images that leave, of all releases for all studies together.
        min_class_count: a class of fewer patients (without groups: images) in train teaches no model, and no release
            holds it, nor its share of a label. For releases with a guarantee noisy counts decide, a margin above this
            one: such a class is measured, and released where noise lifts its count over the margin, rarely (two
            standard deviations: up to 2.3 % of classes without images, more the nearer a class is to the least).
        exact_counts: whether exact class counts may leave.
        recipients: ``server`` or ``federation`` (other sites as well).
        near_copies: what becomes of drawn images that are near-copies of any of the site's own: ``redraw`` draws them
            again until none is left, and stops the release after 64 redraws or 4 times its images; ``refuse`` stops it
            after 4 redraws; ``allow`` looks for none. Releases with a guarantee are not looked through: that would be
            another use of the images, and what such a release can hold of one is bounded by ``privacy``.
        label_digits: decimals of soft labels that leave, 0 for the first choice alone; from 5 on, all that there are.
        label_classes: how many classes of a soft label keep mass; 0 for all.
        min_evaluated: a figure of a model on fewer images leaves for nobody.
        rate_step: rates leave as multiples of this; 0 lets them leave as they are.
        max_models: how many different models are evaluated or audited for a study; each split that a model is asked
            about on counts, and so does the same question after the site's images changed.
        privacy: what differentially private releases may cost, and whether there may be others.
    """

    allow: list[str] = field(default_factory=lambda: ["metrics", "release"])
    max_images: Count = 20000
    min_class_count: Count = 5
    exact_counts: bool = False
    recipients: str = "server"
    near_copies: str = "redraw"
    label_digits: Natural = 3
    label_classes: Natural = 0
    min_evaluated: Count = 50
    rate_step: float = 0.02
    max_models: Count = 100
    privacy: PrivacyBudget = field(default_factory=PrivacyBudget)

    def check(self, where: str) -> None:
        """Raise :class:`UserError` for a value that is no policy."""
        for kind in self.allow:
            if kind not in KINDS:
                raise UserError(f"{where}: policy.allow={kind!r}: unknown; one of: {', '.join(KINDS)}")
        if self.recipients not in ("server", "federation"):
            raise UserError(f"{where}: policy.recipients={self.recipients!r}: one of: server, federation")
        if self.max_images < 1 or self.min_class_count < 1:
            raise UserError(f"{where}: policy.max_images and policy.min_class_count must be at least 1")
        if self.near_copies not in ("redraw", "refuse", "allow"):
            raise UserError(f"{where}: policy.near_copies={self.near_copies!r}: one of: redraw, refuse, allow")
        if self.label_digits < 0 or self.label_classes < 0:
            raise UserError(f"{where}: policy.label_digits and policy.label_classes must not be negative")
        if self.min_evaluated < 1 or self.max_models < 1:
            raise UserError(f"{where}: policy.min_evaluated and policy.max_models must be at least 1")
        if self.privacy.required and (self.exact_counts or "weights" in self.allow):
            raise UserError(
                f"{where}: policy.privacy.required: exact_counts and weights have no guarantee; set "
                "exact_counts: false and take weights out of allow"
            )
        if not 0 <= self.rate_step <= LARGEST_STEP:
            raise UserError(f"{where}: policy.rate_step={self.rate_step}: from 0 to {LARGEST_STEP}, as in 0.02")
        if not self.rate_step and not self.exact_counts:
            raise UserError(f"{where}: policy.rate_step=0 shows exact counts; it takes policy.exact_counts: true")

    @property
    def coarse(self) -> bool:
        """Whether figures leave rounded."""
        return self.rate_step > 0


# The sites of a simulation have one owner, who may pass everything on.
SIMULATED = Policy(
    allow=list(KINDS),
    max_images=10_000_000,
    min_class_count=1,
    exact_counts=True,
    recipients="federation",
    near_copies="allow",
    label_digits=EXACT,
    min_evaluated=1,
    rate_step=0.0,
    max_models=10_000_000,
)


def check_request(policy: Policy, message_type: str, study: Study) -> None:
    """Refuse a request whose answer could never leave, before any work is done for it."""
    if message_type not in NEEDS:
        raise PolicyError(f"message type {message_type!r} is not among those that this site answers")
    if policy.privacy.required:
        _check_guaranteed(message_type, study)
    needed = NEEDS[message_type]
    if needed is not None and needed not in policy.allow:
        raise PolicyError(f"{message_type}: this site's policy does not allow {needed!r} to leave")


def _check_guaranteed(message_type: str, study: Study) -> None:
    """Refuse what has no guarantee; which message it is and what the study says is all that decides."""
    if not study.privacy.guaranteed:
        raise PolicyError("privacy.mode=off: this site's policy.privacy requires a guarantee; set privacy=dp")
    if message_type not in GUARANTEED:
        raise PolicyError(f"{message_type}: its answer has no guarantee, which this site's policy.privacy requires")


def weight_shapes(request: RecordDict) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each array of the model that a request sends; nothing else may come back."""
    # Not by RecordDict's views, which would keep the request in memory until the collector runs.
    record = request.get(wire.ARRAYS)
    return {name: tuple(array.shape) for name, array in record.items()} if isinstance(record, ArrayRecord) else {}


def check_reply(
    policy: Policy,
    message_type: str,
    content: RecordDict,
    weights: Mapping[str, tuple[int, ...]] | None = None,
    answers: Check | None = None,
) -> None:
    """Raise :class:`PolicyError` unless everything in a reply is something that the policy names.

    Args:
        policy: the site's.
        message_type: what was asked.
        content: the reply.
        weights: of the model that the request sent (:func:`weight_shapes`); only arrays like these may leave.
        answers: raises unless the document of an audit or a choice answers what was asked; without it none may leave.
    """
    unexpected = set(content) - wire.REPLIES.get(message_type, frozenset())
    if unexpected:
        raise PolicyError(f"{message_type}: record {sorted(unexpected)[0]!r} may not leave")
    for name, record in content.items():
        if name == wire.SHARED and isinstance(record, ArrayRecord):
            _require(policy, "release", message_type)
            _check_shared(policy, content, record)
        elif name == wire.ARRAYS and isinstance(record, ArrayRecord):
            _require(policy, "weights", message_type)
            _check_weights(record, weights or {})
        elif name == wire.METRICS and isinstance(record, MetricRecord):
            _check_metrics(policy, message_type, dict(record))
        elif name in wire.DOCUMENTS and isinstance(record, ConfigRecord):
            _check_document(policy, content, name, answers)
        else:
            raise PolicyError(f"{message_type}: record {name!r} is of the wrong kind")


def _require(policy: Policy, kind: str, message_type: str) -> None:
    if kind not in policy.allow:
        raise PolicyError(f"{message_type}: this site's policy does not allow {kind!r} to leave")


def _check_shared(policy: Policy, content: RecordDict, record: ArrayRecord) -> None:
    """Ask what the server asks of a release, and cap its images."""
    if set(record) != {"images", "soft-labels"}:
        raise PolicyError("a release holds images and soft-labels, nothing else")
    images, labels = (_decoded(f"release: {name}", record[name]) for name in ("images", "soft-labels"))
    if images.ndim != 4 or images.shape[3] not in (1, 3) or labels.ndim != 2:
        raise PolicyError("release: images must be [N, H, W, 1 or 3] and soft labels [N, K]")
    try:
        manifest = wire.read_document(content, wire.MANIFEST)
        check_release(Release(images, labels, manifest), Shape.of_soft(images, labels), policy.max_images)
    except UserError as error:
        raise PolicyError(str(error)) from None
    if manifest.get("count", len(images)) != len(images):
        raise PolicyError(f"release: {len(images)} images, the manifest counts {manifest['count']!r}")


def _check_weights(record: ArrayRecord, expected: Mapping[str, tuple[int, ...]]) -> None:
    for name in sorted(record.keys() ^ expected.keys()):
        raise PolicyError(f"weights: {name!r} is not in both the model that was sent and the one that would leave")
    for name, array in record.items():
        if _decoded(f"weights: {name}", array).shape != tuple(expected[name]):
            raise PolicyError(f"weights: {name!r} has shape {list(array.shape)}, the model sent {list(expected[name])}")


def _decoded(where: str, array: Array) -> NDArray[Any]:
    """Return what an array really holds; its bytes must be its declared numbers and not one byte more."""
    try:
        values = array.numpy()
    except (TypeError, ValueError, EOFError) as error:
        raise PolicyError(f"{where} is no plain array ({type(error).__name__})") from None
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
    declared = (array.dtype, tuple(array.shape))
    if values.dtype.kind not in "fiu" or declared != (values.dtype.name, values.shape):
        raise PolicyError(f"{where} holds {values.dtype} {list(values.shape)}, not what it declares or not numbers")
    if not array.data.startswith(header.getvalue()) or len(array.data) != header.tell() + values.nbytes:
        raise PolicyError(f"{where} has bytes beside its numbers")
    return values


def _check_metrics(policy: Policy, message_type: str, metrics: dict[str, Any]) -> None:
    if len(metrics) > wire.MOST_METRICS:
        raise PolicyError(f"{message_type}: {len(metrics)} metrics, more than {wire.MOST_METRICS}")
    for name, value in metrics.items():
        if message_type not in METRICS or not METRICS[message_type].fullmatch(name):
            raise PolicyError(f"{message_type}: metric {name!r} may not leave")
        if not (is_confusion if name.endswith("/confusion") else is_number)(value):
            raise PolicyError(f"{message_type}: metric {name!r} holds something else than such a figure")
        if name.endswith("/confusion") and sum(value) != metrics.get(name.replace("confusion", "count")):
            raise PolicyError(f"{message_type}: metric {name!r} does not add up to the count of images")
    if not policy.exact_counts:
        _check_counts(message_type, metrics)


def _check_counts(message_type: str, metrics: dict[str, Any]) -> None:
    for name, value in metrics.items():
        if EXACT_FIGURE.fullmatch(name) or (ROUNDED_COUNT.fullmatch(name) and value % COUNT_STEP):
            raise PolicyError(f"{message_type}: {name!r} shows exact counts (policy.exact_counts is false)")


def _check_document(policy: Policy, content: RecordDict, name: str, answers: Check | None) -> None:
    values = wire.read_document(content, name)
    # Written anew, nothing is left of doubled names and white space, which could carry what no check sees.
    if dict(content[name]) != dict(wire.document(values)):
        raise PolicyError(f"record {name!r} holds more than one JSON document")
    try:
        if name in (wire.MANIFEST, wire.CARD):
            check_document(name, values)
        elif answers is None:
            raise UserError(f"{name}: not asked for")
        else:
            answers(values)
    except UserError as error:
        raise PolicyError(str(error)) from None
    if name == wire.CARD and "counts" in values and not policy.exact_counts:
        raise PolicyError("card: exact class counts may not leave (policy.exact_counts is false)")
    exact = [field for field in EXACT_OF_MANIFEST if field in values and name == wire.MANIFEST]
    if exact and not policy.exact_counts:
        raise PolicyError(f"manifest: {exact[0]} may show exact class counts (policy.exact_counts is false)")
    if name == wire.CHOICE and policy.coarse and set(values) != {"how"}:
        raise PolicyError("choice: what was chosen leaves only where figures leave as they are (policy.rate_step is 0)")
