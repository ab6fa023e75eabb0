"""The guard's second line: a reply is compared with what the site itself knows, whatever its handler made of it.

The first line (:mod:`sites.policy`) knows shapes and kinds. This one knows the site: a text that leaves is its name or
one of its classes, a setting is one that its generator has, a rate lies on the policy's grid.
"""

from __future__ import annotations

import math
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from fedkr import wire
from fedkr.recycle.drawer import BALANCES, SET_KNOBS
from sites.coarse import SECONDS_STEP
from sites.handlers import site_card
from sites.policy import EXACT_OF_MANIFEST, FIGURES_OF_MANIFEST, PolicyError
from sites.workspace import Site

RATES = ("accuracy", "balanced_accuracy", "auc")


def check_promises(site: Site, message_type: str, content: RecordDict) -> None:
    """Raise :class:`PolicyError` unless a reply is whole, and says only what this site can say."""
    missing = wire.REPLIES[message_type] - set(content)
    if missing:
        raise PolicyError(f"{message_type}: the reply lacks the record {sorted(missing)[0]!r}")
    size = sum(record.count_bytes() for record in content.values() if isinstance(record, ConfigRecord))
    if size > wire.LARGEST_DOCUMENTS:
        raise PolicyError(f"{message_type}: {size} bytes of documents, more than {wire.LARGEST_DOCUMENTS}")
    if wire.CARD in content:
        _check_card(site, wire.read_document(content, wire.CARD))
    if wire.MANIFEST in content:
        _check_manifest(site, wire.read_document(content, wire.MANIFEST))
    if site.policy.coarse:
        for name, value in wire.read_metrics(content).items():
            if name.startswith("tuned/"):
                raise PolicyError(f"{message_type}: {name!r} may leave only where figures leave as they are")
            _check_on_grid(name, value, site.policy.rate_step)


def _check_card(site: Site, card: dict[str, Any]) -> None:
    known = site_card(site)
    if site.policy.privacy.required and "data" in card:
        raise PolicyError("card: data tells whether images changed, which this site's policy.privacy does not allow")
    for name in card.keys() | known.keys():
        # The digest of the images is 64 hex digits, keyed by the site's secret.
        if name != "data" and card.get(name) != known.get(name):
            raise PolicyError(f"card: {name}={card.get(name)!r} is not this site's")


def _check_manifest(site: Site, manifest: dict[str, Any]) -> None:
    promised = site.pipeline.guarantee()
    if manifest.get("privacy") != promised:
        raise PolicyError(f"manifest: privacy={manifest.get('privacy')!r} is not what this release has, {promised!r}")
    if promised and (others := manifest.keys() & {*FIGURES_OF_MANIFEST, "by_val", "knobs"}):
        raise PolicyError(f"manifest: {sorted(others)[0]!r} is nothing that a release with a guarantee has")
    if manifest.get("site", site.name) != site.name:
        raise PolicyError(f"manifest: site={manifest['site']!r} is not this site's name")
    unknown = set(manifest.get("left_out", ())) - set(site.data.train.classes)
    if unknown:
        raise PolicyError(f"manifest: left_out={sorted(unknown)[0]!r} is none of this site's classes")
    figures = [name for name in FIGURES_OF_MANIFEST if name in manifest]
    if figures and "metrics" not in site.policy.allow:
        raise PolicyError(f"manifest: {figures[0]!r} are figures, which this site's policy does not allow to leave")
    if site.policy.coarse and (exact := [name for name in EXACT_OF_MANIFEST if name in manifest]):
        raise PolicyError(f"manifest: {exact[0]} may leave only where figures leave as they are")
    scores = manifest.get("scores", {})
    rows = [row for rows in scores.values() for row in rows]
    known = _known_knobs(site)
    for knobs in [manifest.get("knobs", {}), *(row["knobs"] for row in rows if row.get("knobs"))]:
        for name, value in knobs.items():
            if value not in known.get(name, ()):
                raise PolicyError(f"manifest: {name}={value!r} is no setting of this study's generator")
    if site.policy.coarse:
        if any("leakage" in row for row in rows):
            raise PolicyError("manifest: leakage of candidates may leave only where figures leave as they are")
        accuracy = (manifest.get("teacher") or {}).get("val_accuracy") or 0.0
        for rate in [accuracy, *(row.get("score") or 0.0 for row in rows)]:
            _check_on_grid("val/accuracy", rate, site.policy.rate_step)


def _known_knobs(site: Site) -> dict[str, set[float]]:
    """Return the values that each setting of a release can have."""
    generator, recycle = site.pipeline.build_generator(), site.study.recycle
    found: dict[str, set[float]] = {name: set() for name in SET_KNOBS}
    for knobs in (generator.default_knobs(), *generator.knob_candidates()):
        for name, value in knobs.items():
            found.setdefault(name, set()).add(value)
    found["balance"] |= {BALANCES[name] for name in recycle.tune_balances}
    found["filter"] |= set(recycle.tune_filters)
    return found


def _check_on_grid(name: str, value: Any, rate_step: float) -> None:
    step = SECONDS_STEP if name == "seconds" else rate_step
    if name.split("/")[-1] not in ("seconds", *RATES) or value == 1:
        return
    if not math.isclose(value / step, round(value / step), abs_tol=1e-6):
        raise PolicyError(f"the metric {name!r} is {value!r}, no multiple of {step}")
