"""The backends that start Flower's processes, for real, with two tiny apps."""

import json
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml

from fedkr.config import Study
from fedkr.errors import StudyFailedError, UserError
from fedkr.network.bundle import run_config, write_bundle
from fedkr.network.certificates import make_node_key
from fedkr.network.processes import usable_port, write_connection
from simulations.backends.deploy import Network, SuperNodes
from simulations.backends.home import FlowerHome
from simulations.backends.processes import users_of
from simulations.backends.ray import RayBackend
from simulations.backends.superlink import choose_port

pytestmark = pytest.mark.alone(minutes=2)

APP = Path(__file__).with_name("tiny_app.py")


def hide_behind_a_proxy(monkeypatch):
    """Hospitals' machines reach the outside through a proxy; this one shows every call that should not go there."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")


@pytest.fixture(autouse=True)
def behind_a_proxy_that_does_not_answer(monkeypatch):
    hide_behind_a_proxy(monkeypatch)


def study_that(sites=2, restarts=0, **options):
    study = Study()
    study.federation.sites, study.backend.restarts, study.generator.options = sites, restarts, options
    return study


def sites_that_answered(run_dir):
    return json.loads((run_dir / "server" / "sites.json").read_text())


def test_a_killed_superlink_ends_the_run_within_seconds(tmp_path):
    def kill_when_started():
        while not (tmp_path / "server" / "started").exists():
            time.sleep(0.1)
        home = Path(json.loads((tmp_path / "flower" / "home.json").read_text())["home"])
        for process in users_of(home):
            if any(word.endswith("flower-superlink") for word in process.cmdline()):
                killed.append((home, time.monotonic()))
                process.kill()

    killed: list[tuple[Path, float]] = []
    study = study_that(wait=True)
    killer = threading.Thread(target=kill_when_started, daemon=True)
    killer.start()
    with pytest.raises(StudyFailedError, match="the SuperLink ended by itself, exit status -9") as failed:
        RayBackend(study.backend, APP).run(study, tmp_path)
    ((home, moment),) = killed
    assert failed.value.restart
    assert time.monotonic() - moment < 10
    assert not home.exists() and not users_of(home)


def site_folder(folder):
    """A site's folder with as much of a site file as its SuperNode needs."""
    folder.mkdir()
    site = {"name": folder.name, "workspace": "work", "data": {"name": "npz"}}
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    return folder


def flwr_of(home, network, address, *arguments):
    """Run Flower's command line as somebody who reaches an address and has the public certificate."""
    own = home.path / f"somebody-{time.monotonic_ns()}"
    own.mkdir()
    write_connection(own, "net", address, network.tls.authority)
    return subprocess.run(
        ["flwr", *arguments], env=home.environment(FLWR_HOME=str(own)), cwd=own, text=True, capture_output=True
    )


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A coordinator of loopback with the tiny app's signed bundle, two sites, and a stranger that nobody registered."""
    folder = tmp_path_factory.mktemp("network")
    with pytest.MonkeyPatch.context() as patch:
        hide_behind_a_proxy(patch)
        with FlowerHome(study_that(), folder) as home:
            network = Network(home, APP, usable_port())
            nodes = SuperNodes(home, network)
            stranger = site_folder(folder / "site-2")
            unknown = nodes.start(stranger, make_node_key(stranger, "node"))
            nodes.register_and_start([site_folder(folder / f"site-{site}") for site in range(2)])
            yield home, network, nodes, unknown


def test_a_deployment_takes_registered_nodes_and_refuses_a_stranger(network):
    home, coordinator, nodes, stranger = network
    coordinator.run(study_that(linger=2), nodes, least=2)
    assert sites_that_answered(home.run_dir) == [0, 1]
    assert stranger.poll() not in (None, 0)
    assert sorted(nodes.names.values()) == ["site-0", "site-1"]


def test_who_reaches_the_public_port_with_the_public_certificate_cannot_use_the_control_api(network, tmp_path):
    home, coordinator, nodes, _ = network
    app, key = write_bundle(tmp_path / "mine", APP), make_node_key(tmp_path, "mine-key").public
    for command in (["run", str(app), "net"], ["supernode", "register", str(key), "net"], ["ls", "net"]):
        answer = flwr_of(home, coordinator, coordinator.address, *command)
        assert "403" in answer.stdout + answer.stderr and "successfully" not in answer.stdout
    runs = flwr_of(home, coordinator, coordinator.link.address, "ls", "net", "--format", "json")
    assert [run["status"] for run in json.loads(runs.stdout)["runs"]] == ["finished:completed"]
    known = flwr_of(home, coordinator, coordinator.link.address, "supernode", "ls", "net", "--format", "json")
    assert {str(node["node-id"]) for node in json.loads(known.stdout)["nodes"]} == set(nodes.names)


def test_an_unsigned_bundle_runs_at_no_site_even_when_it_is_started_at_the_superlink_itself(network, tmp_path):
    home, coordinator, nodes, _ = network
    (home.run_dir / "server" / "sites.json").unlink(missing_ok=True)
    with pytest.raises(StudyFailedError):
        app = write_bundle(tmp_path / "unsigned", APP)
        coordinator.link.run(str(app), run_config(study_that(), home.run_dir), watch=lambda: nodes.check(2))
    assert not (home.run_dir / "server" / "sites.json").exists()
    for site in nodes.running:
        assert "The FAB could not be verified" in (home.logs / f"{site}.log").read_text()


def test_a_dead_supernode_ends_the_run_when_too_few_are_left(network):
    _, _, nodes, _ = network
    nodes.running["site-0"].kill()
    nodes.running["site-0"].wait(5)
    with pytest.raises(StudyFailedError, match=r"site-0: its SuperNode ended by itself, exit status -9 .*site-0\.log"):
        nodes.check(2)
    nodes.check(1)


def test_a_port_in_use_is_refused_with_the_remedy():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"backend\.port={port}: .*in use.*backend\.port=0"):
            choose_port(port)
    assert choose_port(0) > 0


@pytest.mark.parametrize(("field", "value"), [("cpus_per_site", 4096), ("gpus_per_site", 64.0)])
def test_resources_that_the_machine_has_not_are_refused(field, value):
    study = Study()
    setattr(study.backend, field, value)
    with pytest.raises(UserError, match=rf"backend\.{field}={value}: "):
        RayBackend(study.backend, APP)
