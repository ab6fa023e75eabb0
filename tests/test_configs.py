"""The configuration: documented, composable, and strict about what it is given."""

import dataclasses
import importlib
import itertools
import pkgutil
import re
from pathlib import Path
from typing import Any

import medmnist
import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir, initialize_config_module

import configs
from fedkr.config import LAWS, DataConfig, FactsConfig, Study, by_rule, numbers, site_facts
from fedkr.errors import UserError
from fedkr.generators.base import BUILT_IN
from server import strategies
from server.composition import compose_study, count_facts, register_schema, study_from_config
from server.contestant import check_contestants

ROOT = Path(configs.__file__).parent
GROUPS = ("dataset", "partition", "generator", "teacher", "student", "strategy", "privacy", "audit", "backend")
CHOICES = [(group, file.stem) for group in GROUPS for file in sorted((ROOT / group).glob("*.yaml"))]
# Own images, those of hospitals, and a set that is refused.
WITHOUT_FACTS = ("npz", "folder", "table", "none", "chestmnist")
# Of generators: the kind that a file sets up.
PRESETS = {"edm-dp": "edm", "edm-rare": "edm"}
MEDMNIST = "path derma oct pneumonia retina breast blood tissue organa organc organs"


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = leaves(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
        found |= inner
    return found


def test_config_yaml_documents_each_field_of_the_study_with_its_default() -> None:
    documented = yaml.safe_load((ROOT / "config.yaml").read_text())
    del documented["defaults"]
    by_rule_alone = dict.fromkeys(LAWS, 0) | dict.fromkeys(("teacher.arch", "student.arch"), "auto")
    assert leaves(documented) == leaves(dataclasses.asdict(Study())) | by_rule_alone


def test_each_option_in_config_yaml_has_a_comment() -> None:
    lines = (ROOT / "config.yaml").read_text().splitlines()
    options = itertools.dropwhile(lambda line: not line.startswith("seed:"), lines)
    bare = [line for line in options if re.match(r" *\w+: +\S", line) and " # " not in line]
    assert bare == []


def test_composing_with_no_overrides_gives_the_defaults_of_the_dataclasses() -> None:
    study = compose_study([])
    study.generator.options, study.strategy.options, study.facts = {}, {}, FactsConfig()
    assert study == Study()


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=["=".join(choice) for choice in CHOICES])
def test_each_choice_composes_to_a_valid_study(group: str, choice: str) -> None:
    named = f"strategy.compare=[{choice}]" if group == "strategy" else f"{group}={choice}"
    told = ["facts.images=900"] if choice in WITHOUT_FACTS else []
    study = compose_study([named, *told], count=None)
    if group in ("partition", "generator", "backend"):
        assert getattr(study, group).kind == PRESETS.get(choice, choice)
    if group == "dataset":
        assert study.data.name == choice


@pytest.mark.parametrize("name", [f"{name}mnist" for name in MEDMNIST.split()])
def test_a_medmnist_sets_facts_are_those_that_it_publishes(name: str) -> None:
    published, told = medmnist.INFO[name], yaml.safe_load((ROOT / "dataset" / f"{name}.yaml").read_text())["facts"]
    splits = published["n_samples"]
    assert told["images"] == splits["train"] + splits["val"]
    shape = told["side"], told["channels"], told["classes"]
    assert shape == (28, published["n_channels"], len(published["label"]))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("cifar10", FactsConfig(50_000, 32, 3, 10)),
        ("cifar100", FactsConfig(50_000, 32, 3, 100)),
        ("fashionmnist", FactsConfig(60_000, 28, 1, 10)),
    ],
)
def test_the_facts_of_other_public_sets_are_those_of_their_published_training_split(
    name: str, published: FactsConfig
) -> None:
    assert compose_study([f"dataset={name}"]).facts == published


def test_options_of_published_figures_that_no_rule_makes_are_kept() -> None:
    assert compose_study(["dataset=pneumoniamnist"]).recycle.rounds == 3
    register_schema()
    with initialize_config_module("configs", version_base="1.3"):
        study = study_from_config(compose("kr", overrides=["dataset=digits"]))
    assert study.recycle.tune_balances == []


def test_the_facts_of_digits_are_those_of_its_images() -> None:
    told = yaml.safe_load((ROOT / "dataset" / "digits.yaml").read_text())["facts"]
    assert FactsConfig(**told) == count_facts(DataConfig())


@pytest.mark.parametrize("dataset", [file.stem for file in sorted((ROOT / "kr").glob("*.yaml"))])
def test_what_a_dataset_needs_for_one_site_composes_to_a_valid_study(dataset: str) -> None:
    register_schema()
    with initialize_config_module("configs", version_base="1.3"):
        study = study_from_config(compose("kr", overrides=[f"dataset={dataset}"]))
    needed = leaves(yaml.safe_load((ROOT / "kr" / f"{dataset}.yaml").read_text()))
    assert (study.data.name, study.federation.sites, study.budget) == (dataset, 1, "thorough")
    assert needed.items() <= leaves(dataclasses.asdict(study)).items()
    assert by_rule(study) == numbers(study)


def test_every_single_label_medmnist_set_is_a_choice() -> None:
    wanted = {f"{name}mnist" for name in MEDMNIST.split()}
    assert wanted <= {choice for group, choice in CHOICES if group == "dataset"}


@pytest.mark.parametrize("kind", BUILT_IN)
def test_a_generators_file_lists_just_the_options_that_its_module_has(kind: str) -> None:
    listed = yaml.safe_load((ROOT / "generator" / f"{kind}.yaml").read_text())["options"]
    options = importlib.import_module(f"fedkr.generators.{kind}").Options
    assert set(listed) == {field.name for field in dataclasses.fields(options)}


def test_a_preset_has_all_options_of_its_kind_and_changes_some() -> None:
    usual, private, rare = (
        compose_study([f"generator={name}", "dataset=digits"]).generator for name in ("edm", "edm-dp", "edm-rare")
    )
    assert usual.options.keys() == private.options.keys() == rare.options.keys()
    assert (private.steps, private.batch, private.options["width"]) == (400, 512, 16)
    assert (usual.options["class_power"], private.options["class_power"]) == (0.5, 1.0)
    changed = {"scale_shift": True, "guidance": 2.0}
    assert (rare.steps, rare.options) == (usual.steps, usual.options | changed)


def test_students_with_a_guarantee_see_what_their_releases_are_drawn_of() -> None:
    for given, seen in (
        ([], 48),
        (["generator.options.components=24"], 24),
        (["generator=edm-dp"], 0),
        (["student.components=0"], 0),
    ):
        assert compose_study(["dataset=digits", "privacy=dp", *given]).student.components == seen
    assert compose_study(["dataset=digits"]).student.components == 0


def test_the_command_line_wins_over_the_rule() -> None:
    by_hand = {option: 7 + place for place, option in enumerate(LAWS)}
    study = compose_study(["dataset=bloodmnist", *(f"{option}={number}" for option, number in by_hand.items())])
    assert numbers(study) == by_hand
    study = compose_study(["teacher.steps=7", "dataset=bloodmnist", "budget=quick"])
    assert numbers(study) == by_rule(study) | {"teacher.steps": 7}


def test_a_dataset_file_may_win_over_the_rule_too(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    own = "# @package _global_\ndata: {name: mine}\nfacts: {images: 900}\nteacher: {steps: 123}\n"
    (tmp_path / "dataset" / "mine.yaml").write_text(own)
    register_schema()
    with initialize_config_dir(str(ROOT), version_base="1.3"):
        searched = f"hydra.searchpath=[file://{tmp_path}]"
        study = study_from_config(compose("config", overrides=[searched, "dataset=mine"]))
    assert numbers(study) == by_rule(study) | {"teacher.steps": 123}


def test_own_images_are_counted_where_the_study_is_composed(tmp_path: Path) -> None:
    images, labels = np.zeros((90, 12, 12, 3), np.uint8), np.arange(90) % 3
    images[:, :6] = 200
    np.savez(tmp_path / "own.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    study = compose_study(["dataset=npz", f"data.path={tmp_path}/own.npz", "federation.sites=2"])
    assert study.facts == FactsConfig(90, 12, 3, 3)
    assert str(site_facts(study)) == "45 colour images a site of 12x12 in 3 classes"
    assert numbers(study) == by_rule(study)


def test_no_data_are_read_for_a_study_with_another_mistake() -> None:
    with pytest.raises(UserError, match=r"^recycle\.ratio=-1\.0: must be above 0"):
        compose_study(["dataset=npz", "data.path=nothing.npz", "recycle.ratio=-1"])


def test_a_server_of_hospitals_says_how_many_images_they_have() -> None:
    with pytest.raises(UserError, match=r"^facts\.images=0: say about how many .*; or set generator\.steps, teacher"):
        compose_study(["dataset=none"], count=None)


def test_group_and_option_go_together() -> None:
    study = compose_study(["dataset=breastmnist", "data.root=../x", "partition=dirichlet", "partition.alpha=0.1"])
    assert (study.data.name, study.data.root, study.partition.alpha) == ("breastmnist", "../x", 0.1)


def test_each_contestant_brings_the_options_of_its_own_file() -> None:
    study = compose_study(["strategy.compare=[fedavg,fedprox,fedadam,fedkr]"])
    assert study.strategy.options["fedprox"] == {"proximal_mu": 0.01}
    assert study.strategy.options["fedkr"] == {"quarantine": True, "labels": "released"}
    assert set(study.strategy.options) == {"fedprox", "fedadam", "fedkr"}
    stronger = compose_study(["strategy.compare=[fedprox]", "strategy.options.fedprox.proximal_mu=1"])
    assert stronger.strategy.options == {"fedprox": {"proximal_mu": 1}}


@pytest.mark.parametrize("name", [choice for group, choice in CHOICES if group == "strategy"])
def test_a_contestants_file_lists_only_options_that_its_module_has(name: str) -> None:
    check_contestants(compose_study([f"strategy.compare=[{name}]"]))


def test_each_contestant_of_the_server_has_a_file() -> None:
    modules = {module.name for module in pkgutil.iter_modules(strategies.__path__)}
    files = [ROOT / "strategy" / f"{choice}.yaml" for group, choice in CHOICES if group == "strategy"]
    assert modules <= {(yaml.safe_load(file.read_text()) or {}).get("kind", file.stem) for file in files}


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("partition.alhpa=0.3", "partition.alhpa: no such option; did you mean 'alpha'?"),
        ("sede=1", "sede: no such option; did you mean 'seed'?"),
        ("datset=digits", "datset: no such option; did you mean 'dataset'?"),
        ("dataset.root=x", "dataset: no such option; did you mean 'data'?"),
        ("dataset=brestmnist", "dataset=brestmnist: no such choice; did you mean 'breastmnist'?"),
        ("strategy=fedprox", "strategy=...: not a choice of one; name any number in strategy.compare=[local,fedprox,"),
        ("strategy.compare=[fedprx]", "strategy.compare: 'fedprx': unknown strategy; did you mean 'fedprox'?"),
        ("strategy.options.fedavgg.lrs=[1]", "strategy.options='fedavgg': unknown value; did you mean 'fedavg'?"),
        ("generator=gan", "generator=gan: no such choice; one of: biggan_deep, edm, edm-dp, edm-rare"),
        ("generator.options.widht=3", "generator.options.widht: no such option; did you mean 'width'?"),
        ("+partition.alhpa=1", "partition.alhpa: no such option; did you mean 'alpha'?"),
        ("partition.alpha=abc", "partition.alpha: Value 'abc' of type 'str' could not be converted to Float"),
        ("seed=1.5", "seed: Value '1.5' of type 'float' could not be converted to Integer"),
        ("strategy.lrs=0.1", "strategy.lrs: expected a list, as in strategy.lrs=[a,b]"),
        ("federation=3", "federation: a group of options, not one value; set its options one by one"),
        ("data.root=${nothing}", "data.root: Interpolation key 'nothing' not found"),
        ("hello", "'hello': not an override; write option=value"),
        ("seed=[1", "'seed=[1': not an override; write option=value"),
        ("dataset=null", "Config group override must be a string or a list"),
        ("budget=quik", "budget='quik': unknown value; did you mean 'quick'?"),
        ("student.steps=-1", "student.steps=-1: must be at least 1"),
        ("partition.kind=irid", "partition.kind='irid': unknown value; did you mean 'iid'?"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_it(override: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_study([override])
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_composition_leaves_hydra_ready_for_the_next_one() -> None:
    with pytest.raises(UserError):
        compose_study(["sede=1"])
    assert compose_study(["seed=1"]).seed == 1
