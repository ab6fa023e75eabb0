"""A deployment as sites/README.md shows it: every command by hand, and a log of every name that is looked up."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest
import yaml

from fedkr.config import Study
from fedkr.network.processes import usable_port
from simulations.backends.site_folder import write_site_folders

pytestmark = pytest.mark.alone(minutes=1)

# Loaded by every Python process of the test before anything else.
NOTE_LOOKUPS = """
import os, socket
def noting(look_up):
    def noted(host, *rest, **named):
        with open(os.environ["LOOKUPS"], "a") as log:
            print(host, file=log)
        return look_up(host, *rest, **named)
    return noted
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    setattr(socket, name, noting(getattr(socket, name)))
"""
STUDY = (
    "facts.images=300 strategy.compare=[fedavg] audit.enabled=false student.arch=resnet8 student.width=4 "
    "strategy.rounds=1 strategy.search_rounds=0 strategy.lrs=[0.1] strategy.local_epochs=[1] strategy.norms=[batch] "
    "strategy.steps=4 device=cpu"
)


@pytest.fixture
def environment(tmp_path):
    (tmp_path / "noting").mkdir()
    (tmp_path / "noting" / "sitecustomize.py").write_text(NOTE_LOOKUPS)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "noting"), "LOOKUPS": str(tmp_path / "lookups")}


@pytest.fixture
def fedkr(environment, tmp_path):
    """Run a command to its end, or with ``stay`` start one that ends with the test."""
    with contextlib.ExitStack() as stack:

        def fedkr(*words, stay=False, **extra):
            command = [sys.executable, "-m", "fedkr.cli", *map(str, words)]
            options = {"cwd": tmp_path, "env": environment | extra, "text": True}
            if stay:
                with (tmp_path / f"{words[1]}-{usable_port()}.log").open("w") as log:
                    process = subprocess.Popen(command, stdout=log, stderr=log, **options)
                stack.callback(process.wait)
                stack.callback(process.terminate)
                return process
            return subprocess.run(command, capture_output=True, **options)

        yield fedkr


def wait_until_listening(port, process):
    while True:
        assert process.poll() is None
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.1)


def wait_until_said(log, pattern, times=1):
    until = time.monotonic() + 180  # ends a hang; on a busy machine what is waited for took over a minute
    while len(re.findall(pattern, log.read_text())) < times:
        assert time.monotonic() < until, log.read_text()[-2000:]
        time.sleep(0.1)


def test_the_documented_commands_make_a_closed_network_in_which_a_study_runs(fedkr, tmp_path):
    study = Study()
    study.federation.sites, study.data.limit = 2, 300
    sites, gate = write_site_folders(study, tmp_path / "data"), usable_port()

    made = fedkr("server", "init", "coordinator", "127.0.0.1")
    assert made.returncode == 0, made.stderr
    server = fedkr("server", "start", "coordinator", "--listen", f"127.0.0.1:{gate}", stay=True)
    wait_until_listening(gate, server)

    for number, folder in enumerate(sites):
        assert fedkr("site", "key", folder).stdout.strip() == str(folder / "site.key.pub")
        added = fedkr("server", "add", "coordinator", f"hospital-{number}", folder / "site.key.pub")
        assert added.returncode == 0, added.stderr
        site = yaml.safe_load((folder / "site.yaml").read_text()) | yaml.safe_load(made.stdout)
        own = {"coordinator": f"127.0.0.1:{gate}", "authority": str(tmp_path / "coordinator" / "ca.crt")}
        site["connection"] |= own | {"port": usable_port()}
        # Both say that they are hospital-0, which is the other one's name.
        site |= {"name": "hospital-0", "policy": {"allow": ["metrics", "weights"]}}
        (folder / "site.yaml").write_text(yaml.safe_dump(site))
        joined = fedkr("site", "join", folder / "site.yaml", stay=True)

    ended = fedkr("server", "run", "coordinator", "run", "federation.min_sites=1", *STUDY.split())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [site["name"] for site in results["sites"]] == ["hospital-0"]
    assert results["missing_sites"] == [
        "hospital-1: it calls itself 'hospital-0': set `name: hospital-1` in its site file"
    ]
    assert [row["name"] for row in results["strategies"]] == ["fedavg"]
    # The site has fewer val images than its policy lets figures leave on.
    assert [point["val_accuracy"] for point in results["weights_search"]] == [None]
    assert (tmp_path / "run" / "report.html").exists()
    # A key that is removed is served no longer: neither the SuperNode that has it nor one that starts with it.
    superlink = tmp_path / "coordinator" / "superlink.log"
    removed = fedkr("server", "remove", "coordinator", "hospital-1")
    assert removed.returncode == 0, removed.stderr
    # Its next request, whichever comes first: for messages, or to say that it lives.
    wait_until_said(superlink, r"/v1/fleet/(pull-messages|send-node-heartbeat) HTTP/1\.1. 401")
    # As a power cut leaves it, between the node and its name.
    named = tmp_path / "coordinator" / "sites.json"
    known, node = json.loads(named.read_text()), re.search(r"node (\d+)", removed.stdout)[1]
    named.write_text(json.dumps(known | {node: "hospital-1"}))
    assert fedkr("server", "remove", "coordinator", "hospital-1").returncode == 0
    assert json.loads(named.read_text()) == known
    joined.terminate()
    joined.wait()
    assert fedkr("site", "join", sites[1] / "site.yaml", stay=True).wait(60) != 0
    wait_until_said(superlink, r"activate-node HTTP/1\.1. 412")
    (sites[1] / "new").mkdir()
    fedkr("site", "key", sites[1] / "new")
    added = fedkr("server", "add", "coordinator", "hospital-1", sites[1] / "new" / "site.key.pub")
    assert added.returncode == 0 and "hospital-1 is node" in added.stdout, added.stderr
    site["connection"] |= {"key": str(sites[1] / "new" / "site.key")}
    (sites[1] / "site.yaml").write_text(yaml.safe_dump(site))
    known = len(re.findall(r"activate-node HTTP/1\.1. 200", superlink.read_text()))
    fedkr("site", "join", sites[1] / "site.yaml", stay=True)
    wait_until_said(superlink, r"activate-node HTTP/1\.1. 200", known + 1)
    looked_up = set((tmp_path / "lookups").read_text().split())
    assert looked_up <= {"127.0.0.1", "localhost", "::1", "None"}, looked_up
