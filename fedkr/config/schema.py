"""The study as dataclasses: every option that a run has.

A study is composed once (by Hydra, see ``configs/config.yaml`` for every option explained), checked once by
:func:`fedkr.config.check_study`, and then travels as one JSON document inside the Flower messages.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedkr.fingerprint import fingerprint

PARTITIONS = ("iid", "dirichlet", "pathological", "quantity")
BACKENDS = ("inline", "ray", "deploy")
AUGMENTATIONS = ("none", "standard", "strong")
KEEP_RULES = ("accuracy", "loss", "last")
THRESHOLD_ATTACKS = ("loss", "modified-entropy", "confidence", "logit-margin")
REFERENCE_ATTACKS = ("lira-online", "lira-online-fixed", "lira-offline", "lira-offline-fixed", "rmia", "rmia-offline")
ATTACKS = THRESHOLD_ATTACKS + REFERENCE_ATTACKS
RELEASE_ATTACKS = ("distance-pixels", "distance-features", "monte-carlo", "domias")
# Kinds of what contestants leave: models, then what the server alone sees: a student of one site's releases, a site's
# last update, the released images. A single one of a kind goes by its own name, such as fedavg or centralised.
AUDIT_TARGETS = ("student", "weights", "oracle", "teacher", "local", "site-student", "update", "release")
# Each image needs two references that trained on it and two that did not, with masks of half the references.
LEAST_REFERENCES = 4
# True-positive rates at many false-positive rates would give single scores away.
MOST_FPRS = 16
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

    def located(self) -> DataConfig:
        """Return the same with absolute paths, ``~`` being the user's home: apps run in folders of their own."""
        root, path = (text and str(Path(text).expanduser().absolute()) for text in (self.root, self.path))
        return dataclasses.replace(self, root=root, path=path)


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

    @property
    def exchanges(self) -> int:
        """How many releases a site makes: one with a slice for each regeneration round, or one each round."""
        return 1 if self.exchange == "once" else self.rounds


@dataclass
class SearchConfig:
    """How weights are shared: rounds, and the search for learning rate and local epochs on the sites' val splits."""

    rounds: int = 20
    search_rounds: int = 4
    lrs: list[float] = field(default_factory=lambda: [0.03, 0.1])
    local_epochs: list[int] = field(default_factory=lambda: [2, 5])


@dataclass
class StrategyConfig(SearchConfig):
    """The contestants of the comparison, and the search that those share that share weights.

    ``options`` holds each contestant's own, by name: what its file in the group ``strategy`` says, among them ``kind``
    (its module) and ``driver`` (whether only a simulation can run it).
    """

    compare: list[str] = field(default_factory=lambda: ["local", "fedavg", "fedkr", "centralised"])
    options: dict[str, Any] = field(default_factory=dict)

    def names(self, *, driver: bool) -> list[str]:
        """Return the contestants that the driver of a simulation runs itself, or those of the ServerApp."""
        return [name for name in self.compare if bool(self.options.get(name, {}).get("driver")) == driver]


@dataclass
class AuditConfig:
    """Membership-inference audit at the sites."""

    enabled: bool = True
    attacks: list[str] = field(default_factory=lambda: ["loss", "modified-entropy"])
    headline: str = "modified-entropy"
    targets: list[str] = field(default_factory=lambda: ["student", "weights", "teacher", "oracle", "release"])
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


# What changes no number: where things lie and run, and how long the server waits.
NO_PART_OF_RESULTS = (
    *("backend", "out", "run_dir", "data.root", "data.download"),
    *("federation.deadline", "federation.register_deadline"),
)


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

    def options(self, *without: str) -> dict[str, Any]:
        """Return all options as plain values, but for those ``without``: groups (``audit``) or options of one."""
        values = dataclasses.asdict(self)
        for name in without:
            group, _, option = name.partition(".")
            del (values[group] if option else values)[option or group]
        return values

    def folder_name(self) -> str:
        """Return the name of the run's folder: readable, and different for studies with different numbers."""
        return f"{self.data.name.split('.')[-1]}-{self.partition.kind}-seed{self.seed}-{self.identity()}"

    def run_folder(self, prefix: str = "") -> Path:
        """Return the absolute run folder: the one named, else one in ``out`` that is named after the study."""
        folder = Path(self.run_dir) if self.run_dir else Path(self.out) / f"{prefix}{self.folder_name()}"
        return folder.expanduser().absolute()

    def identity(self) -> str:
        """Return 10 hex digits of all that the numbers depend on (not the backend, folders or deadlines).

        Images are known by their content, where ``data_digest`` names it; else by the file that they come from.
        """
        known_by_content = ("data.path",) if self.data_digest else ()
        return fingerprint(self.options(*NO_PART_OF_RESULTS, *known_by_content))
