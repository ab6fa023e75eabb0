import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedkr.config import Study
from fedkr.errors import UserError
from fedkr.network.offline import direct_loopback, flower_environment
from simulations.backends import processes, watchdog
from simulations.backends.home import LONGEST_HOME, FlowerHome

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_what_was_started_is_gone_at_the_end_and_the_logs_stay(tmp_path):
    with FlowerHome(Study(), tmp_path / ("long" * 40)) as home:
        child = home.start(
            [*SLEEP[:-1], "print('up', flush=True); import time; time.sleep(60)"], "a.log", home.environment()
        )
        assert wait_until(lambda: "up" in (home.logs / "a.log").read_text())
        assert len(str(home.path)) <= LONGEST_HOME
    assert child.poll() is not None
    assert not home.path.exists()
    assert [path.name for path in home.logs.iterdir()] == ["a.log"]


def test_every_process_gets_the_studys_threads_and_finds_the_package_and_flowers_helpers(tmp_path):
    with FlowerHome(Study(threads=3), tmp_path) as home:
        values = home.environment(EXTRA="1")
    assert (values["OMP_NUM_THREADS"], values["MKL_NUM_THREADS"], values["EXTRA"]) == ("3", "3", "1")
    assert Path(values["PATH"].split(os.pathsep)[0]) == Path(sys.executable).parent
    assert (Path(values["PYTHONPATH"].split(os.pathsep)[0]) / "fedkr" / "config").is_dir()


def test_processes_call_this_machine_without_its_proxy_and_flowers_makers_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "intranet.example,localhost")
    monkeypatch.setenv("NO_PROXY", "")
    with FlowerHome(Study(), tmp_path) as home:
        values = home.environment()
    assert values["no_proxy"] == values["NO_PROXY"] == "intranet.example,localhost,127.0.0.1,::1"
    assert os.environ["no_proxy"] == values["no_proxy"]
    assert "no_grpc_proxy" not in values
    monkeypatch.setenv("all_proxy", "socks5://proxy.example:1080")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert {"all_proxy", "https_proxy"} & flower_environment(tmp_path).keys() == {"https_proxy"}
    monkeypatch.setenv("no_grpc_proxy", "intranet.example")
    assert direct_loopback()["no_grpc_proxy"] == "intranet.example,localhost,127.0.0.1,::1"
    assert (values["FLWR_TELEMETRY_ENABLED"], values["FLWR_DISABLE_UPDATE_CHECK"]) == ("0", "1")
    assert values["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"


def test_a_run_ends_what_a_killed_driver_left_in_its_folder(tmp_path):
    old = tmp_path / "fedkr-run-old"
    old.mkdir()
    child = subprocess.Popen(SLEEP, env={**os.environ, "FLWR_HOME": str(old)})
    (tmp_path / "flower").mkdir()
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    record = {"home": str(old), "driver": gone.pid, "created": psutil.Process(gone.pid).create_time()}
    gone.wait()
    (tmp_path / "flower" / "home.json").write_text(json.dumps(record))
    with FlowerHome(Study(), tmp_path):
        assert child.poll() is not None
        assert not old.exists()
    child.wait()


def test_a_folder_where_another_process_runs_a_study_is_refused(tmp_path):
    other = subprocess.Popen(SLEEP)
    try:
        (tmp_path / "flower").mkdir()
        record = {
            "home": str(tmp_path / "fedkr-run-x"),
            "driver": other.pid,
            "created": psutil.Process(other.pid).create_time(),
        }
        (tmp_path / "flower" / "home.json").write_text(json.dumps(record))
        with (
            pytest.raises(UserError, match=f"process {other.pid} is running a study here"),
            FlowerHome(Study(), tmp_path),
        ):
            pass
    finally:
        other.kill()
        other.wait()


def test_a_record_that_names_another_folder_makes_no_harm(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / "flower").mkdir()
    (tmp_path / "flower" / "home.json").write_text(json.dumps({"home": str(precious), "driver": 1 << 22, "created": 0}))
    with FlowerHome(Study(), tmp_path):
        assert precious.exists()


# A driver whose child starts a process that names no home, in another session, and waits with it.
DRIVER = f"""
import subprocess, sys, time
from pathlib import Path
from fedkr.config import Study
from simulations.backends.home import FlowerHome
child = "import subprocess, time; subprocess.Popen({SLEEP!r}, env={{}}, start_new_session=True); time.sleep(60)"
with FlowerHome(Study(), Path(sys.argv[1])) as home:
    home.start([sys.executable, "-S", "-c", child], "a.log", home.environment())
    print(home.path, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def driver(tmp_path):
    """Start a driver; return it, its home, and what it left to run: its child, its child's child and the watchdog."""
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    home = Path(process.stdout.readline().strip())
    assert wait_until(lambda: len(psutil.Process(process.pid).children(recursive=True)) == 3)
    family = psutil.Process(process.pid).children(recursive=True)
    time.sleep(2 * watchdog.TICK)  # by then the watchdog has looked at them
    yield process, home, family
    process.kill()
    process.communicate()
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()


def test_a_driver_that_is_killed_takes_all_its_processes_along(driver):
    process, home, family = driver
    process.kill()
    assert wait_until(lambda: not any(map(processes.is_running, family)))
    assert not home.exists()


def test_a_run_whose_watchdog_was_killed_still_ends_its_own_processes(tmp_path):
    with FlowerHome(Study(), tmp_path) as home:
        child = home.start(SLEEP, "a.log", home.environment())
        home._watchdog.kill()
    assert child.poll() is not None and not home.path.exists()
