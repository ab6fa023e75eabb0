"""Checks: the first value that no run could work with ends in one line."""

from __future__ import annotations

import json

from fedkr.config.reading import nearest, read_dataclass
from fedkr.config.schema import (
    ATTACKS,
    AUDIT_TARGETS,
    AUGMENTATIONS,
    BACKENDS,
    CANARY_KINDS,
    KEEP_RULES,
    LEAST_REFERENCES,
    MOST_FPRS,
    PARTITIONS,
    REFERENCE_ATTACKS,
    AuditConfig,
    BackendConfig,
    FederationConfig,
    PartitionConfig,
    RecycleConfig,
    SearchConfig,
    SplitConfig,
    StrategyConfig,
    StudentConfig,
    Study,
    TeacherConfig,
)
from fedkr.errors import UserError


def parse_study(text: str) -> Study:
    """Read a study from what :meth:`Study.to_json` wrote; raise :class:`UserError` naming a field that does not fit."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"the study is not valid JSON ({error}): send what `Study.to_json` wrote") from None
    study = read_dataclass(Study, values, "study")
    check_study(study)
    return study


def check_study(study: Study) -> None:
    """Raise :class:`UserError` for the first value that no run could work with."""
    one_of("device", study.device.split(":")[0], ("auto", "cpu", "cuda"))
    one_of("precision", study.precision, ("auto", "float32", "bfloat16"))
    at_least("threads", study.threads, 1)
    one_of("data.flip", study.data.flip, ("none", "horizontal", "both"))
    _check_federation(study.federation)
    _check_partition(study.partition)
    _check_split(study.split)
    for key in ("steps", "batch", "checkpoints"):
        at_least(f"generator.{key}", getattr(study.generator, key), 1)
    _check_classifiers(study.teacher, study.student)
    _check_recycle(study.recycle)
    _check_strategy(study.strategy)
    _check_audit(study.audit, study.strategy.compare)
    _check_backend(study.backend)


def _check_federation(federation: FederationConfig) -> None:
    at_least("federation.sites", federation.sites, 1)
    at_least("federation.min_sites", federation.min_sites, 0)
    positive("federation.deadline", federation.deadline)
    positive("federation.register_deadline", federation.register_deadline)
    if federation.min_sites > federation.sites:
        raise UserError(f"federation.min_sites={federation.min_sites}: more than federation.sites={federation.sites}")


def _check_partition(partition: PartitionConfig) -> None:
    one_of("partition.kind", partition.kind, PARTITIONS)
    positive("partition.alpha", partition.alpha)
    at_least("partition.classes_per_site", partition.classes_per_site, 1)


def _check_split(split: SplitConfig) -> None:
    for key in ("val", "test", "holdout"):
        share = getattr(split, key)
        if not 0 < share < 1:
            raise UserError(f"split.{key}={share}: a share of the site's images, between 0 and 1")
    if split.val + split.test + split.holdout >= 1:
        raise UserError("split: val, test and holdout together leave nothing to train on; lower one of them")


def _check_classifiers(teacher: TeacherConfig, student: StudentConfig) -> None:
    for name, model in (("teacher", teacher), ("student", student)):
        one_of(f"{name}.augment", model.augment, AUGMENTATIONS)
        one_of(f"{name}.norm", model.norm, ("batch", "group"))
        for key in ("steps", "batch", "width"):
            at_least(f"{name}.{key}", getattr(model, key), 1)
        positive(f"{name}.lr", model.lr)
        for key in ("mixup", "weight_decay"):
            at_least(f"{name}.{key}", getattr(model, key), 0)
        if not 0 <= model.label_smoothing < 1:
            raise UserError(f"{name}.label_smoothing={model.label_smoothing}: a share, from 0 to below 1")
    one_of("teacher.keep_by", teacher.keep_by, KEEP_RULES)
    one_of("teacher.single_class", teacher.single_class, ("error", "constant"))
    for key in ("evaluations", "patience"):
        at_least(f"teacher.{key}", getattr(teacher, key), 1)
    one_of("student.loss", student.loss, ("cross_entropy", "kl"))
    at_least("student.regenerate_every", student.regenerate_every, 1)


def _check_recycle(recycle: RecycleConfig) -> None:
    one_of("recycle.exchange", recycle.exchange, ("once", "each"))
    for name, balances in (("balance", [recycle.balance]), ("tune_balances", recycle.tune_balances)):
        for balance in balances:
            one_of(f"recycle.{name}", balance, ("histogram", "balanced", "tempered"))
    for name, thresholds in (("filter", [recycle.filter]), ("tune_filters", recycle.tune_filters)):
        for threshold in thresholds:
            if not 0 <= threshold < 1:
                raise UserError(f"recycle.{name}={threshold}: a confidence, from 0 (off) to below 1")
    one_of("recycle.metric", recycle.metric, ("accuracy", "auc"))
    for key in ("search_steps", "search_images", "search_rungs", "rounds", "views", "min_class_count"):
        at_least(f"recycle.{key}", getattr(recycle, key), 1)
    for key in ("tuning_budget", "search_tolerance"):
        at_least(f"recycle.{key}", getattr(recycle, key), 0)
    positive("recycle.ratio", recycle.ratio)
    positive("recycle.temperature", recycle.temperature)


def _check_strategy(strategy: StrategyConfig) -> None:
    for name in strategy.compare:
        if strategy.compare.count(name) > 1:
            raise UserError(f"strategy.compare: {name!r} is named twice")
        if name in AUDIT_TARGETS and name != "local":
            raise UserError(f"strategy.compare: {name!r} is what the audit calls a kind of target; take another name")
        # It names files as well.
        if not name.replace("-", "_").isidentifier():
            raise UserError(f"strategy.compare: {name!r}: a name has letters, digits, - and _; its module is `kind`")
    for name, options in strategy.options.items():
        one_of("strategy.options", name, tuple(strategy.compare))
        if not isinstance(options, dict):
            raise UserError(f"strategy.options.{name}={options!r}: expected a group of options")
    check_search(strategy, "strategy")


def check_search(search: SearchConfig, where: str) -> None:
    """Raise :class:`UserError` for a search that no weights could be shared by; ``where`` holds its options."""
    if not search.lrs or not search.local_epochs:
        raise UserError(f"{where}.lrs and {where}.local_epochs: name at least one value each")
    for rate in search.lrs:
        positive(f"{where}.lrs", rate)
    for epochs in search.local_epochs:
        at_least(f"{where}.local_epochs", epochs, 1)
    at_least(f"{where}.rounds", search.rounds, 1)
    searched = len(search.lrs) * len(search.local_epochs) > 1
    # A round reports the val score of the model that enters it: the first tells nothing about the candidate.
    at_least(f"{where}.search_rounds", search.search_rounds, 2 if searched else 0)
    if searched:
        at_least(f"{where}.rounds", search.rounds, 2)


def _check_audit(audit: AuditConfig, contestants: list[str]) -> None:
    for value in audit.attacks:
        if "." not in value:
            one_of("audit.attacks", value, ATTACKS)
    for value in audit.targets:
        one_of("audit.targets", value, (*AUDIT_TARGETS, *contestants))
    for value in audit.canary_kinds:
        one_of("audit.canary_kinds", value, CANARY_KINDS)
    for name in ("attacks", "fprs"):
        if len(set(getattr(audit, name))) < len(getattr(audit, name)):
            raise UserError(f"audit.{name}={getattr(audit, name)}: name each once")
    if len(audit.fprs) > MOST_FPRS:
        raise UserError(f"audit.fprs: {len(audit.fprs)} false-positive rates; {MOST_FPRS} at most")
    for fpr in audit.fprs:
        if not 0 < fpr < 1:
            raise UserError(f"audit.fprs={fpr}: a false-positive rate, between 0 and 1")
    if not audit.enabled:
        return
    one_of("audit.headline", audit.headline, tuple(audit.attacks))
    for key in ("bootstrap", "permutations", "queries"):
        at_least(f"audit.{key}", getattr(audit, key), 1)
    for key in ("canaries", "guesses"):
        at_least(f"audit.{key}", getattr(audit, key), 0)
    if not 0 <= audit.delta <= 1:
        raise UserError(f"audit.delta={audit.delta}: a probability, well below one in the number of coins")
    if audit.gamma < 1:
        raise UserError(f"audit.gamma={audit.gamma}: RMIA's threshold is 1 or more")
    _check_references(audit)


def _check_references(audit: AuditConfig) -> None:
    at_least("audit.pipeline_references", audit.pipeline_references, 0)
    needing = [attack for attack in audit.attacks if attack in REFERENCE_ATTACKS]
    if needing and audit.direct_references < LEAST_REFERENCES:
        raise UserError(
            f"audit.attacks: {needing[0]} needs reference models; set audit.direct_references to "
            f"{LEAST_REFERENCES} or more, or take audit=full"
        )
    if audit.pipeline_references and audit.pipeline_references < LEAST_REFERENCES:
        raise UserError(f"audit.pipeline_references={audit.pipeline_references}: 0, or at least {LEAST_REFERENCES}")
    for name in ("direct_references", "pipeline_references"):
        if getattr(audit, name) % 2:
            raise UserError(
                f"audit.{name}={getattr(audit, name)}: must be even, since each image is in half of the references"
            )


def _check_backend(backend: BackendConfig) -> None:
    one_of("backend.kind", backend.kind, BACKENDS)
    at_least("backend.cpus_per_site", backend.cpus_per_site, 1)
    for key in ("gpus_per_site", "cpus", "port", "restarts"):
        at_least(f"backend.{key}", getattr(backend, key), 0)
    if backend.address and backend.kind != "ray":
        raise UserError(
            f"backend.address={backend.address!r}: only backend=ray takes one (an existing Ray cluster); "
            "for a SuperLink of your own use `flwr run`, see sites/README.md"
        )


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise :class:`UserError` naming an option whose value is not among the known ones."""
    if value not in known:
        raise UserError(f"{name}={value!r}: unknown value{nearest(value, known)}")


def at_least(name: str, value: float, least: int) -> None:
    """Raise :class:`UserError` naming an option below its least value."""
    # Not `value < least`: no comparison holds of NaN.
    if not value >= least:
        raise UserError(f"{name}={value}: must be at least {least}")


def positive(name: str, value: float) -> None:
    """Raise :class:`UserError` naming an option that is not above 0."""
    if not value > 0:
        raise UserError(f"{name}={value}: must be above 0")
