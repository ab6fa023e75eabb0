"""The study as dataclasses: every option that a run has, with its check.

A study is composed once (by Hydra, see ``configs/config.yaml`` for every option explained), checked once by
:func:`check_study`, and then travels as one JSON document inside the Flower messages.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fedkr.errors import UserError

STRATEGIES = ("local", "fedavg", "fedkr", "centralised")
PARTITIONS = ("iid", "dirichlet", "pathological", "quantity")
BACKENDS = ("inline", "ray", "deploy")
AUGMENTATIONS = ("none", "standard", "strong")
KEEP_RULES = ("accuracy", "loss", "last")
THRESHOLD_ATTACKS = ("loss", "modified-entropy", "confidence", "logit-margin")
REFERENCE_ATTACKS = ("lira-online", "lira-online-fixed", "lira-offline", "lira-offline-fixed", "rmia", "rmia-offline")
ATTACKS = THRESHOLD_ATTACKS + REFERENCE_ATTACKS
RELEASE_ATTACKS = ("distance-pixels", "distance-features", "monte-carlo", "domias")
# Models, then what the server alone sees: a student of one site's releases, a site's last update, the released images.
AUDIT_TARGETS = ("student", "weights", "teacher", "local", "centralised", "site-student", "update", "release")
# Each image needs two references that trained on it and two that did not, with masks of half the references.
LEAST_REFERENCES = 4
CANARY_KINDS = ("mislabelled", "noise", "near-duplicate")


@dataclass
class DataConfig:
    """Where the images come from (group ``dataset``)."""

    name: str = "digits"
    root: str = "data"
    path: str = ""
    size: int = 0
    download: bool = False
    classes: list[str] = field(default_factory=list)
    flip: str = "none"
    limit: int = 0
    test_fraction: float = 0.2


@dataclass
class FederationConfig:
    """Who takes part and how long the server waits for an answer, in seconds."""

    sites: int = 3
    min_sites: int = 0
    deadline: float = 14400.0
    register_deadline: float = 300.0


@dataclass
class PartitionConfig:
    """How a simulation deals the pool out to its sites (group ``partition``)."""

    kind: str = "dirichlet"
    alpha: float = 0.3
    classes_per_site: int = 2
    redraws: int = 200


@dataclass
class SplitConfig:
    """Shares of a site's images set apart before anything is trained; the rest is the training split."""

    val: float = 0.1
    test: float = 0.1
    holdout: float = 0.25
    min_images: int = 20


@dataclass
class ClassifierConfig:
    """A classifier and its optimisation."""

    arch: str = "resnet14"
    width: int = 16
    norm: str = "batch"
    steps: int = 500
    batch: int = 64
    lr: float = 0.1
    weight_decay: float = 5e-4
    augment: str = "standard"
    label_smoothing: float = 0.0
    mixup: float = 0.0


@dataclass
class TeacherConfig(ClassifierConfig):
    """The classifier that a site trains on its own private images to label what its generator draws."""

    patience: int = 4
    evaluations: int = 10
    keep_by: str = "accuracy"
    calibrate: bool = False
    single_class: str = "error"


@dataclass
class StudentConfig(ClassifierConfig):
    """The classifier under study: the recipe of every strategy in the comparison."""

    loss: str = "cross_entropy"
    regenerate_every: int = 1


@dataclass
class GeneratorConfig:
    """A class-conditional generator; ``options`` are checked against the dataclass of its kind."""

    kind: str = "edm"
    steps: int = 700
    batch: int = 32
    checkpoints: int = 3
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class RecycleConfig:
    """Checkpoint optimisation, tuning and what a release holds."""

    search_steps: int = 100
    search_images: int = 512
    search_rungs: int = 1
    search_tolerance: float = 0.0
    tuning_budget: int = 3
    tune_balances: list[str] = field(default_factory=list)
    tune_filters: list[float] = field(default_factory=list)
    metric: str = "accuracy"
    rounds: int = 4
    ratio: float = 1.0
    exchange: str = "once"
    views: int = 4
    temperature: float = 1.0
    balance: str = "histogram"
    filter: float = 0.0
    min_class_count: int = 2
    refuse_collapsed: bool = True


@dataclass
class StrategyConfig:
    """The comparison, and the weight-sharing baseline with its search (chosen on the sites' val splits)."""

    compare: list[str] = field(default_factory=lambda: list(STRATEGIES))
    kind: str = "fedavg"
    rounds: int = 20
    search_rounds: int = 4
    lrs: list[float] = field(default_factory=lambda: [0.03, 0.1])
    local_epochs: list[int] = field(default_factory=lambda: [2, 5])
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class AuditConfig:
    """Membership-inference audit at the sites."""

    enabled: bool = True
    attacks: list[str] = field(default_factory=lambda: ["loss", "modified-entropy"])
    headline: str = "modified-entropy"
    targets: list[str] = field(default_factory=lambda: ["student", "weights", "teacher", "centralised", "release"])
    fprs: list[float] = field(default_factory=lambda: [0.01, 0.001])
    bootstrap: int = 1000
    direct_references: int = 0
    pipeline_references: int = 0
    queries: int = 1
    gamma: float = 1.0
    canaries: int = 0
    canary_kinds: list[str] = field(default_factory=lambda: list(CANARY_KINDS))
    coins: bool = False
    guesses: int = 0
    delta: float = 1e-5
    permutations: int = 2000


@dataclass
class BackendConfig:
    """Where the apps run; never part of a result's identity."""

    kind: str = "ray"
    cpus_per_site: int = 1
    gpus_per_site: float = 0.0
    cpus: int = 0
    address: str = ""
    port: int = 0
    restarts: int = 2


@dataclass
class Study:
    """One whole study. ``threads`` is set in every process: it changes the last digits of every weight."""

    seed: int = 0
    threads: int = 1
    device: str = "auto"
    precision: str = "auto"
    out: str = "runs"
    run_dir: str = ""
    data_digest: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    recycle: RecycleConfig = field(default_factory=RecycleConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    backend: BackendConfig = field(default_factory=BackendConfig)

    def to_json(self) -> str:
        """Return the study as one JSON document."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Study:
        """Read a study from :meth:`to_json`'s document; raise :class:`UserError` naming a field that does not fit."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"the study is not valid JSON ({error}): send what `Study.to_json` wrote") from None
        study = read_dataclass(Study, values, "study")
        check_study(study)
        return study

    def folder_name(self) -> str:
        """Return the name of the run's folder: readable, and different for studies with different numbers."""
        return f"{self.data.name.split('.')[-1]}-{self.partition.kind}-seed{self.seed}-{self.identity()}"

    def identity(self) -> str:
        """Return 10 hex digits of all that the numbers depend on (not the backend, folders or deadlines)."""
        values = dataclasses.asdict(self)
        for name in ("backend", "out", "run_dir"):
            del values[name]
        del values["data"]["root"], values["data"]["download"]
        del values["federation"]["deadline"], values["federation"]["register_deadline"]
        return fingerprint(values)


T = TypeVar("T")


def fingerprint(value: Any) -> str:
    """Return 10 hex digits that name a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:10]


def read_dataclass(kind: type[T], values: Any, where: str) -> T:
    """Build a (nested) dataclass from plain values.

    Raises:
        UserError: an unknown field (with the nearest known one) or a value of another type, named by its dotted path.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a group of fields, got {values!r}")
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise UserError(f"{where}.{name}: no such option{nearest(name, known)}")
    return kind(**{name: _read_value(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """Return '; did you mean ...' or the list of known names, to end an error line with."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; one of: {', '.join(known)}"


def _read_value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return read_dataclass(typing.cast(type, hint), value, where)
    origin = typing.get_origin(hint)
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}={value!r}: expected a list, as in [a,b]")
        (item,) = typing.get_args(hint)
        return [_read_value(item, v, f"{where}[{i}]") for i, v in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}={value!r}: expected a group of fields")
        return dict(value)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise UserError(f"{where}={value!r}: expected {hint.__name__}, got {type(value).__name__}")
    return value


def check_study(study: Study) -> None:
    """Raise :class:`UserError` for the first value that no run could work with."""
    _one_of("device", study.device.split(":")[0], ("auto", "cpu", "cuda"))
    _one_of("precision", study.precision, ("auto", "float32", "bfloat16"))
    at_least("threads", study.threads, 1)
    _one_of("data.flip", study.data.flip, ("none", "horizontal", "both"))
    _check_federation(study.federation)
    _check_partition(study.partition)
    _check_split(study.split)
    for key in ("steps", "batch", "checkpoints"):
        at_least(f"generator.{key}", getattr(study.generator, key), 1)
    _check_classifiers(study.teacher, study.student)
    _check_recycle(study.recycle)
    _check_strategy(study.strategy)
    _check_audit(study.audit)
    _check_backend(study.backend)


def _check_federation(federation: FederationConfig) -> None:
    at_least("federation.sites", federation.sites, 1)
    at_least("federation.min_sites", federation.min_sites, 0)
    positive("federation.deadline", federation.deadline)
    positive("federation.register_deadline", federation.register_deadline)
    if federation.min_sites > federation.sites:
        raise UserError(f"federation.min_sites={federation.min_sites}: more than federation.sites={federation.sites}")


def _check_partition(partition: PartitionConfig) -> None:
    _one_of("partition.kind", partition.kind, PARTITIONS)
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
        _one_of(f"{name}.augment", model.augment, AUGMENTATIONS)
        _one_of(f"{name}.norm", model.norm, ("batch", "group"))
        for key in ("steps", "batch", "width"):
            at_least(f"{name}.{key}", getattr(model, key), 1)
        positive(f"{name}.lr", model.lr)
        for key in ("mixup", "weight_decay"):
            at_least(f"{name}.{key}", getattr(model, key), 0)
        if not 0 <= model.label_smoothing < 1:
            raise UserError(f"{name}.label_smoothing={model.label_smoothing}: a share, from 0 to below 1")
    _one_of("teacher.keep_by", teacher.keep_by, KEEP_RULES)
    _one_of("teacher.single_class", teacher.single_class, ("error", "constant"))
    for key in ("evaluations", "patience"):
        at_least(f"teacher.{key}", getattr(teacher, key), 1)
    _one_of("student.loss", student.loss, ("cross_entropy", "kl"))
    at_least("student.regenerate_every", student.regenerate_every, 1)


def _check_recycle(recycle: RecycleConfig) -> None:
    _one_of("recycle.exchange", recycle.exchange, ("once", "each"))
    for name, balances in (("balance", [recycle.balance]), ("tune_balances", recycle.tune_balances)):
        for balance in balances:
            _one_of(f"recycle.{name}", balance, ("histogram", "balanced", "tempered"))
    for name, thresholds in (("filter", [recycle.filter]), ("tune_filters", recycle.tune_filters)):
        for threshold in thresholds:
            if not 0 <= threshold < 1:
                raise UserError(f"recycle.{name}={threshold}: a confidence, from 0 (off) to below 1")
    _one_of("recycle.metric", recycle.metric, ("accuracy", "auc"))
    for key in ("search_steps", "search_images", "search_rungs", "rounds", "views", "min_class_count"):
        at_least(f"recycle.{key}", getattr(recycle, key), 1)
    for key in ("tuning_budget", "search_tolerance"):
        at_least(f"recycle.{key}", getattr(recycle, key), 0)
    positive("recycle.ratio", recycle.ratio)
    positive("recycle.temperature", recycle.temperature)


def _check_strategy(strategy: StrategyConfig) -> None:
    for value in strategy.compare:
        _one_of("strategy.compare", value, ("local", "fedkr", "centralised", strategy.kind))
    if not strategy.lrs or not strategy.local_epochs:
        raise UserError("strategy.lrs and strategy.local_epochs: name at least one value each")
    for rate in strategy.lrs:
        positive("strategy.lrs", rate)
    for epochs in strategy.local_epochs:
        at_least("strategy.local_epochs", epochs, 1)
    at_least("strategy.rounds", strategy.rounds, 1)
    searched = len(strategy.lrs) * len(strategy.local_epochs) > 1
    # A round reports the val score of the model that enters it: the first tells nothing about the candidate.
    at_least("strategy.search_rounds", strategy.search_rounds, 2 if searched else 0)
    if searched:
        at_least("strategy.rounds", strategy.rounds, 2)


def _check_audit(audit: AuditConfig) -> None:
    for value in audit.attacks:
        _one_of("audit.attacks", value, ATTACKS)
    for value in audit.targets:
        _one_of("audit.targets", value, AUDIT_TARGETS)
    for value in audit.canary_kinds:
        _one_of("audit.canary_kinds", value, CANARY_KINDS)
    for fpr in audit.fprs:
        if not 0 < fpr < 1:
            raise UserError(f"audit.fprs={fpr}: a false-positive rate, between 0 and 1")
    if not audit.enabled:
        return
    _one_of("audit.headline", audit.headline, tuple(audit.attacks))
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
    _one_of("backend.kind", backend.kind, BACKENDS)
    at_least("backend.cpus_per_site", backend.cpus_per_site, 1)
    for key in ("gpus_per_site", "cpus", "port", "restarts"):
        at_least(f"backend.{key}", getattr(backend, key), 0)
    if backend.address and backend.kind != "ray":
        raise UserError(
            f"backend.address={backend.address!r}: only backend=ray takes one (an existing Ray cluster); "
            "for a SuperLink of your own use `flwr run`, see sites/README.md"
        )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
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
