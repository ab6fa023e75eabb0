"""The backends that start Flower's processes, for real, with two tiny apps."""

import json
import socket
import threading
import time
from pathlib import Path

import pytest

from fedkr.config import Study
from fedkr.errors import StudyFailedError, UserError
from simulations.backends import certificates
from simulations.backends.bundle import write_toml
from simulations.backends.deploy import SuperNodes, make_tls
from simulations.backends.home import FlowerHome
from simulations.backends.processes import users_of
from simulations.backends.ray import RayBackend
from simulations.backends.superlink import SuperLink, choose_port

pytestmark = pytest.mark.alone

APP = Path(__file__).with_name("tiny_app.py")


@pytest.fixture(autouse=True)
def behind_a_proxy_that_does_not_answer(monkeypatch):
    """Hospitals' machines reach the outside through a proxy; this one shows every call that should not go there."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")


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


def test_a_deployment_takes_registered_nodes_and_refuses_a_stranger(tmp_path):
    study = study_that(linger=2)
    with FlowerHome(study, tmp_path) as home:
        transport = make_tls(tmp_path / "deploy")
        link = SuperLink(home, choose_port(), transport, home.environment())
        folders = [tmp_path / f"site-{site}" for site in range(3)]
        for folder in folders:
            folder.mkdir()
            write_toml(folder / "node.toml", {"site-file": str(folder / "site.yaml")})
        nodes = SuperNodes(home, link, transport)
        stranger = nodes.start(folders[2], certificates.make_node_key(folders[2], "node"))
        nodes.register_and_start(folders[:2])
        link.run(study, APP, federation="", watch=lambda: nodes.check(2))
        assert stranger.poll() not in (None, 0)
        nodes.running["site-0"].kill()
        nodes.running["site-0"].wait(5)
        with pytest.raises(
            StudyFailedError, match=r"site-0: its SuperNode ended by itself, exit status -9 .*site-0\.log"
        ):
            nodes.check(2)
        nodes.check(1)
    assert sites_that_answered(tmp_path) == [0, 1]


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
