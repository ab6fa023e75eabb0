"""What the ServerApp reads from a run config: a driver's study, or a Flower user's overrides."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from fedkr.config import LAWS, FactsConfig, Study, by_rule, numbers
from fedkr.errors import UserError
from server.app import deployment_notes, read_study
from server.composition import compose_study

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def context(**run_config):
    config = {name.replace("_", "-"): value for name, value in run_config.items()}
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)


def test_a_drivers_study_is_taken_as_it_is_and_only_moved_to_its_run_folder(tmp_path):
    sent = Study(seed=7)
    study, driven = read_study(context(study=sent.to_json(), run_dir=str(tmp_path), overrides="seed=1"))
    assert driven
    assert (study.identity(), study.run_dir) == (sent.identity(), str(tmp_path))


def test_overrides_compose_a_study_with_absolute_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study, driven = read_study(
        context(overrides="seed=3 'data.classes=[a b,c]' data.root=images", study="", run_dir="")
    )
    assert not driven
    assert (study.seed, study.data.classes, study.data.root) == (3, ["a b", "c"], str(tmp_path / "images"))
    assert study.run_dir == str(tmp_path / "runs" / study.folder_name())
    assert read_study(context(overrides="", run_dir="here"))[0].run_dir == str(tmp_path / "here")


def test_a_tilde_in_a_folder_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    study, _ = read_study(context(overrides="\"data.root='~/images'\" \"data.path='~/own.npz'\"", run_dir="~/run"))
    assert (study.data.root, study.data.path) == (str(tmp_path / "images"), str(tmp_path / "own.npz"))
    assert study.run_dir == str(tmp_path / "run")


def test_a_misspelt_override_is_refused_by_name():
    with pytest.raises(UserError, match=r"federation\.site: no such option"):
        read_study(context(overrides="federation.site=2"))


def test_plain_flwr_run_asks_for_as_many_sites_as_flower_simulates():
    config = tomllib.loads(PYPROJECT.read_text())["tool"]["flwr"]["app"]["config"]
    study, driven = read_study(context(**config))
    assert (driven, study.federation.sites) == (False, 2)


def test_beside_registered_sites_the_servers_own_images_make_no_schedule(tmp_path):
    images, labels = np.zeros((90, 8, 8), np.uint8), np.arange(90) % 3
    np.savez(tmp_path / "own.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    asked = {"overrides": f"dataset=npz data.path={tmp_path}/own.npz", "run_dir": str(tmp_path)}
    assert read_study(context(**asked))[0].facts.images == 90
    with pytest.raises(UserError, match=r"facts\.images=0: say about how many images all sites have"):
        read_study(context(**asked, sites='{"1": "hospital-a"}'))


@pytest.mark.parametrize("overrides", ["", "dataset=bloodmnist", "dataset=bloodmnist data.name=none", "data.name=none"])
def test_no_datasets_own_facts_make_the_schedule_of_registered_sites(overrides, tmp_path):
    beside = {"run_dir": str(tmp_path), "sites": '{"1": "hospital-a"}'}
    with pytest.raises(UserError, match=r"^facts\.images=0: say about how many images all sites have") as caught:
        read_study(context(overrides=overrides, **beside))
    assert "\n" not in str(caught.value)
    study, _ = read_study(context(overrides=f"{overrides} facts.images=900", **beside))
    assert study.facts.images == 900 and numbers(study) == by_rule(study)
    by_hand = " ".join(f"{option}=300" for option in LAWS)
    study, _ = read_study(context(overrides=f"{overrides} {by_hand}", **beside))
    assert set(numbers(study).values()) == {300}


def test_registered_sites_without_a_dataset_have_no_digits_shape(tmp_path):
    asked = {"overrides": "data.name=none facts.images=900", "run_dir": str(tmp_path), "sites": '{"1": "hospital-a"}'}
    assert read_study(context(**asked))[0].facts == FactsConfig(900)


def test_a_run_without_the_oracle_says_so_only_when_it_was_asked_for():
    assert "centralised" in deployment_notes(compose_study([]))[0]
    assert deployment_notes(compose_study(["strategy.compare=[local,fedkr]"])) == []
