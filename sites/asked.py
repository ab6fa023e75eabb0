"""What a message asks beside its study: no more than the study says, since that is what a site's engineer approved.

A setting that is missing is no matter of this: its handler says so, or has a value of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fedkr import wire
from fedkr.audit.document import MOST_PAIRS
from fedkr.config import AUDIT_TARGETS, SearchConfig, Study
from fedkr.config.reading import brief
from sites.contestants import MODULES, SENT_BY_CONTESTANTS, messages_of, searches
from sites.policy import PolicyError

LONGEST_NAME = 100
LONGEST_PAIRS = MOST_PAIRS * 1000
SPLITS = ("test", "val")
# Kinds of models that a study may call by their contestant.
OF_CONTESTANTS = frozenset({"student", "weights", "oracle", "personal"})
Settings = Mapping[str, Any]


def check_settings(message_type: str, settings: Settings, study: Study) -> None:
    """Raise :class:`PolicyError`, which names the setting, for one that the study does not cover."""
    if message_type in SENT_BY_CONTESTANTS and message_type not in messages_of(study):
        what = SENT_BY_CONTESTANTS[message_type]
        raise PolicyError(f"{message_type}: no contestant of strategy.compare={study.strategy.compare} needs {what}")
    CHECKS.get(message_type, lambda settings, study: None)(settings, study)


def _check_release(settings: Settings, study: Study) -> None:
    _whole(settings, "round", study.recycle.exchanges)


def _check_round(settings: Settings, study: Study) -> None:
    found = [search for _, search in searches(study)]
    _whole(settings, "server-round", max(_largest(found, "rounds"), _largest(found, "search_rounds")))
    _whole(settings, "local-epochs", _largest(found, "local_epochs"))
    # The rate falls from round to round.
    _real(settings, "lr", _largest(found, "lrs"))
    own = [options.get("proximal_mu") for options in study.strategy.options.values()]
    _real(settings, "proximal-mu", max([0.0, *(value for value in own if isinstance(value, (int, float)))]))
    _name(settings, "candidate")


def _largest(found: list[SearchConfig], option: str) -> float:
    values = [getattr(search, option) for search in found]
    return float(max(max(value) if isinstance(value, list) else value for value in values))


def _check_evaluate(settings: Settings, study: Study) -> None:
    split = settings.get("split", SPLITS[0])
    if split not in SPLITS:
        raise PolicyError(f"split={brief(split)}: not answered; one of: {', '.join(SPLITS)}")


def _check_audit(settings: Settings, study: Study) -> None:
    _audited(settings, study)
    _name(settings, "target")
    _name(settings, "kind")
    kind = settings.get("kind", settings.get("target"))
    if not _covers(study, kind):
        target = brief(settings.get("target"))
        raise PolicyError(f"target={target}: not among the study's audit.targets, as a target of kind {brief(kind)}")


def _covers(study: Study, kind: Any) -> bool:
    """Whether a study audits targets of a kind: by that, or by the contestant whose model is one."""
    targets = {*study.audit.targets}
    return kind in targets or (kind in OF_CONTESTANTS and bool(targets & {*study.strategy.compare}))


def _check_references(settings: Settings, study: Study) -> None:
    _audited(settings, study)
    kinds = settings.get("kinds", [])
    known = [kind for kind in AUDIT_TARGETS if _covers(study, kind)]
    if not isinstance(kinds, list) or not {*kinds} <= {*known}:
        raise PolicyError(f"kinds={brief(kinds)}: the study audits {', '.join(known)}")


def _check_compare(settings: Settings, study: Study) -> None:
    _audited(settings, study)
    if "pairs" not in settings:
        return
    text = settings["pairs"]
    if not isinstance(text, str) or len(text) > LONGEST_PAIRS:
        raise PolicyError(f"pairs={brief(text)}: expected a text of at most {LONGEST_PAIRS} characters")
    for pair in wire.read_pairs(wire.Request("", dict(settings), None)):
        for name in vars(pair):
            _name(vars(pair), name)


def _check_personal(kind: str, settings: Settings, study: Study) -> None:
    """Ask that the study compares a contestant of this kind, or one of a module that the site lets studies name."""
    name = settings.get("contestant")
    if not isinstance(name, str) or name not in study.strategy.compare:
        raise PolicyError(f"contestant={brief(name)}: not among the study's strategy.compare")
    own = str(study.strategy.options.get(name, {}).get("kind", name))
    if MODULES.get(own, kind if "." in own else own) != kind:
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
    wire.EVALUATE: _check_evaluate,
    wire.AUDIT: _check_audit,
    wire.REFERENCES: _check_references,
    wire.COMPARE: _check_compare,
}
