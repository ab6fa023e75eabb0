"""What several rooms' tests share: the small study whose numbers are kept, run once, and what of a run must repeat."""

import json
import shlex
from pathlib import Path

import pytest

from fedkr.stages import read_artifact
from server.composition import compose_study
from simulations.study.run import run_study

GOLDEN = Path(__file__).with_name("golden.json")
VARYING = {"seconds", "bytes_up", "bytes_down"}


@pytest.fixture(scope="session")
def golden():
    """The headline figures of a small study, with the command that made them and how far other hardware may differ."""
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="session")
def golden_overrides(golden):
    """The options of the command that made the golden figures."""
    return shlex.split(golden["command"])[2:]


@pytest.fixture(scope="session")
def small_overrides(golden_overrides):
    """The golden study with less training and fewer exchanges: for what must be equal, not good."""
    less = ("generator.steps=40", "teacher.steps=20", "student.steps=30", "audit.targets=[student,centralised]")
    return [*golden_overrides, *less, "strategy.lrs=[0.1]", "strategy.local_epochs=[2]", "strategy.rounds=2"]


@pytest.fixture(scope="session")
def run():
    """Run a study in this process, its run folder named; return the folder."""

    def run(overrides, folder):
        return run_study(compose_study([*overrides, f"run_dir={folder}"]))

    return run


@pytest.fixture(scope="session")
def golden_run(run, golden_overrides, tmp_path_factory):
    """The run folder of the golden study, run once without any interruption: to be read, not to be changed."""
    return run(golden_overrides, tmp_path_factory.mktemp("golden") / "run")


@pytest.fixture(scope="session")
def small_run(run, small_overrides, tmp_path_factory):
    """The run folder of the small study on the inline backend: to be read, not to be changed."""
    return run(small_overrides, tmp_path_factory.mktemp("small") / "run")


@pytest.fixture(scope="session")
def numbers():
    """Return all numbers of a run folder that must be equal, bit by bit, wherever and however often it ran."""

    def without_costs(value):
        if isinstance(value, dict):
            return {name: without_costs(item) for name, item in value.items() if name not in VARYING}
        return [without_costs(item) for item in value] if isinstance(value, list) else value

    def numbers(folder):
        results = json.loads((folder / "results.json").read_text())
        names = ("strategies", "audit", "audit_extras", "weights_search", "recycling", "missing_sites")
        models = {
            path.stem: {name: tensor.numpy().tobytes() for name, tensor in read_artifact(path).tensors.items()}
            for path in (folder / "models").glob("*.safetensors")
        }
        return without_costs({name: results[name] for name in names}) | {"models": models}

    return numbers


@pytest.fixture(scope="session")
def stages():
    """Return the finished stages of a run folder, each with the time it was written."""

    def stages(folder):
        return {path: path.stat().st_mtime_ns for path in folder.glob("**/stages/*.safetensors")}

    return stages
