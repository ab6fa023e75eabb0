"""The study as dataclasses: every option that a run has.

A study is composed once (by Hydra, see ``configs/config.yaml`` for every option explained), checked once by
:func:`fedkr.config.check_study`, and then travels as one JSON document inside the Flower messages.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fedkr.config.constraints import (
    LARGEST,
    Count,
    Must,
    Natural,
    NonNegative,
    OneOf,
    Positive,
    at_most,
    no_longer_than,
)
from fedkr.disk import from_home
from fedkr.fingerprint import fingerprint

BACKENDS = ("inline", "ray", "deploy")
BUDGETS = ("quick", "standard", "thorough")
KEEP_RULES = ("accuracy", "loss", "last")
THRESHOLD_ATTACKS = ("loss", "modified-entropy", "confidence", "logit-margin")
# Without reference models, too, but by more than the model's answers on the images themselves.
QUANTILE = "quantile"
LABEL_ONLY = "label-only"
QUERY_ATTACKS = (LABEL_ONLY, QUANTILE)
REFERENCE_ATTACKS = (
    *("lira-online", "lira-online-fixed", "lira-offline", "lira-offline-fixed"),
    *("rmia", "rmia-offline", "bavaria", "bavaria-offline"),
)
ATTACKS = THRESHOLD_ATTACKS + QUERY_ATTACKS + REFERENCE_ATTACKS
# On a release: without references, calibrated by other releases, and together with a classifier trained on it.
RELEASE_ATTACKS = ("distance-pixels", "distance-features", "monte-carlo", "domias")
CALIBRATED_ATTACKS = ("calibrated-pixels", "calibrated-features", "soft-label-neighbours")
FUSED_ATTACK = "fused"
# Where released images are compared in features: principal components of pixels, or of what a public network sees.
PIXELS, EFFICIENTNET_LITE0 = "pixels", "efficientnet-lite0"
# On a site's rounds of weight sharing alone: what they changed.
ROUND_ATTACK = "round-gain"
# Kinds of what contestants leave: models that all see, those that stay at a site, then what the server alone sees: a
# student of one site's releases, a site's last update, its rounds together, the released images; last the controls
# (fedkr.audit.control), which each site trains for the audit alone. A single one of a kind goes by its own name, such
# as fedavg.
AUDIT_TARGETS = (
    *("student", "weights", "oracle", "teacher", "local", "personal", "site-student", "update", "rounds", "release"),
    *("control", "control-student"),
)
# Each image needs two references that trained on it and two that did not, with masks of half the references.
LEAST_REFERENCES = 4
# True-positive rates at many false-positive rates would give single scores away.
MOST_FPRS = 16
# Generators whose checkpoints are differentially private where a study asks for that, and the mechanism of each.
GAUSSIAN, DP_SGD = "gaussian", "dp-sgd"
GUARANTEED_GENERATORS = {"moments": GAUSSIAN, "edm": DP_SGD}
CANARY_KINDS = ("mislabelled", "noise", "near-duplicate", "outlier")
# Whose memory each kind of canary shows: what labels and models know of an image, or what a generator draws again.
CANARY_CHANNELS = {"label": ("mislabelled", "noise", "near-duplicate"), "image": ("outlier",)}
# Without a word of a study's: what canaries were before there were outliers.
USUAL_CANARY_KINDS = CANARY_CHANNELS["label"]


def is_range(values: list[float]) -> bool:
    """Whether values are none, or the two ends of a range of numbers."""
    return not values or (len(values) == 2 and -LARGEST <= values[0] < values[1] <= LARGEST)


OrNoChoice = Annotated[int, Must(lambda n: n >= 0, "must be 0 (no choice) or more")]
Seconds = Annotated[Positive, at_most(100 * 24 * 3600)]
Steps = Annotated[Count, at_most(1_000_000)]
Batch = Annotated[Count, at_most(65_536)]
FEW = no_longer_than(32)
Share = Annotated[float, Must(lambda x: 0 < x < 1, "a share of the site's images, between 0 and 1")]
Confidence = Annotated[float, Must(lambda x: 0 <= x < 1, "a confidence, from 0 (off) to below 1")]
# Members against non-members without any model, by images and by class shares: their error over all sites together.
BLIND_LEVEL, BLIND_TESTS, USUAL_PERMUTATIONS = 0.01, 2, 2000
# Of their own accord, which is enough for 100 sites: how many sites there are, a server says.
MOST_PERMUTATIONS = 20_000
FalsePositiveRate = Annotated[float, Must(lambda x: 0 < x < 1, "a false-positive rate, between 0 and 1")]
References = Annotated[
    int,
    Must(lambda n: n >= 0 and n % 2 == 0, "must be even, since each image is in half of the references"),
    at_most(1024),
]
# What the noise of 52 random bits can keep: its tails end where a normal number has a chance of about 1e-16.
Delta = Annotated[float, Must(lambda x: 1e-12 <= x <= 0.01, "a probability from 1e-12 to 0.01")]
Epsilon = Annotated[float, Must(lambda x: 0.01 <= x <= 100, "from 0.01 (less is all noise) to 100 (no guarantee)")]
Norm = Annotated[str, OneOf("batch", "group")]
# Of single gradients: at the far ends of float32 neither sums nor noise are what they are said to be.
ClipNorm = Annotated[float, Must(lambda x: 0.001 <= x <= 1000, "from 0.001 to 1000")]
Balance = Annotated[str, OneOf("histogram", "balanced", "tempered")]
Fit = Annotated[str, OneOf("crop", "pad", "stretch")]
GreyLevel = Annotated[Natural, at_most(255)]
Scale = Annotated[str, OneOf("type", "image")]
ValueRange = Annotated[list[float], Must(is_range, "must be [] or two finite numbers, the lower one first")]


@dataclass
class DataConfig:
    """Where the images come from (group ``dataset``), and how files become 8-bit squares of one size."""

    name: str = "digits"
    root: str = "data"
    path: str = ""
    size: Annotated[OrNoChoice, at_most(4096)] = 0
    download: bool = False
    classes: list[str] = field(default_factory=list)
    flip: Annotated[str, OneOf("none", "horizontal", "both")] = "none"
    limit: OrNoChoice = 0
    test_fraction: float = 0.2
    channels: Annotated[int, Must(lambda n: n in (0, 1, 3), "must be 0 (as the files are), 1 (grey) or 3 (colour)")] = 0
    fit: Fit = "crop"
    background: GreyLevel = 0
    scale: Scale = "type"
    range: ValueRange = field(default_factory=list)
    frames: Annotated[str, OneOf("first", "all")] = "first"
    patients: Annotated[str, OneOf("auto", "none", "folder")] = "auto"
    least_usable: Annotated[float, Must(lambda x: 0 <= x <= 1, "a share of the files, from 0 to 1")] = 0.95
    remove_leaks: bool = False
    near_leaks: Annotated[NonNegative, at_most(255)] = 0.0

    def located(self) -> DataConfig:
        """Return the same with absolute paths, ``~`` being the user's home: apps run in folders of their own."""
        root, path = (text and str(from_home(Path(text)).absolute()) for text in (self.root, self.path))
        return dataclasses.replace(self, root=root, path=path)


@dataclass
class FactsConfig:
    """What is known of the images of all sites together, of which the rule makes schedules; 0 is unknown.

    It is an option of who composes a study (:mod:`fedkr.config.schedule`): no site reads it.
    """

    images: Natural = 0
    side: Annotated[Natural, at_most(4096)] = 0
    channels: Annotated[int, Must(lambda n: n in (0, 1, 3), "must be 0 (unknown), 1 (grey) or 3 (colour)")] = 0
    classes: Annotated[Natural, at_most(1000)] = 0


@dataclass
class FederationConfig:
    """Who takes part and how long the server waits for an answer, in seconds."""

    sites: Annotated[Count, at_most(10_000)] = 3
    min_sites: Natural = 0
    deadline: Seconds = 14400.0
    register_deadline: Seconds = 300.0


@dataclass
class PartitionConfig:
    """How a simulation deals the pool out to its sites (group ``partition``)."""

    kind: Annotated[str, OneOf("iid", "dirichlet", "pathological", "quantity")] = "dirichlet"
    alpha: Positive = 0.3
    classes_per_site: Annotated[Count, at_most(1000)] = 2
    redraws: Annotated[Natural, at_most(100_000)] = 200


@dataclass
class SplitConfig:
    """Shares of a site's images set apart before anything is trained; the rest is the training split."""

    val: Share = 0.1
    test: Share = 0.1
    holdout: Share = 0.25
    min_images: Natural = 20


@dataclass
class ClassifierConfig:
    """A classifier and its optimisation.

    ``logit_adjustment`` is the power of the class shares behind which it is trained
    (:func:`fedkr.learning.classifier.log_shares`).
    """

    arch: str = "resnet14"
    width: Annotated[Count, at_most(1024)] = 16
    norm: Norm = "batch"
    steps: Steps = 500
    batch: Batch = 64
    lr: Positive = 0.1
    weight_decay: NonNegative = 5e-4
    augment: Annotated[str, OneOf("none", "standard", "strong")] = "standard"
    label_smoothing: Annotated[float, Must(lambda x: 0 <= x < 1, "a share, from 0 to below 1")] = 0.0
    mixup: NonNegative = 0.0
    logit_adjustment: Annotated[NonNegative, at_most(2)] = 0.0


@dataclass
class TeacherConfig(ClassifierConfig):
    """The classifier that a site trains on its own private images to label what its generator draws."""

    patience: Count = 4
    evaluations: Annotated[Count, at_most(10_000)] = 10
    keep_by: Annotated[str, OneOf(*KEEP_RULES)] = "accuracy"
    calibrate: bool = False
    single_class: Annotated[str, OneOf("error", "constant")] = "error"


@dataclass
class StudentConfig(ClassifierConfig):
    """The classifier under study: the recipe of every strategy in the comparison.

    ``steps`` are for one site's images: a student of several sites' releases takes as many for each of them.
    ``components`` is of students of releases alone: so many of an image's lowest frequencies are all that
    they see, of colours half as many in each axis.
    """

    components: Annotated[Natural, at_most(128)] = 0
    loss: Annotated[str, OneOf("cross_entropy", "kl")] = "cross_entropy"
    regenerate_every: Count = 1


@dataclass
class GeneratorConfig:
    """A class-conditional generator; ``options`` are checked against the dataclass of its kind."""

    kind: str = "edm"
    steps: Steps = 700
    batch: Batch = 32
    checkpoints: Annotated[Count, at_most(100)] = 3
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class RecycleConfig:
    """Checkpoint optimisation, tuning and what a release holds."""

    search_steps: Steps = 100
    search_images: Count = 512
    search_rungs: Annotated[Count, at_most(100)] = 1
    search_tolerance: NonNegative = 0.0
    leakage_weight: NonNegative = 0.0
    tuning_budget: Annotated[Natural, at_most(100)] = 3
    tune_balances: Annotated[list[Balance], FEW] = field(default_factory=list)
    tune_filters: Annotated[list[Confidence], no_longer_than(10)] = field(default_factory=list)
    metric: Annotated[str, OneOf("accuracy", "auc")] = "accuracy"
    rounds: Annotated[Count, at_most(1000)] = 4
    ratio: Annotated[Positive, at_most(1000)] = 1.0
    exchange: Annotated[str, OneOf("once", "each")] = "once"
    views: Annotated[Count, at_most(100)] = 4
    temperature: Annotated[Positive, at_most(1000)] = 1.0
    balance: Balance = "histogram"
    doubt: Confidence = 0.0
    filter: Confidence = 0.0
    min_class_count: Count = 2
    refuse_collapsed: bool = True

    @property
    def exchanges(self) -> int:
        """How many releases a site makes: one with a slice for each regeneration round, or one each round."""
        return 1 if self.exchange == "once" else self.rounds


@dataclass
class PrivacyConfig:
    """What is promised of everything that is released (group ``privacy``)."""

    mode: Annotated[str, OneOf("off", "dp")] = "off"
    epsilon: Epsilon = 8.0
    delta: Delta = 1e-5

    @property
    def guaranteed(self) -> bool:
        """Whether releases are differentially private."""
        return self.mode == "dp"


@dataclass
class SearchConfig:
    """How opponents of ``fedkr`` are tuned on the sites' val splits (:mod:`fedkr.config.protocol`), and weights shared.

    The first of each list is what is taken where val is too small to choose.
    """

    steps: Annotated[Natural, at_most(10_000_000)] = 0
    rounds: Annotated[Count, at_most(10_000)] = 200
    search_rounds: Annotated[Natural, at_most(10_000)] = 20
    lrs: Annotated[list[Positive], FEW] = field(default_factory=lambda: [0.1, 0.03, 0.3])
    local_epochs: Annotated[list[Annotated[Count, at_most(1000)]], FEW] = field(default_factory=lambda: [5, 2, 10])
    norms: Annotated[list[Norm], FEW] = field(default_factory=lambda: ["batch", "group"])


@dataclass
class DpSgdConfig:
    """The options of ``dp-fedavg`` beside its search, of one setting.

    Attributes:
        clip: the most that the gradient of one unit, an image or a patient, counts for, in its L2 norm.
        batch: units a step, in the mean; all of them at a site that has no more.
    """

    clip: ClipNorm = 1.0
    batch: Batch = 400


@dataclass
class StrategyConfig(SearchConfig):
    """The contestants of the comparison, and how the opponents of ``fedkr`` are tuned.

    ``options`` holds each contestant's own, by name: what its file in the group ``strategy`` says, among them ``kind``
    (its module) and ``driver`` (whether only a simulation can run it).
    """

    compare: Annotated[list[str], FEW] = field(default_factory=lambda: ["local", "fedavg", "fedkr", "centralised"])
    options: dict[str, Any] = field(default_factory=dict)

    def names(self, *, driver: bool) -> list[str]:
        """Return the contestants that the driver of a simulation runs itself, or those of the ServerApp."""
        return [name for name in self.compare if bool(self.options.get(name, {}).get("driver")) == driver]


def least_permutations(sites: int) -> int:
    """Return from how many permutations on the tests of so many sites can be rejected at all.

    Holm's procedure holds the least p-value, 1 / (permutations + 1), against the level over all tests. A hospital
    rounds p-values up to 1, 2 or 5 times a power of ten, so that the least one has to be such a number.
    """
    needed, power = BLIND_TESTS * sites / BLIND_LEVEL, 1
    while 10 * power < needed:
        power *= 10
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= needed * (1 - 1e-9)) - 1


@dataclass
class AuditConfig:
    """Membership-inference audit at the sites."""

    enabled: bool = True
    attacks: Annotated[list[str], FEW] = field(default_factory=lambda: ["loss", "modified-entropy"])
    headline: str = "modified-entropy"
    targets: Annotated[list[str], no_longer_than(64)] = field(
        default_factory=lambda: ["student", "weights", "teacher", "oracle", "release"]
    )
    fprs: list[FalsePositiveRate] = field(default_factory=lambda: [0.01, 0.001])
    bootstrap: Annotated[Count, at_most(100_000)] = 1000
    direct_references: References = 0
    pipeline_references: References = 0
    queries: Annotated[Count, at_most(100)] = 1
    gamma: Annotated[float, Must(lambda x: x >= 1, "RMIA's threshold is 1 or more"), at_most(1e9)] = 1.0
    canaries: Annotated[Natural, at_most(100_000)] = 0
    canary_kinds: list[Annotated[str, OneOf(*CANARY_KINDS)]] = field(default_factory=lambda: list(USUAL_CANARY_KINDS))
    canary_toss: Annotated[Natural, at_most(1_000_000)] = 0
    coins: bool = False
    guesses: Natural = 0
    delta: Annotated[float, Must(lambda x: 0 <= x <= 1, "a probability, well below one in the number of coins")] = 1e-5
    permutations: Annotated[Natural, at_most(100_000)] = 0
    features: Annotated[str, OneOf(PIXELS, EFFICIENTNET_LITE0)] = PIXELS

    def permutations_for(self, sites: int) -> int:
        """Return the permutations of each test that takes no model: as told, else enough for up to 100 sites."""
        return self.permutations or min(max(USUAL_PERMUTATIONS, least_permutations(sites)), MOST_PERMUTATIONS)

    @property
    def canary_channels(self) -> list[str]:
        """The channels of :data:`CANARY_CHANNELS` that canaries are planted for."""
        wanted = {*self.canary_kinds} if self.canaries else set[str]()
        return [channel for channel, kinds in CANARY_CHANNELS.items() if wanted & {*kinds}]

    @property
    def uses_references(self) -> bool:
        """Whether an attack needs reference models, and some are to be trained."""
        return bool(self.direct_references) and any(name in REFERENCE_ATTACKS for name in self.attacks)

    @property
    def uses_population(self) -> bool:
        """Whether an attack compares the candidates with images that no model trained on."""
        return self.uses_references or QUANTILE in self.attacks


@dataclass
class BackendConfig:
    """Where the apps run; never part of a result's identity."""

    kind: Annotated[str, OneOf(*BACKENDS)] = "ray"
    cpus_per_site: Count = 1
    gpus_per_site: NonNegative = 0.0
    cpus: Natural = 0
    address: str = ""
    port: Annotated[Natural, at_most(65535)] = 0
    restarts: Annotated[Natural, at_most(1000)] = 2


# What changes no number: where things lie and run, and how long the server waits.
NO_PART_OF_RESULTS = (
    # Budget and facts end where they made numbers, which are part of results.
    *("backend", "out", "run_dir", "data.root", "data.download", "budget", "facts"),
    *("federation.deadline", "federation.register_deadline"),
)


@dataclass
class Study:
    """One whole study. ``threads`` is set in every process: it changes the last digits of every weight."""

    seed: int = 0
    threads: Count = 1
    device: str = "auto"
    precision: Annotated[str, OneOf("auto", "float32", "bfloat16")] = "auto"
    out: str = "runs"
    run_dir: str = ""
    data_digest: str = ""
    budget: Annotated[str, OneOf(*BUDGETS)] = "standard"
    data: DataConfig = field(default_factory=DataConfig)
    facts: FactsConfig = field(default_factory=FactsConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    recycle: RecycleConfig = field(default_factory=RecycleConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
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
        """Return the name of the run's folder: readable, and all but surely another for studies with other numbers.

        What lies in the folder goes by the whole identity.
        """
        return f"{self.data.name.split('.')[-1]}-{self.partition.kind}-seed{self.seed}-{self.identity()[:10]}"

    def run_folder(self, prefix: str = "") -> Path:
        """Return the absolute run folder: the one named, else one in ``out`` that is named after the study."""
        folder = Path(self.run_dir) if self.run_dir else Path(self.out) / f"{prefix}{self.folder_name()}"
        return from_home(folder).absolute()

    def identity(self) -> str:
        """Return 64 hex digits of all that the numbers depend on (not backend, folders, deadlines, budget or facts).

        Images are known by their content, where ``data_digest`` names it; else by the file that they come from.
        """
        known_by_content = ("data.path",) if self.data_digest else ()
        return fingerprint(self.options(*NO_PART_OF_RESULTS, *known_by_content))
