"""Checks: the first value that no run could work with ends in one line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from fedkr.config.architecture import check_classifiers
from fedkr.config.constraints import check_values, one_of
from fedkr.config.reading import brief, read_dataclass
from fedkr.config.schema import (
    ATTACKS,
    AUDIT_TARGETS,
    GUARANTEED_GENERATORS,
    LEAST_REFERENCES,
    MOST_FPRS,
    REFERENCE_ATTACKS,
    AuditConfig,
    DpSgdConfig,
    SearchConfig,
    SplitConfig,
    StrategyConfig,
    Study,
    least_permutations,
)
from fedkr.config.sizes import LONGEST_STUDY, check_sizes
from fedkr.errors import UserError

SEARCH_OPTIONS = tuple(field.name for field in dataclasses.fields(SearchConfig))
DP_SGD_OPTIONS = tuple(field.name for field in dataclasses.fields(DpSgdConfig))


def parse_study(text: str) -> Study:
    """Read a study from what :meth:`Study.to_json` wrote; raise :class:`UserError` naming a field that does not fit."""
    if len(text) > LONGEST_STUDY:
        raise UserError(f"the study is {len(text)} characters long; {LONGEST_STUDY} at most")
    try:
        values = json.loads(text)
    # The JSON module's own error, a number of too many digits, and brackets in brackets without end.
    except (ValueError, RecursionError) as error:
        raise UserError(f"the study is not valid JSON ({error}): send what `Study.to_json` wrote") from None
    study = read_dataclass(Study, values, "study")
    check_study(study)
    return study


def check_study(study: Study) -> None:
    """Raise :class:`UserError` for the first value that no run could work with."""
    check_sizes(dataclasses.asdict(study))
    check_values(study)
    check_classifiers(study)
    one_of("device", study.device.split(":")[0], ("auto", "cpu", "cuda"))
    if study.federation.min_sites > study.federation.sites:
        most = study.federation.sites
        raise UserError(f"federation.min_sites={study.federation.min_sites}: more than federation.sites={most}")
    check_shares(study.split, "split")
    _check_once("recycle.tune_balances", study.recycle.tune_balances)
    _check_once("recycle.tune_filters", study.recycle.tune_filters)
    _check_privacy(study)
    _check_adjustment(study)
    _check_strategy(study.strategy)
    _check_audit(study.audit, study.strategy.compare)
    _check_permutations(study.audit, study.federation.sites)
    if study.backend.address and study.backend.kind != "ray":
        raise UserError(
            f"backend.address={study.backend.address!r}: only backend=ray takes one (an existing Ray cluster); "
            "for a SuperLink of your own use `flwr run`, see sites/README.md"
        )


def _check_adjustment(study: Study) -> None:
    if study.teacher.calibrate and study.teacher.logit_adjustment:
        raise UserError(
            f"teacher.logit_adjustment={study.teacher.logit_adjustment:g} and teacher.calibrate=true: a temperature is "
            "fitted where classes are as common as at the site, which such a teacher is not for; choose one of them"
        )
    for name, classifier in (("teacher", study.teacher), ("student", study.student)):
        if classifier.logit_adjustment and classifier.label_smoothing:
            raise UserError(
                f"{name}.logit_adjustment={classifier.logit_adjustment:g} and {name}.label_smoothing="
                f"{classifier.label_smoothing:g}: smoothed labels have other class shares than the images; choose one"
            )


def _check_privacy(study: Study) -> None:
    if not study.privacy.guaranteed:
        return
    if study.generator.kind not in GUARANTEED_GENERATORS:
        known = ", ".join(GUARANTEED_GENERATORS)
        raise UserError(f"privacy.mode=dp: generator.kind={study.generator.kind!r} has no guarantee; one of: {known}")
    for name in ("doubt", "filter"):
        if asked := getattr(study.recycle, name):
            raise UserError(f"recycle.{name}={asked}: privacy.mode=dp has no teacher of real images to ask; set 0")


def check_shares(split: SplitConfig, where: str) -> None:
    """Raise :class:`UserError`, which begins with ``where``, for shares that leave nothing to train on."""
    if split.val + split.test + split.holdout >= 1:
        raise UserError(f"{where}: val, test and holdout together leave nothing to train on; lower one of them")


def _check_strategy(strategy: StrategyConfig) -> None:
    if not strategy.compare:
        raise UserError("strategy.compare=[]: nothing would be trained or compared; name a contestant, such as fedkr")
    for name in strategy.compare:
        if strategy.compare.count(name) > 1:
            raise UserError(f"strategy.compare: {name!r} is named twice")
        if name in AUDIT_TARGETS and name != "local":
            raise UserError(f"strategy.compare: {name!r} is what the audit calls a kind of target; take another name")
        # It names files as well.
        if not name.replace("-", "_").replace("+", "_").isidentifier():
            raise UserError(f"strategy.compare: {name!r}: a name has letters, digits, -, + and _; its module is `kind`")
    for name, options in strategy.options.items():
        one_of("strategy.options", name, tuple(strategy.compare))
        if not isinstance(options, dict):
            raise UserError(f"strategy.options.{name}={brief(repr(options))}: expected a group of options")
        own_search(name, options, strategy)
    check_search(strategy, "strategy")


def own_search(name: str, options: Mapping[str, Any], strategy: StrategyConfig) -> SearchConfig:
    """Return the study's search with what a contestant's own options say; raise :class:`UserError` for a bad one."""
    shared = {option: getattr(strategy, option) for option in SEARCH_OPTIONS}
    own = {option: options[option] for option in SEARCH_OPTIONS if option in options}
    where = f"strategy.options.{name}"
    search = read_dataclass(SearchConfig, shared | own, where)
    check_search(search, where if own else "strategy")
    return search


def dp_sgd(name: str, options: Mapping[str, Any]) -> DpSgdConfig:
    """Return a contestant's own options of DP-SGD; raise :class:`UserError` for a bad one."""
    where, own = f"strategy.options.{name}", {option: options[option] for option in DP_SGD_OPTIONS if option in options}
    found = read_dataclass(DpSgdConfig, own, where)
    check_values(found, where)
    return found


def check_search(search: SearchConfig, where: str) -> None:
    """Raise :class:`UserError` for a search that no weights could be shared by; ``where`` holds its options."""
    check_values(search, where)
    if not search.lrs or not search.local_epochs or not search.norms:
        raise UserError(f"{where}.lrs, {where}.local_epochs and {where}.norms: name at least one value each")


def _check_once(where: str, values: list[Any]) -> None:
    if len(set(values)) < len(values):
        raise UserError(f"{where}={brief(values)}: name each once")


def _check_audit(audit: AuditConfig, contestants: list[str]) -> None:
    for value in audit.attacks:
        if "." not in value:
            one_of("audit.attacks", value, ATTACKS)
    for value in audit.targets:
        one_of("audit.targets", value, (*AUDIT_TARGETS, *contestants))
    _check_once("audit.attacks", audit.attacks)
    _check_once("audit.fprs", audit.fprs)
    if len(audit.fprs) > MOST_FPRS:
        raise UserError(f"audit.fprs: {len(audit.fprs)} false-positive rates; {MOST_FPRS} at most")
    if not audit.enabled:
        return
    one_of("audit.headline", audit.headline, tuple(audit.attacks))
    _check_references(audit)


def _check_permutations(audit: AuditConfig, sites: int) -> None:
    least = least_permutations(sites)
    if audit.enabled and audit.permutations_for(sites) < least:
        raise UserError(
            f"audit.permutations={audit.permutations}: with federation.sites={sites} no test of the blind baseline "
            f"could reject; set {least} or more"
        )


def _check_references(audit: AuditConfig) -> None:
    needing = [attack for attack in audit.attacks if attack in REFERENCE_ATTACKS]
    if needing and audit.direct_references < LEAST_REFERENCES:
        raise UserError(
            f"audit.attacks: {needing[0]} needs reference models; set audit.direct_references to "
            f"{LEAST_REFERENCES} or more, or take audit=full"
        )
    if audit.pipeline_references and audit.pipeline_references < LEAST_REFERENCES:
        raise UserError(f"audit.pipeline_references={audit.pipeline_references}: 0, or at least {LEAST_REFERENCES}")
