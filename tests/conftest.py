"""What several rooms' tests share: two studies, each run once, and what of a run must repeat bit by bit."""

import json
import os

import pytest

# Before PyTorch is loaded, and for every process that a test starts. As many tests run as there are processors, and
# with threads of their own they would mostly wait for each other's.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from fedkr.stages import read_artifact
from server.composition import compose_study
from simulations.study.run import run_study

# Two sites that know about half of the classes each: what joins them stands out from what one of them can learn.
WHOLE_STUDY = """
    backend=inline device=cpu precision=float32 federation.register_deadline=120
    federation.sites=2 partition=dirichlet partition.alpha=0.05
    teacher.arch=resnet8 teacher.width=8 teacher.steps=60 teacher.batch=32
    student.arch=resnet8 student.width=8 student.steps=100 student.batch=32
    generator.steps=200 generator.batch=32 generator.checkpoints=2
    generator.options.width=16 generator.options.steps_sample=5
    recycle.search_steps=20 recycle.search_images=128 recycle.tuning_budget=2
    recycle.rounds=2 recycle.views=2 recycle.ratio=0.3
    strategy.rounds=4 strategy.search_rounds=2 strategy.lrs=[0.05,0.1] strategy.local_epochs=[2]
    strategy.steps=200 strategy.norms=[batch]
    audit.bootstrap=20
    strategy.compare=[local,fedavg,fedkr,centralised]
"""
# Less data, training and exchanges, for what must be equal and need not be good.
SMALLER = """
    data.limit=300 partition.alpha=1.0 generator.steps=40 teacher.steps=20 student.steps=30
    recycle.search_steps=10 recycle.search_images=64 recycle.ratio=1.0
    strategy.lrs=[0.1] strategy.rounds=2 strategy.steps=40
    audit.targets=[student,centralised] strategy.options.fedkr.quarantine=false
"""
VARYING = {"seconds", "bytes_up", "bytes_down", "bytes_up_without_search", "bytes_down_without_search"}


@pytest.fixture(scope="session")
def whole_overrides():
    """The options of a study that does everything: all strategies, the light audit, the oracle."""
    return WHOLE_STUDY.split()


@pytest.fixture(scope="session")
def small_overrides(whole_overrides):
    """The options of the same study made small."""
    return [*whole_overrides, *SMALLER.split()]


@pytest.fixture
def without_public_features(monkeypatch):
    """As if the extra ``fedkr[features]`` were not installed, whether it is or not."""
    for package in ("NETWORK", "WEIGHTS"):
        monkeypatch.setattr(f"fedkr.learning.public_features.{package}", "no_such_package")


@pytest.fixture(scope="session")
def run():
    """Run a study in this process, its run folder named; return the folder."""

    def run(overrides, folder):
        return run_study(compose_study([*overrides, f"run_dir={folder}"]))

    return run


@pytest.fixture(scope="session")
def whole_run(run, whole_overrides, tmp_path_factory):
    """The run folder of the whole study, run once without any interruption: to be read, not to be changed."""
    return run(whole_overrides, tmp_path_factory.mktemp("whole") / "run")


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
        names = ("strategies", "audit", "audit_extras", "weights_search", "recycling", "choices", "missing_sites")
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
