"""A small finished run, made without running anything."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from fedkr.data.images import Shape
from fedkr.learning.models import build_classifier
from fedkr.release import Release
from fedkr.stages import Artifact, model_tensors, write_artifact
from server.composition import compose_study
from simulations.export.command import export_run

CLASSES = ["benign", "a | <b>", "rare"]
SIDE, CHANNELS = 12, 1


def make_release(rng, count, round_number):
    images = rng.integers(0, 256, (count, SIDE, SIDE, CHANNELS), dtype=np.uint8)
    soft = np.eye(3, dtype=np.float16)[np.arange(count) % 3]
    return Release(images, soft, {"site": "site-0", "round": round_number, "count": count})


def audit_row(target, attack, auc):
    row = {"target": target, "site": "site-0", "attack": attack, "headline": int(attack != "loss")}
    row |= {"auc": auc, "auc_low": auc - 0.1, "auc_high": auc + 0.1, "tpr_at_fpr_0.01": None}
    return row | {"members": 80, "nonmembers": 40, "roc": []}


def make_results(study):
    figures = {"balanced_accuracy": 0.9, "auc": 0.97, "bytes_up": 1000, "bytes_down": 2000, "seconds": 3.0}
    return {
        "fedkr": "0.1.0",
        "study": json.loads(study.to_json()),
        "identity": study.identity(),
        "backend": "inline",
        "seed": study.seed,
        "classes": CLASSES,
        "versions": {"torch": "2"},
        "hardware": {"cores": 2},
        "sites": [{"name": "site-0", "counts": {"train": [50, 40, 1], "holdout": [20, 18, 0]}}],
        "strategies": [{"name": name, "accuracy": 0.9, **figures, "per_site": []} for name in ("local", "fedkr")],
        "audit": [
            audit_row("student", "loss", 0.52),
            audit_row("student", "modified-entropy", 0.53),
            audit_row("teacher", "loss", 0.65),
            audit_row("teacher", "modified-entropy", 0.66),
        ],
        "recycling": {"site-0": {"images": 10, "left_out": ["rare"]}},
        "releases": {"site-0": ["server/stages/release-1.safetensors", "server/stages/release-2.safetensors"]},
        "missing_sites": [],
        "notes": [],
        "test_images": 100,
    }


def pytest_collection_modifyitems(items):
    """The longest files first: a worker that begins with one last ends long after the others."""
    items.sort(key=minutes, reverse=True)


def minutes(item):
    mark = item.get_closest_marker("alone")
    return mark.kwargs["minutes"] if mark else 0


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """Return the folder of a finished run; tests copy it before they change it."""
    run, rng = tmp_path_factory.mktemp("runs") / "run", np.random.default_rng(0)
    study = compose_study(["seed=5", "student.arch=resnet8", "student.width=4", "data.root=/home/someone/data"])
    study.run_dir = str(run)
    model = build_classifier(study.student, Shape(CHANNELS, SIDE, len(CLASSES)), "test")
    info = {"classifier": dataclasses.asdict(study.student), "channels": CHANNELS, "size": SIDE, "classes": CLASSES}
    write_artifact(run / "models" / "student.safetensors", Artifact(model_tensors(model), info | {"seconds": 1.0}))
    for number, count in ((1, 6), (2, 4)):
        make_release(rng, count, number).save(run / f"server/stages/release-{number}.safetensors")
    (run / "results.json").write_text(json.dumps(make_results(study)))
    return run


@pytest.fixture(scope="session")
def exported(finished_run):
    """Return the folder that the run was exported to."""
    return export_run(finished_run)


@pytest.fixture
def leftovers():
    """Return the command lines of the processes that a run left behind, those that name its folder."""

    def leftovers(folder):
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and any(str(folder) in word for word in process.cmdline()):
                    found.append(process.cmdline())
            except psutil.Error:
                continue
        return found

    return leftovers


@pytest.fixture
def patience():
    """Return after how many seconds a run's next stage or its end counts as never; a slow machine is no fault."""
    return 900


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


@pytest.fixture
def wait_for_stage(patience):
    """Wait until a file of a stage appears in a folder while the command still runs."""

    def wait_for_stage(folder, pattern, process):
        until = time.monotonic() + patience
        while not list(folder.glob(pattern)):
            assert process.poll() is None, folder.with_suffix(".log").read_text()
            assert time.monotonic() < until, f"no {pattern} within {patience} s"
            time.sleep(0.01)

    return wait_for_stage


@pytest.fixture
def assert_untouched():
    """Assert that stages are there as they were before, but for a generator's that was not finished."""

    def assert_untouched(before, after):
        finished = {path: t for path, t in before.items() if not path.name.startswith("generator-state")}
        assert finished.items() <= after.items()

    return assert_untouched
