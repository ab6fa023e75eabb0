"""What a message asks beside its study: no more than the study says, since that is what a site's engineer approved.

A setting that is missing is no matter of this: its handler says so, or has a value of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fedkr import wire
from fedkr.config import AUDIT_TARGETS, Study
from fedkr.config.reading import brief
from sites.policy import PolicyError

LONGEST_NAME = 100
Settings = Mapping[str, Any]


def check_settings(message_type: str, settings: Settings, study: Study) -> None:
    """Raise :class:`PolicyError`, which names the setting, for one that the study does not cover."""
    CHECKS.get(message_type, lambda settings, study: None)(settings, study)


def _check_release(settings: Settings, study: Study) -> None:
    _whole(settings, "round", study.recycle.exchanges)


def _check_round(settings: Settings, study: Study) -> None:
    searches = [vars(study.strategy), *study.strategy.options.values()]
    _whole(settings, "server-round", max(_listed(searches, "rounds") + _listed(searches, "search_rounds")))
    _whole(settings, "local-epochs", max(_listed(searches, "local_epochs")))
    # The rate falls from round to round.
    _real(settings, "lr", max(_listed(searches, "lrs")))
    _real(settings, "proximal-mu", max([0.0, *_listed(searches, "proximal_mu")]))
    _name(settings, "candidate")


def _listed(searches: list[Mapping[str, Any]], option: str) -> list[float]:
    """Return the numbers that the search of any contestant has for an option."""
    values = [search.get(option, []) for search in searches]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item for item in flat if isinstance(item, (int, float))]


def _check_audit(settings: Settings, study: Study) -> None:
    _audited(settings, study)
    if "target" not in settings:
        return
    _name(settings, "target")
    asked = {str(settings.get("target")), str(settings.get("kind", settings.get("target")))}
    # A shared model may be called by its contestant, of which a message says nothing.
    if not asked & {*study.audit.targets} and not {*study.strategy.compare} & {*study.audit.targets}:
        raise PolicyError(f"target={brief(settings.get('target'))}: not among the study's audit.targets")


def _check_references(settings: Settings, study: Study) -> None:
    _audited(settings, study)
    kinds = settings.get("kinds", [])
    if not isinstance(kinds, list) or not {*kinds} <= {*AUDIT_TARGETS}:
        raise PolicyError(f"kinds={brief(kinds)}: expected a list of: {', '.join(AUDIT_TARGETS)}")


def _check_personal(kind: str, settings: Settings, study: Study) -> None:
    """Ask that the study compares a contestant of this kind, or one of a module that the site lets studies name."""
    name = settings.get("contestant")
    if not isinstance(name, str) or name not in study.strategy.compare:
        raise PolicyError(f"contestant={brief(name)}: not among the study's strategy.compare")
    own = str(study.strategy.options.get(name, {}).get("kind", name))
    if "." not in own and own != kind:
        raise PolicyError(f"contestant={brief(name)}: the study says it is {own!r}, the message is of {kind!r}")


def _audited(settings: Settings, study: Study) -> None:
    if not study.audit.enabled:
        raise PolicyError("the study says audit.enabled=false, the message asks for a part of an audit")


def _whole(settings: Settings, name: str, most: float) -> None:
    value = settings.get(name, 1)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise PolicyError(f"{name}={brief(value)}: the study says 1 to {most}")


def _real(settings: Settings, name: str, most: float) -> None:
    value = settings.get(name, 0.0)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # Of a whole number that float64 does not hold, only comparisons can be made.
    if not number or not 0 <= value <= most:
        raise PolicyError(f"{name}={brief(value)}: the study says 0 to {most}")


def _name(settings: Settings, name: str) -> None:
    value = settings.get(name, "")
    if not isinstance(value, str) or len(value) > LONGEST_NAME or not value.isprintable():
        raise PolicyError(f"{name}={brief(value)}: expected a name of at most {LONGEST_NAME} characters")


CHECKS: dict[str, Callable[[Settings, Study], None]] = {
    wire.RELEASE: _check_release,
    wire.PERSONALISE: partial(_check_personal, "fedkr_dda"),
    wire.FINETUNE: partial(_check_personal, "fedkr_ft"),
    wire.TRAIN: _check_round,
    wire.AUDIT: _check_audit,
    wire.REFERENCES: _check_references,
    wire.COMPARE: _audited,
}
