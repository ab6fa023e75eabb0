"""Killed at any moment, the same command continues: no finished stage again, and the same numbers at the end."""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from simulations.backends.processes import users_of

pytestmark = pytest.mark.alone

PATIENCE = 240


@pytest.fixture
def command():
    """Start `fedkr simulate` as a process of its own; whatever happens, it is gone after the test."""
    with contextlib.ExitStack() as stack:

        def start(overrides, folder):
            arguments = [sys.executable, "-m", "fedkr.cli", "simulate", *overrides, f"run_dir={folder}"]
            with folder.with_suffix(".log").open("ab") as log:
                process = subprocess.Popen(arguments, stdout=log, stderr=log, cwd=folder.parent)
            stack.callback(end, process)
            return process

        yield start


def end(process):
    # Asked first, so that a run of several processes takes them all along.
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    process.kill()
    process.wait()


def wait_for_stage(folder, pattern, process):
    """Wait until a file of a stage appears in ``folder`` while the command still runs."""
    until = time.monotonic() + PATIENCE
    while not list(folder.glob(pattern)):
        assert process.poll() is None, folder.with_suffix(".log").read_text()
        assert time.monotonic() < until, f"no {pattern} within {PATIENCE} s"
        time.sleep(0.01)


def unfinished(path):
    return path.name.startswith("generator-state")


def assert_untouched(before, after):
    assert {path: written for path, written in before.items() if not unfinished(path)}.items() <= after.items()


def test_a_killed_command_continues_in_the_middle_of_a_generator_and_of_fedavg(
    command, run, golden_run, golden_overrides, numbers, stages, tmp_path
):
    folder, done = tmp_path / "run", {}
    for pattern in ("sites/site-1/stages/generator-state-*", "server/stages/fedavg-*-r1-*"):
        process = command(golden_overrides, folder)
        wait_for_stage(folder, pattern, process)
        process.kill()
        process.wait()
        assert not (folder / "results.json").exists()
        assert_untouched(done, stages(folder))
        done = stages(folder)
    assert any("fedavg" in path.name for path in done) and any("release" in path.name for path in done)
    run(golden_overrides, folder)
    assert_untouched(done, stages(folder))
    assert numbers(folder) == numbers(golden_run)


def kill_one(folder, wanted):
    """Kill one process of the run whose command line holds ``wanted``."""
    home = Path(json.loads((folder / "flower" / "home.json").read_text())["home"])
    for process in users_of(home):
        with contextlib.suppress(psutil.Error):
            if any(wanted in word for word in process.cmdline()):
                process.kill()
                return
    raise AssertionError(f"no process with {wanted!r} runs")


def test_a_ray_run_survives_a_killed_worker_and_a_killed_superlink(
    command, small_run, small_overrides, numbers, stages, tmp_path
):
    folder = tmp_path / "run"
    process = command([*small_overrides, "backend=ray"], folder)
    wait_for_stage(folder, "sites/site-0/stages/generator-*", process)
    kill_one(folder, "ray::ClientAppActor")
    wait_for_stage(folder, "server/stages/fedavg-*-r1-*", process)
    done = stages(folder)
    kill_one(folder, "flower-superlink")
    assert process.wait(PATIENCE) == 0, folder.with_suffix(".log").read_text()
    assert_untouched(done, stages(folder))
    assert numbers(folder) == numbers(small_run)
