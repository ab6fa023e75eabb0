"""Composition: from overrides on a command line, or in Flower's run config, to one checked study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    InterpolationKeyError,
    OmegaConfBaseException,
)

from fedkr.config import DataConfig, FactsConfig, Study, nearest, read_dataclass, scheduled
from fedkr.config.schedule import Count
from fedkr.errors import UserError
from server.overrides import option_of, with_texts

CONFIG_MODULE = "configs"
CONFIG_NAME = "config"
# The group whose files are read by the names in strategy.compare, not by a choice.
CONTESTANTS = "strategy"
# The one group whose name is not that of the node it fills.
DATASET_GROUP = "dataset"


def count_facts(data: DataConfig) -> FactsConfig:
    """Read a dataset and return what a schedule is made of; raise :class:`UserError` where it cannot be read."""
    # Imported here: most studies compose without any data, and much faster.
    from fedkr.data import counted_facts, load_source

    return counted_facts(load_source(data.located()))


def register_schema() -> None:
    """Tell Hydra the types of all options, under the name that ``configs/config.yaml`` starts from."""
    schema = OmegaConf.structured(Study)
    # A contestant's options are known when its file is read, which happens after the overrides are applied.
    OmegaConf.set_struct(schema.strategy.options, False)
    ConfigStore.instance().store(name="study_schema", node=schema)


def compose_study(overrides: Sequence[str], count: Count | None = count_facts) -> Study:
    """Compose and check a study from overrides such as ``["dataset=digits", "seed=1"]``.

    Args:
        overrides: as on a command line.
        count: counts images of which no file says how many there are, where a schedule needs that; None where those
            that can be read here are not the sites'.

    Raises:
        UserError: an unknown group, choice or option, a value of another type, or an override that cannot be parsed.
    """
    register_schema()
    with one_line_errors(), initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        return study_from_config(compose(CONFIG_NAME, overrides=with_texts(overrides)), count)


def compose_for_hospitals(overrides: Sequence[str]) -> Study:
    """Compose and check a study over registered sites, whose images no file here tells of and nobody here can count.

    How many they have, the overrides say (``facts.images``), or they set all numbers; a dataset's own file does not.

    Raises:
        UserError: as :func:`compose_study`; or something is left to the rule, and no override says how many there are.
    """
    named = {option_of(override) for override in overrides}
    no_dataset = [] if DATASET_GROUP in named else [f"{DATASET_GROUP}=none"]
    not_told = [] if named & {"facts", "facts.images"} else ["facts.images=0"]
    return compose_study([*no_dataset, *overrides, *not_told], count=None)


def study_from_config(config: DictConfig, count: Count | None = count_facts) -> Study:
    """Turn a composed configuration into a checked study, while Hydra is still initialised with its search path.

    What it leaves to the rule is written out, as in :func:`compose_study`.

    Raises:
        UserError: a configuration that no run could use.
    """
    with one_line_errors():
        _read_contestants(config.strategy)
        values = OmegaConf.to_container(config, resolve=True)
    try:
        study = read_dataclass(Study, values, "study")
    except UserError as error:
        raise UserError(str(error).removeprefix("study.")) from None
    return scheduled(study, count)


def _read_contestants(strategy: DictConfig) -> None:
    """Put what each contestant's file says under the options that the overrides gave it."""
    for name in strategy.compare:
        given = strategy.options.get(name, DictConfig({}))
        if isinstance(given, DictConfig) and (options := OmegaConf.merge(_file_of(name, given), given)):
            strategy.options[name] = options


def _file_of(contestant: str, given: DictConfig) -> DictConfig:
    """Return a contestant's file; one whose module (``kind``) is among the options that it was given needs none."""
    loader = GlobalHydra.instance().config_loader()
    try:
        return _composed(contestant, tuple(str(folder.path) for folder in loader.get_search_path().get_path()))
    except MissingConfigException:
        if "kind" in given:
            return DictConfig({})
        known = loader.get_group_options(CONTESTANTS)
        raise UserError(f"strategy.compare: {contestant!r}: unknown strategy{nearest(contestant, known)}") from None


@cache
def _composed(contestant: str, search_path: tuple[str, ...]) -> DictConfig:
    """Compose a contestant's file, once for all studies of a process that are composed over the same search path.

    A composition takes Hydra a tenth of a second, and a sweep has many studies. To be read, not to be changed.
    """
    return DictConfig(compose(f"{CONTESTANTS}/{contestant}").get(CONTESTANTS) or {})


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into a :class:`UserError` of one line.

    ``ValueError`` is among them: Hydra raises it bare for flags that exclude each other and for a null choice.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_explain(error)) from error


def _explain(error: Exception) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.partition("/")
        return f"{group}={choice}: no such choice{nearest(choice, error.options)}"
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r}: not an override; write option=value, as in partition.alpha=0.1 or seed=1, and put "
            """texts of a list in quotes, as in 'data.classes=["größe","a, b"]'"""
        )
    if isinstance(error, ConfigCompositionException) and f"'{CONTESTANTS}'" in str(error):
        return f"{CONTESTANTS}=...: not a choice of one; name any number in {CONTESTANTS}.compare=[local,fedprox,fedkr]"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.parent_node is not None:
        return _explain_unknown(cause)
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return _explain_value(cause)
    return " ".join(str(error).split())


def _explain_unknown(error: ConfigAttributeError | ConfigKeyError) -> str:
    known = {str(key) for key in error.parent_node}
    if "." not in str(error.full_key):
        known |= {DATASET_GROUP}
    return f"{error.full_key}: no such option{nearest(str(error.key), known - {str(error.key)})}"


def _explain_value(error: OmegaConfBaseException) -> str:
    node = None
    if isinstance(error.parent_node, DictConfig):
        node = OmegaConf.select(error.parent_node, str(error.key), throw_on_resolution_failure=False)
    if isinstance(error, (InterpolationKeyError, GrammarParseError)):
        return rf"{error.full_key}: {str(error).splitlines()[0]}; write \${{ where a text itself holds ${{"
    if isinstance(node, ListConfig):
        return f"{error.full_key}: expected a list, as in {error.full_key}=[a,b]"
    if isinstance(node, DictConfig) and len(node):
        example = f"{error.full_key}.{next(iter(node))!s}=..."
        return f"{error.full_key}: a group of options, not one value; set its options one by one, as in {example}"
    return f"{error.full_key}: {str(error).splitlines()[0]}"
