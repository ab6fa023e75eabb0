"""A run on Ray goes on whichever of its processes dies."""

import contextlib
import json
from pathlib import Path

import psutil
import pytest

from simulations.backends.processes import users_of

pytestmark = pytest.mark.alone

# What is killed is at work in these; what follows is as in any other run.
WITHOUT_THE_REST = "strategy.compare=[fedavg,fedkr] recycle.rounds=1 audit.enabled=false audit.targets=[student]"


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
    command, wait_for_stage, assert_untouched, patience, small_overrides, run, numbers, stages, tmp_path
):
    folder, overrides = tmp_path / "run", [*small_overrides, *WITHOUT_THE_REST.split()]
    process = command([*overrides, "backend=ray"], folder)
    wait_for_stage(folder, "sites/site-0/stages/generator-*", process)
    kill_one(folder, "ray::ClientAppActor")
    wait_for_stage(folder, "server/stages/fedavg-*-r1-*", process)
    done = stages(folder)
    kill_one(folder, "flower-superlink")
    assert process.wait(patience) == 0, folder.with_suffix(".log").read_text()
    assert_untouched(done, stages(folder))
    assert numbers(folder) == numbers(run(overrides, tmp_path / "inline"))
    assert not (folder / "server" / "failure.json").exists() and not (folder / "flower" / "home.json").exists()
