"""A run goes on whichever of its processes dies, and ends with the numbers of one that nothing happened to."""

import contextlib
import json
from pathlib import Path

import psutil
import pytest

from simulations.backends.processes import users_of

pytestmark = pytest.mark.alone(minutes=4)

# What is killed is at work in these; what follows is as in any other run.
WITHOUT_THE_REST = "strategy.compare=[fedavg,fedkr] recycle.rounds=1 audit.enabled=false audit.targets=[student]"
# So many val images that the opponent searches, and is killed in its search; they also tell that so few steps make no
# generator.
SEARCHING = "split.val=0.4 split.holdout=0.05 strategy.lrs=[0.1,0.05] recycle.refuse_collapsed=false"


@pytest.fixture(scope="module")
def overrides(small_overrides):
    return [*small_overrides, *WITHOUT_THE_REST.split(), *SEARCHING.split()]


@pytest.fixture(scope="module")
def undisturbed(run, overrides, numbers, tmp_path_factory):
    """The numbers of the study on the inline backend, run without any interruption."""
    found = numbers(run(overrides, tmp_path_factory.mktemp("undisturbed") / "run"))
    (tuning,) = (row["tuning"] for row in found["strategies"] if "tuning" in row)
    assert (tuning["looks"], tuning["by_val"]) == (2, True)
    return found


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
    command, wait_for_stage, assert_untouched, patience, overrides, undisturbed, numbers, stages, tmp_path
):
    folder = tmp_path / "run"
    # Three times Ray starts, each with as many workers as there are processors, which load PyTorch: one will do.
    process = command([*overrides, "backend=ray", "backend.cpus=1"], folder)
    wait_for_stage(folder, "sites/site-0/stages/generator-*", process)
    kill_one(folder, "ray::ClientAppActor")
    wait_for_stage(folder, "server/stages/fedavg-*-r1-*", process)
    done = stages(folder)
    kill_one(folder, "flower-superlink")
    assert process.wait(patience) == 0, folder.with_suffix(".log").read_text()
    assert_untouched(done, stages(folder))
    assert numbers(folder) == undisturbed
    assert not (folder / "server" / "failure.json").exists() and not (folder / "flower" / "home.json").exists()


def test_a_killed_command_continues_in_the_middle_of_a_generator_and_of_fedavg(
    command, wait_for_stage, assert_untouched, run, overrides, undisturbed, numbers, stages, tmp_path
):
    folder, done = tmp_path / "run", {}
    for pattern in ("sites/site-1/stages/generator-state-*", "server/stages/fedavg-*-r1-*"):
        process = command(overrides, folder)
        wait_for_stage(folder, pattern, process)
        process.kill()
        process.wait()
        assert not (folder / "results.json").exists()
        assert_untouched(done, stages(folder))
        done = stages(folder)
    assert any("fedavg" in path.name for path in done) and any("release" in path.name for path in done)
    run(overrides, folder)
    assert_untouched(done, stages(folder))
    assert numbers(folder) == undisturbed
