"""The study: its options as dataclasses, their reading and their checks."""

from fedkr.config.checks import SEARCH_OPTIONS, check_search, check_shares, check_study, own_search, parse_study
from fedkr.config.constraints import (
    Count,
    Must,
    Natural,
    NonNegative,
    OneOf,
    Positive,
    at_most,
    check_values,
    multiple_of,
    no_longer_than,
    one_of,
)
from fedkr.config.reading import nearest, read_dataclass
from fedkr.config.schema import (
    ATTACKS,
    AUDIT_TARGETS,
    BACKENDS,
    CANARY_KINDS,
    KEEP_RULES,
    LEAST_REFERENCES,
    NO_PART_OF_RESULTS,
    QUERY_ATTACKS,
    REFERENCE_ATTACKS,
    RELEASE_ATTACKS,
    THRESHOLD_ATTACKS,
    AuditConfig,
    BackendConfig,
    ClassifierConfig,
    DataConfig,
    FederationConfig,
    GeneratorConfig,
    PartitionConfig,
    RecycleConfig,
    SearchConfig,
    SplitConfig,
    StrategyConfig,
    StudentConfig,
    Study,
    TeacherConfig,
)
