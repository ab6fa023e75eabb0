"""The site's policy: what may leave, in a file at the site that no message can change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkr import wire
from fedkr.errors import UserError
from fedkr.release import MANIFEST_FIELDS

KINDS = ("metrics", "release", "weights")
NEEDS = {
    wire.DESCRIBE: None,
    wire.LOCAL: "metrics",
    wire.RELEASE: "release",
    wire.TRAIN: "weights",
    wire.EVALUATE: "metrics",
    wire.AUDIT: "metrics",
}
# A ROC curve is binned to at most this many points; a list as long as a split could hold a score for each image.
LONGEST_LIST = 128
METRIC_PREFIXES = {
    wire.LOCAL: ("test/", "global/", "seconds"),
    wire.RELEASE: ("count", "seconds"),
    wire.TRAIN: ("num-examples", "val-correct", "val-count", "val-loss", "seconds"),
    wire.EVALUATE: ("test/", "val/", "seconds"),
    wire.AUDIT: ("loss/", "modified-entropy/", "confidence/", "logit-margin/", "seconds"),
}


class PolicyError(UserError):
    """A reply, or a request, that the site's policy does not allow."""


@dataclass
class Policy:
    """What may leave a site.

    Attributes:
        allow: kinds of record that may leave: ``metrics``, ``release``, ``weights``.
        max_images: cap on the images of one release.
        min_class_count: a class with fewer training images is neither generated nor released.
        exact_counts: whether exact class counts may leave.
        recipients: ``server`` or ``federation`` (other sites as well).
    """

    allow: list[str] = field(default_factory=lambda: ["metrics", "release"])
    max_images: int = 20000
    min_class_count: int = 5
    exact_counts: bool = False
    recipients: str = "server"

    def check(self, where: str) -> None:
        """Raise :class:`UserError` for a value that is no policy."""
        for kind in self.allow:
            if kind not in KINDS:
                raise UserError(f"{where}: policy.allow={kind!r}: unknown; one of: {', '.join(KINDS)}")
        if self.recipients not in ("server", "federation"):
            raise UserError(f"{where}: policy.recipients={self.recipients!r}: one of: server, federation")
        if self.max_images < 1 or self.min_class_count < 1:
            raise UserError(f"{where}: policy.max_images and policy.min_class_count must be at least 1")


SIMULATED = Policy(allow=list(KINDS), max_images=10_000_000, min_class_count=1, exact_counts=True)


def check_request(policy: Policy, message_type: str) -> None:
    """Refuse a request whose answer could never leave, before any work is done for it."""
    if message_type not in NEEDS:
        raise PolicyError(f"message type {message_type!r} is not among those that this site answers")
    needed = NEEDS[message_type]
    if needed is not None and needed not in policy.allow:
        raise PolicyError(f"{message_type}: this site's policy does not allow {needed!r} to leave")


def check_reply(policy: Policy, message_type: str, content: RecordDict) -> None:
    """Raise :class:`PolicyError` unless everything in a reply is something that the policy names."""
    unexpected = set(content) - wire.REPLIES[message_type]
    if unexpected:
        raise PolicyError(f"{message_type}: record {sorted(unexpected)[0]!r} may not leave")
    for name, record in content.items():
        if name == wire.SHARED and isinstance(record, ArrayRecord):
            _check_shared(policy, record)
        elif name == wire.ARRAYS and isinstance(record, ArrayRecord):
            _require(policy, "weights", message_type)
        elif name == wire.METRICS and isinstance(record, MetricRecord):
            _check_metrics(message_type, record)
        elif name in (wire.MANIFEST, wire.CARD) and isinstance(record, ConfigRecord):
            _check_document(policy, content, name, record)
        else:
            raise PolicyError(f"{message_type}: record {name!r} is of the wrong kind")


def _require(policy: Policy, kind: str, message_type: str) -> None:
    if kind not in policy.allow:
        raise PolicyError(f"{message_type}: this site's policy does not allow {kind!r} to leave")


def _check_shared(policy: Policy, record: ArrayRecord) -> None:
    _require(policy, "release", wire.RELEASE)
    if set(record) != {"images", "soft-labels"}:
        raise PolicyError("a release holds images and soft-labels, nothing else")
    kinds = {"images": (np.uint8, 4), "soft-labels": (np.float16, 2)}
    for name, (dtype, dimensions) in kinds.items():
        array = record[name]
        if array.dtype != np.dtype(dtype).name or len(array.shape) != dimensions:
            raise PolicyError(f"release: {name} must be {np.dtype(dtype).name} with {dimensions} axes")
        if array.shape[0] > policy.max_images:
            raise PolicyError(f"release: {array.shape[0]} images, more than policy.max_images={policy.max_images}")


def _check_metrics(message_type: str, record: MetricRecord) -> None:
    for name, value in record.items():
        if not name.startswith(METRIC_PREFIXES.get(message_type, ())):
            raise PolicyError(f"{message_type}: metric {name!r} may not leave")
        if isinstance(value, list) and len(value) > LONGEST_LIST and not name.endswith("/confusion"):
            raise PolicyError(f"{message_type}: metric {name!r} is a list of {len(value)}, more than {LONGEST_LIST}")


def _check_document(policy: Policy, content: RecordDict, name: str, record: ConfigRecord) -> None:
    if set(record) != {"json"}:
        raise PolicyError(f"record {name!r} holds more than one JSON document")
    values: dict[str, Any] = wire.read_document(content, name)
    known = MANIFEST_FIELDS if name == wire.MANIFEST else wire.CARD_FIELDS
    unknown = set(values) - known
    if unknown:
        raise PolicyError(f"{name}: field {sorted(unknown)[0]!r} may not leave")
    if name == wire.CARD and "counts" in values and not policy.exact_counts:
        raise PolicyError("card: exact class counts may not leave (policy.exact_counts is false)")
