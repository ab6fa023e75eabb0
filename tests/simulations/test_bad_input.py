"""Bad input through the front door: one line that names it, a non-zero exit, and nothing damaged."""

import errno
import json
import logging
import os
import socket

import numpy as np
import pytest

from fedkr import wire
from fedkr.cli import app
from sites.handlers import HANDLERS

# Sites only train a small model of their own: what breaks, breaks before anything else matters.
QUICK = [
    "backend=inline", "audit=off", "strategy.compare=[local]", "data.limit=200", "device=cpu",
    "student.arch=resnet8", "student.width=4", "student.steps=2", "strategy.steps=2",
]  # fmt: skip
LOCAL_MODELS = "sites/*/stages/local-*"


@pytest.fixture
def fedkr(tmp_path, monkeypatch, capsys):
    """Run `fedkr simulate` in an empty folder; return exit status and stderr."""
    monkeypatch.chdir(tmp_path)
    # Its handler keeps the stderr of the first run in this process, which is another test's.
    monkeypatch.setattr(logging.getLogger("fedkr.server"), "handlers", [])

    def fedkr(*overrides):
        with pytest.raises(SystemExit) as ended:
            app(["simulate", *overrides], prog_name="fedkr")
        return int(ended.value.code or 0), capsys.readouterr().err

    return fedkr


@pytest.fixture
def refused(fedkr, tmp_path):
    """Assert that a command ends with one line that holds all of ``words``; return the line."""

    def refused(overrides, *words, status=2):
        ended, errors = fedkr(*overrides)
        lines = [line for line in errors.splitlines() if line.startswith("fedkr: error:")]
        assert (ended, len(lines)) == (status, 1), errors
        assert "Traceback" not in errors and not list(tmp_path.glob("**/fedkr-traceback-*"))
        for word in words:
            assert word in lines[0]
        return lines[0]

    return refused


def write_npz(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {"train_images": rng.integers(0, 256, (80, 8, 8), np.uint8), "train_labels": np.arange(80) % 2}
    np.savez(path, **{**arrays, **changes})


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dataset=digitz", ("dataset=digitz", "digits")),
        ("data.name=digitz", ("data.name='digitz'", "digits")),
        ("data.name=chestmnist", ("chestmnist", "multi-label")),
        ("generator=emd", ("generator=emd", "edm")),
        ("generator.kind=emd", ("generator.kind='emd'", "edm")),
        ("generator.options.widht=8", ("widht", "width")),
        ("strategy=fedprox", ("strategy=...", "strategy.compare=[local,fedprox,fedkr]")),
        ("strategy.compare=[local,fedavgg]", ("strategy.compare", "'fedavgg'", "did you mean 'fedavg'")),
        ("strategy.options.local.lr=1", ("strategy.options.local.lr", "no such option")),
        ("strategy.options.fedprox.proximal_mu=1", ("strategy.options='fedprox'", "local")),
        ("teacher.arch=resnet15", ("teacher.arch='resnet15'", "did you mean")),
        ("federation.site=3", ("federation.site", "sites")),
        ("seed=one", ("seed", "one")),
        ("backend=rey", ("backend=rey", "ray")),
        ("device=cuda:99", ("device='cuda:99'",)),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(refused, tmp_path, override, words):
    refused([*QUICK, override], *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["federation.sites=5000"], ("federation.sites=5000", "images")),
        (["federation.sites=15"], ("federation.sites=15", "split.min_images=20")),
        (["federation.min_sites=9"], ("federation.min_sites=9", "federation.sites=3")),
        (["partition=quantity", "partition.alpha=0.02", "partition.redraws=1"], ("site ", "images", "partition")),
        (["partition=pathological", "partition.classes_per_site=1"], ("classes_per_site", "teacher.single_class")),
    ],
)
def test_sites_that_cannot_be_made_of_the_images_are_refused_by_name(refused, tmp_path, overrides, words):
    refused([*QUICK, *overrides], *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images": np.zeros((80, 8, 9), np.uint8)}, ("train_images", "8 x 9")),
        ({"train_images": np.zeros((80, 64), np.uint8)}, ("train_images", "[80, 64]")),
        ({"train_images": np.full((80, 8, 8), 7, np.float32)}, ("train_images", "float32", "data.range=[0,7]")),
        ({"train_images": np.full((80, 8, 8), np.nan)}, ("train_images", "NaN")),
        ({"train_labels": np.arange(79) % 2}, ("train_labels", "[79]")),
        ({"train_labels": np.full(80, -1)}, ("train_labels", "-1")),
        ({"train_labels": np.array(["ill"] * 80)}, ("only one class", "data.classes=")),
        ({"train_labels": np.array([None] * 80)}, ("train_labels", "Python objects")),
    ],
)
def test_an_array_that_does_not_fit_is_named_with_its_file(refused, tmp_path, changes, words):
    write_npz(tmp_path / "own.npz", **changes)
    before = (tmp_path / "own.npz").read_bytes()
    refused([*QUICK, "dataset=npz", "data.path=own.npz"], "own.npz", *words)
    assert (tmp_path / "own.npz").read_bytes() == before


def test_a_file_that_is_missing_cut_off_or_no_npz_is_named(refused, tmp_path):
    refused([*QUICK, "dataset=npz", "data.path=own.npz"], "own.npz", "no such file")
    refused([*QUICK, "dataset=folder", "data.path=pictures"], "pictures")
    refused([*QUICK, "dataset=breastmnist", "data.root=nowhere"], "nowhere/breastmnist.npz", "data.download=true")
    write_npz(tmp_path / "own.npz")
    whole = (tmp_path / "own.npz").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"hello"):
        (tmp_path / "own.npz").write_bytes(content)
        refused([*QUICK, "dataset=npz", "data.path=own.npz"], "own.npz", "not a readable .npz")


@pytest.mark.parametrize("backend", ["ray", "deploy"])
def test_a_port_in_use_is_named(refused, backend):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused([*QUICK, f"backend={backend}", f"backend.port={port}"], f"backend.port={port}", "in use")


def test_a_run_folder_that_cannot_be_made_is_named(refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused([*QUICK, "run_dir=file/run"], "file/run", "run_dir=")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_at_the_start_is_told_and_leaves_no_half_written_file(refused, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused([*QUICK, "run_dir=run"], "run/study.json", "No space left on device")
    assert not list(tmp_path.glob("**/*.tmp"))


def test_a_disk_that_fills_up_at_a_site_stops_the_run_and_the_same_command_continues(
    refused, fedkr, tmp_path, monkeypatch, stages
):
    flush = os.fsync

    def full_behind_the_first_model(descriptor):
        if list(tmp_path.glob(f"run/{LOCAL_MODELS}")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_behind_the_first_model)
        refused([*QUICK, "run_dir=run"], "No space left on device", status=1)
    assert not list(tmp_path.glob("**/*.tmp")) and not (tmp_path / "run" / "results.json").exists()
    before = stages(tmp_path)
    assert fedkr(*QUICK, "run_dir=run")[0] == 0
    assert before and before.items() <= stages(tmp_path).items()


@pytest.fixture
def dying_site(monkeypatch):
    """Make the work of site-1 fail."""
    work = HANDLERS[wire.LOCAL]

    def die(site, request):
        if site.name == "site-1":
            raise RuntimeError("the scanner caught fire")
        return work(site, request)

    monkeypatch.setitem(HANDLERS, wire.LOCAL, die)


def test_a_site_that_dies_stops_a_study_that_needs_all_and_is_named_with_its_reason(refused, dying_site, tmp_path):
    refused([*QUICK, "run_dir=run"], "site-1", "the scanner caught fire", "federation.min_sites", status=1)
    assert len(list(tmp_path.glob(f"run/{LOCAL_MODELS}"))) == 2


def test_a_study_goes_on_without_a_site_that_dies_when_enough_are_left(fedkr, dying_site, tmp_path):
    status, errors = fedkr(*QUICK, "run_dir=run", "federation.min_sites=2")
    assert (status, "Traceback" in errors) == (0, False)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [line.split(":")[0] for line in results["missing_sites"]] == ["site-1"]
    assert [entry["site"] for entry in results["strategies"][0]["per_site"]] == ["site-0", "site-2"]
    # What the site itself wrote down never reaches the server.
    assert "scanner" not in json.dumps(results)
