"""The coordinator's folder, without any process: what is refused before anything starts."""

import json
import subprocess
import sys
import time

import psutil
import pytest

from fedkr.errors import UserError
from fedkr.network.addresses import read_address
from server.deployment import CoordinatorFolder, register, remove, run, set_up
from simulations.backends.processes import is_running


def test_a_coordinators_folder_is_not_set_up_again_and_no_other_folder_becomes_one(tmp_path):
    with pytest.raises(UserError, match="not empty, and no coordinator's folder"):
        (tmp_path / "notes.txt").write_text("mine")
        set_up(tmp_path, ["127.0.0.1"], "fedkr")
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "bundle").mkdir()
    with pytest.raises(UserError, match="is there already"):
        set_up(tmp_path, ["127.0.0.1"], "fedkr")


@pytest.mark.parametrize(
    "host", ["coordinator.example:8443", "https://coordinator.example", "two words", "", "10.0.0.0/8", "a@b.c"]
)
def test_a_host_that_is_none_leaves_no_folder_behind(tmp_path, host):
    with pytest.raises(UserError, match=f"^{host!r}: no name or address of a machine"):
        set_up(tmp_path / "new", [host], "fedkr")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ('{"success": true, "node-id": 7}', {"8": "hospital-1"}),
        ('done\n{"success": true, "node-id": 7}', {"8": "hospital-1"}),
        ('{"success": false, "error-message": "[code: 24] Node ID not found for account."}', {"8": "hospital-1"}),
        ('{"success": false, "error-message": "Connection to the SuperLink is unavailable."}', None),
        ("", None),
    ],
)
def test_a_site_is_removed_where_flower_says_so_whatever_its_exit_status(tmp_path, monkeypatch, said, left):
    CoordinatorFolder(tmp_path).write_sites({"7": "hospital-0", "8": "hospital-1"})
    answer = subprocess.CompletedProcess([], 0, said, "")
    monkeypatch.setattr(CoordinatorFolder, "flwr", lambda self, *words: answer)
    if left is None:
        with pytest.raises(UserError, match=r"'hospital-0': not removed: .*fedkr server start"):
            remove(tmp_path, "hospital-0")
    else:
        assert remove(tmp_path, "hospital-0") == "7"
    assert CoordinatorFolder(tmp_path).sites == (left or {"7": "hospital-0", "8": "hospital-1"})


def test_an_empty_folder_that_an_administrator_made_becomes_a_coordinators(tmp_path):
    tmp_path.chmod(0o755)
    assert "coordinator.example:8443" in set_up(tmp_path, ["coordinator.example"], "fedkr")
    assert tmp_path.stat().st_mode & 0o777 == 0o700 and CoordinatorFolder(tmp_path).home.is_dir()


def test_a_site_that_is_not_registered_is_not_removed_and_nobody_runs_a_study_over_none(tmp_path):
    CoordinatorFolder(tmp_path).write_sites({"7": "hospital-0"})
    with pytest.raises(UserError, match="'hospital-1': not registered; did you mean 'hospital-0'"):
        remove(tmp_path, "hospital-1")
    CoordinatorFolder(tmp_path).write_sites({})
    with pytest.raises(UserError, match="no site is registered; `fedkr server add"):
        run(tmp_path, ["facts.images=9"], tmp_path / "run")


def test_a_name_is_given_once_and_is_a_sites_name(tmp_path):
    folder = CoordinatorFolder(tmp_path)
    folder.write_sites({"7": "hospital-0"})
    assert folder.sites == {"7": "hospital-0"} and json.loads((tmp_path / "sites.json").read_text()) == folder.sites
    with pytest.raises(UserError, match="taken; registered: hospital-0"):
        register(tmp_path, "hospital-0", tmp_path / "key.pub")
    with pytest.raises(UserError, match="must not begin with a dot or hold a slash"):
        register(tmp_path, "../hospital-1", tmp_path / "key.pub")


@pytest.mark.parametrize("dataset", [[], ["dataset=bloodmnist"]])
def test_a_study_of_hospitals_whose_images_nobody_told_of_starts_nothing(tmp_path, dataset):
    CoordinatorFolder(tmp_path).write_sites({"7": "hospital-0", "8": "hospital-1"})
    with pytest.raises(UserError, match=r"^facts\.images=0: say about how many images all sites have"):
        run(tmp_path, dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "8443", ":8443", "host:", "host:0", "host:65536", "host:x", "https://host:8443"])
def test_an_address_is_a_host_and_a_port(text):
    assert read_address("0.0.0.0:8443") == ("0.0.0.0", 8443)
    with pytest.raises(UserError, match="no HOST:PORT"):
        read_address(text)


OPERATOR = """
import sys, time
from pathlib import Path
from server.deployment import CoordinatorFolder, running
folder = CoordinatorFolder(Path(sys.argv[1]))
folder.home.mkdir()
with running({"gate": [sys.executable, "-S", "-c", "import time; time.sleep(60)"]}, folder, {}) as started:
    print(started["gate"].pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the child of a killed process")
def test_a_coordinator_that_is_killed_takes_its_processes_along(tmp_path):
    operator = subprocess.Popen([sys.executable, "-c", OPERATOR, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    gate = psutil.Process(int(operator.stdout.readline()))
    operator.kill()
    operator.communicate()
    until = time.monotonic() + 10
    while is_running(gate) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_running(gate)
