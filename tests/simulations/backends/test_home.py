import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedkr.config import Study
from fedkr.errors import UserError
from simulations.backends import processes
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
        assert not psutil.pid_exists(child.pid)
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system has no such leash")
def test_a_child_dies_with_a_killed_driver(tmp_path):
    script = (
        "import sys, time, os; from pathlib import Path; from simulations.backends import processes; "
        f"child = processes.start({SLEEP!r}, os.environ, Path('.'), Path({str(tmp_path / 'log')!r})); "
        "print(child.pid, flush=True); time.sleep(60)"
    )
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(driver.stdout.readline()))
    assert processes.is_running(child)
    driver.kill()
    driver.wait()
    driver.stdout.close()
    assert wait_until(lambda: not processes.is_running(child))


def test_sigterm_leaves_through_the_cleanup(tmp_path):
    with pytest.raises(SystemExit) as leaving, FlowerHome(Study(), tmp_path) as home:
        child = home.start(SLEEP, "a.log", home.environment())
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert leaving.value.code == 143
    assert child.poll() is not None and not home.path.exists()
