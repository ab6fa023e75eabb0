"""What ``fedkr site check`` tells the engineer of a site."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from fedkr.config import DataConfig
from fedkr.data import load_source
from fedkr.errors import UserError
from sites.admission import keep_split
from sites.check import check_site
from sites.ledger import Budget, Entry, Ledger
from sites.workspace import read_site_file


def changed(path, **values):
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))
    return path


def test_the_card_tells_what_the_site_holds_and_leaves_nothing_behind(hospital, tmp_path):
    card = check_site(hospital())
    assert json.loads(json.dumps(card)) == card
    assert (card["name"], card["images"], card["test_images"]) == ("st-mary", 93, 12)
    assert (card["size"], card["channels"], card["patients"]) == (8, 1, None)
    assert card["classes"] == {"healthy": 40, "ill": 50, "rare": 3}
    assert sum(card["split"].values()) == 90 and card["classes_left_out"] == ["rare"]
    assert sum(check_site(hospital(min_class_count=1))["split"].values()) == 93
    assert (card["device"], card["threads"], card["problems"]) == ("cpu", 1, [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.npz", "site.yaml"]


def test_the_studies_that_may_run_and_their_limits_are_shown(hospital):
    path = changed(hospital(), studies={"hours": 2, "bounds": {"student.steps": [1, 9]}})
    shown = check_site(path)["studies"]
    assert (shown["hours"], shown["bounds"]["student.steps"], shown["bounds"]["recycle.ratio"]) == (
        2.0,
        [1, 9],
        [0, 10],
    )
    assert check_site(changed(path, studies={"approved": ["0" * 64]}))["studies"]["approved"] == ["0" * 64]


def test_a_policy_that_lets_weights_leave_but_too_few_figures_of_them_is_a_problem(hospital):
    (problem,) = check_site(hospital(allow=["metrics", "weights"], max_models=100))["problems"]
    assert "may ask for figures of 987 models" in problem and "policy.max_models=100" in problem
    assert check_site(hospital(allow=["metrics", "weights"], max_models=987))["problems"] == []


def test_a_split_that_was_another_before_is_a_problem(hospital, tmp_path):
    path = hospital()
    keep_split(read_site_file(path))
    assert check_site(path)["problems"] == []
    assert "take back the change" in check_site(changed(path, split={"seed": 3}))["problems"][0]


def test_a_class_with_few_training_images_is_named(hospital):
    assert check_site(hospital())["classes_left_out"] == ["rare"]
    assert check_site(hospital(min_class_count=1))["classes_left_out"] == []


def test_what_may_leave_follows_the_policy(hospital):
    usual = " ".join(check_site(hospital())["may_leave"])
    assert "20000 synthetic images" in usual
    assert "without exact class counts" in usual
    assert "asks it not to pass it on" in usual
    assert "weights" not in usual
    other = " ".join(check_site(hospital(allow=["weights"], exact_counts=True))["may_leave"])
    assert "weights of a model" in other
    assert "with exact class counts" in other
    assert "synthetic" not in other


def test_the_server_sees_no_counts_unless_the_policy_lets_them_leave(hospital):
    assert "counts" not in check_site(hospital())["server_sees"]


def test_the_server_sees_the_counts_that_the_policy_lets_leave(hospital):
    seen = check_site(hospital(exact_counts=True, min_class_count=1))["server_sees"]
    assert sum(map(sum, seen["counts"].values())) == 93


def test_a_site_that_cannot_be_split_says_why(hospital, tmp_path):
    path = hospital()
    images = np.zeros((9, 8, 8), np.uint8)
    np.savez(tmp_path / "few.npz", train_images=images, train_labels=np.arange(9) % 3)
    card = check_site(changed(path, data={"name": "npz", "path": "few.npz"}))
    assert (card["split"], card["server_sees"]) == (None, None)
    assert len(card["problems"]) == 1
    assert "split.min_images" in card["problems"][0]


def test_a_workspace_that_cannot_be_written_is_a_problem(hospital, tmp_path):
    path = hospital()
    (tmp_path / "work").write_text("a file")
    assert "work: cannot be written" in check_site(path)["problems"][0]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"data": {"name": "npz", "path": "none.npz"}}, "none.npz: no such file"),
        ({"policy": {"allow": ["images"]}}, "policy.allow='images'"),
        ({"polcy": {}}, "polcy: no such option"),
        ({"device": "cuda"}, "no CUDA GPU"),
        ({"device": "gpu"}, "device='gpu': unknown; one of: auto, cpu, cuda, cuda:N"),
        ({"device": "meta"}, "device='meta': unknown"),
    ],
)
def test_a_mistake_in_the_site_file_is_one_line(hospital, monkeypatch, values, line):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=line):
        check_site(changed(hospital(), **values))


def images_of(path, labels, side=8, **arrays):
    images = np.random.default_rng(0).integers(0, 256, (len(labels), side, side), dtype=np.uint8)
    np.savez(path.parent / "images.npz", train_images=images, train_labels=labels, **arrays)
    return path


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (np.zeros(90, int), r"train has images of 1 class\(es\) \(healthy\)"),
        (np.repeat([0, 1, 2], [60, 5, 5]), r"train has images of 1 class\(es\) \(healthy\).*lower it"),
        (np.arange(27) % 3, "no image is left in train"),
    ],
)
def test_a_site_of_one_class_or_of_too_few_images_a_class_is_a_problem(hospital, labels, line):
    (problem,) = check_site(images_of(hospital(), labels))["problems"]
    assert re.search(line, problem)


def test_figures_that_will_not_leave_for_too_few_images_are_told(hospital):
    told = check_site(hospital(min_evaluated=50))["warnings"]
    assert len([line for line in told if "fewer than policy.min_evaluated=50" in line]) == 3, "val, test, and an audit"
    assert not any("fewer than" in line for line in check_site(hospital(min_evaluated=1))["warnings"])
    assert not any(
        "fewer than" in line for line in check_site(hospital(min_evaluated=50, allow=["release"]))["warnings"]
    )
    assert "policy.allow is empty: nothing leaves but this site's card" in check_site(hospital(allow=[]))["warnings"]


def test_what_is_spent_of_the_budgets_is_shown(hospital, tmp_path):
    assert check_site(hospital())["spent"] == {"images": 0, "max_images": 20000, "epsilon": 0.0, "max_epsilon": 10.0}
    budget = Budget(9, 9, images=20000)
    Ledger(tmp_path / "site-records").write(Entry("s", "any", "train.release", release="d", images=40), budget)
    assert check_site(hospital())["spent"]["images"] == 40


def test_records_that_are_not_whole_are_a_problem_beside_the_others(hospital, tmp_path):
    path = hospital()
    Ledger(tmp_path / "site-records").write(Entry("s", "any", "train.release"), Budget(9, 9))
    (tmp_path / "site-records" / "ledger.jsonl").unlink()
    card = check_site(path)
    assert card["spent"] is None and "ledger.jsonl: is gone" in card["problems"][0] and card["images"] == 93


def test_folders_that_take_no_files_and_a_full_disk_are_problems(hospital, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("os.access", lambda folder, rights: False)
        workspace, records = check_site(hospital())["problems"]
    assert "work: cannot be written by this account; name another workspace" in workspace
    assert "site-records: cannot be written by this account; name another records" in records
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10**8))
    assert "0.1 GB are free there" in check_site(hospital())["problems"][0]


def test_a_connection_that_is_not_whole_is_a_problem(hospital):
    path = changed(hospital(), connection={"coordinator": "a:8443"})
    assert "connection.authority is missing" in check_site(path)["problems"][0]


@pytest.mark.parametrize(
    ("name", "line"),
    [("n" * 121, "a name of 121 characters"), (" ", "no class's name")],
)
def test_a_class_name_that_no_card_can_carry_is_refused_by_check_and_study_alike(hospital, name, line):
    path = images_of(hospital(), np.arange(90) % 2)
    with pytest.raises(UserError, match=line):
        check_site(changed(path, data={"name": "npz", "path": "images.npz", "classes": [name, "b"]}))
    with pytest.raises(UserError, match=line):
        load_source(DataConfig(name="npz", path=str(path.parent / "images.npz"), classes=[name, "b"]))
    assert load_source(DataConfig(name="npz", path=str(path.parent / "images.npz"), classes=["n" * 120, "b"]))


@pytest.mark.parametrize("value", ["123", "null", "on", "1.5"])
def test_a_path_that_yaml_takes_for_something_else_says_how_to_write_it(hospital, value):
    path = hospital()
    path.write_text(path.read_text().replace("path: images.npz", f"path: {value}"))
    with pytest.raises(UserError, match=r"data\.path=.*expected str, got .*needs quotes"):
        check_site(path)
    path.write_text(path.read_text().replace(f"path: {value}", f"path: '{value}'"))
    with pytest.raises(UserError, match=f"{value}: no such file"):
        check_site(path)
