"""What ``fedkr export`` writes."""

import json
import shlex
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file

from fedkr.errors import UserError
from fedkr.learning.prediction import to_model_input
from fedkr.stages import read_artifact, write_artifact
from server.composition import compose_study
from simulations.export import onnx_file
from simulations.export.bundle import ImageClassifier, ModelDescription
from simulations.export.command import export_run
from simulations.export.onnx_file import check_onnx
from simulations.study.command import command_of


@pytest.fixture
def own_run(finished_run, tmp_path):
    """Return a copy of the run that a test may break."""
    return shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("export"))


@pytest.fixture
def without_onnx(monkeypatch):
    """Spare a test that is about folders the seconds that ONNX takes."""
    monkeypatch.setattr("simulations.export.command.checked_onnx", lambda *_: b"onnx")


def probabilities(folder, images):
    """Return what the exported weights say, by hand."""
    description = json.loads((folder / "model.json").read_text())
    named = {name: json.dumps(value) for name, value in description.items()}
    model = ModelDescription.from_metadata(named, "model.json").build(load_file(folder / "student.safetensors"))
    with torch.inference_mode():
        return torch.softmax(model(to_model_input(torch.from_numpy(images))), 1).numpy()


def test_an_export_holds_the_student_its_card_and_every_sites_releases(exported, finished_run):
    files = sorted(path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file())
    assert files == ["MODEL_CARD.md", "model.json", "releases/site-0.npz", "student.onnx", "student.safetensors"]
    weights, kept = (
        load_file(exported / "student.safetensors"),
        read_artifact(finished_run / "models" / "student.safetensors").tensors,
    )
    assert weights.keys() == kept.keys()
    assert all(torch.equal(weights[name], kept[name]) for name in weights)


@pytest.mark.parametrize("count", [1, 5])
def test_onnx_takes_plain_images_in_batches_of_any_size_and_agrees_with_the_weights(exported, count):
    images = np.random.default_rng(1).integers(0, 256, (count, 12, 12, 1), dtype=np.uint8)
    found = ReferenceEvaluator(onnx.load(exported / "student.onnx")).run(["probabilities"], {"images": images})[0]
    np.testing.assert_allclose(found, probabilities(exported, images), atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_both_weight_files_describe_themselves(exported, finished_run):
    model = onnx.load(exported / "student.onnx")
    described = ModelDescription.from_metadata({p.key: p.value for p in model.metadata_props}, "student.onnx")
    assert (described.classes, described.size, described.channels) == (["benign", "a | <b>", "rare"], 12, 1)
    facts = json.loads((exported / "model.json").read_text())
    assert described.as_json().items() <= facts.items()


def test_no_file_tells_where_it_was_made(exported, finished_run):
    folders = [str(finished_run), "/home/someone", *(onnx_file.__file__.rpartition("/")[:1])]
    for path in exported.rglob("*"):
        if path.is_file():
            assert [folder for folder in folders if folder.encode() in path.read_bytes()] == []


def test_releases_load_without_pickle_and_keep_their_order(exported):
    with np.load(exported / "releases" / "site-0.npz", allow_pickle=False) as content:
        assert (content["images"].dtype, content["images"].shape) == (np.uint8, (10, 12, 12, 1))
        assert (content["soft_labels"].dtype, content["soft_labels"].shape) == (np.float16, (10, 3))
        assert content["exchange"].tolist() == [1] * 6 + [2] * 4
        assert content["classes"].tolist() == ["benign", "a | <b>", "rare"]


def test_the_card_has_data_figures_audit_limits_and_the_command(exported):
    card = (exported / "MODEL_CARD.md").read_text()
    assert "| site-0 | 129 | 91 | 10 | rare |" in card
    assert "| FedKR | 90.0 % | 90.0 % | 0.970 |" in card
    assert "| FedKR student | site-0 | loss threshold | none | 0.520 [0.42, 0.62] | not resolvable | 80 | 40 |" in card
    assert "Site's teacher | site-0 | modified entropy" in card
    assert "Site's teacher | site-0 | loss threshold" not in card
    assert "not for clinical use" in card
    assert "fedkr simulate dataset=digits seed=5 student.arch=resnet8 student.width=4\n" in card


def test_the_card_says_what_is_proven_for_whom_and_by_what(own_run, without_onnx):
    results = json.loads((own_run / "results.json").read_text())
    results["study"]["privacy"] = {"mode": "dp", "epsilon": 8.0, "delta": 1e-5}
    proof = {"epsilon": 8.0, "delta": 1e-5, "unit": "patient", "mechanism": "gaussian"}
    results["recycling"] = {"site-0": {"images": 10, "privacy": proof}}
    (own_run / "results.json").write_text(json.dumps(results))
    card = (export_run(own_run) / "MODEL_CARD.md").read_text()
    assert (
        "with epsilon 8 at delta 1e-05, for one patient more or less in its training split (gaussian mechanism)" in card
    )


def test_the_card_says_whether_the_student_knows_how_common_classes_are(exported, own_run, without_onnx):
    path = own_run / "models" / "student.safetensors"
    student = read_artifact(path)
    student.info["classifier"]["logit_adjustment"] = 1.0
    write_artifact(path, student)
    card = (export_run(own_run) / "MODEL_CARD.md").read_text()
    assert "behind the class shares of its images to the power 1: it takes all classes for equally common" in card
    assert "behind the class shares" not in (exported / "MODEL_CARD.md").read_text()


def test_names_in_the_card_cannot_break_its_tables(exported):
    card = (exported / "MODEL_CARD.md").read_text()
    assert "a \\| &lt;b>" in card
    assert "<b>" not in card


def test_an_export_goes_where_it_is_told(own_run, tmp_path, without_onnx):
    assert export_run(own_run, tmp_path / "there") == tmp_path / "there"
    assert (tmp_path / "there" / "student.onnx").exists()
    assert not (own_run / "export").exists()


def test_a_site_cannot_choose_the_folder_of_its_export(own_run, tmp_path, without_onnx):
    results = json.loads((own_run / "results.json").read_text())
    results["releases"] = {"../../outside": results["releases"]["site-0"]}
    (own_run / "results.json").write_text(json.dumps(results))
    export_run(own_run)
    assert [path.parent for path in tmp_path.rglob("*.npz")] == [own_run / "export" / "releases"]


def remove(name):
    return lambda run: (run / name).unlink()


def write(name, content):
    return lambda run: (run / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (remove("results.json"), "no finished run .*continues it"),
        (write("results.json", "{"), "not readable as JSON"),
        (remove("models/student.safetensors"), "has no student; add fedkr to strategy.compare"),
        (write("models/student.safetensors", "text"), "student.safetensors: not a readable"),
        (remove("server/stages/release-2.safetensors"), "release-2.safetensors: not a readable"),
        (write("export", "a file"), "export/releases: cannot be made"),
    ],
)
def test_a_run_that_cannot_be_exported_is_one_line(own_run, damage, line, without_onnx):
    damage(own_run)
    with pytest.raises(UserError, match=line) as error:
        export_run(own_run)
    assert "\n" not in str(error.value)


def test_onnx_that_answers_otherwise_is_refused(exported):
    facts = json.loads((exported / "model.json").read_text())
    description = ModelDescription.from_metadata({k: json.dumps(v) for k, v in facts.items()}, "model.json")
    weights = load_file(exported / "student.safetensors")
    weights["head.bias"] += torch.tensor([1.0, 0.0, 0.0])
    other = ImageClassifier(description.build(weights)).eval()
    with pytest.raises(UserError, match=r"student\.onnx: onnx differs from PyTorch by"):
        check_onnx(onnx.load(exported / "student.onnx"), other, np.zeros((2, 12, 12, 1), np.uint8))


# The command.


def test_a_study_of_defaults_needs_its_dataset_alone():
    assert command_of(compose_study([])) == "fedkr simulate dataset=digits"


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "dataset=breastmnist",
            "seed=3",
            "partition=iid",
            "strategy.compare=[local,fedprox]",
            "federation.min_sites=2",
        ],
        [
            "data.classes=['ill, or so','1']",
            "dataset=folder",
            "facts.images=900",
            "strategy.lrs=[0.01,1e-05]",
            "audit=off",
            "data.flip=both",
        ],
        ["budget=quick", "federation.sites=5", "data.limit=900", "student.steps=80"],
        ["generator.options.width=8", "backend=inline", "student=resnet20", "strategy.options.fedavg.lrs=[0.5]"],
    ],
)
def test_a_command_composes_the_study_that_it_came_from(overrides):
    study = compose_study(overrides)
    command = command_of(study)
    assert command is not None
    assert compose_study(shlex.split(command)[2:], lambda _: study.facts).identity() == study.identity()


def test_a_command_leaves_out_what_the_rule_says_again():
    study = compose_study(["budget=quick", "federation.sites=5", "student.steps=70"])
    told = "fedkr simulate dataset=digits budget=quick federation.sites=5 student.steps=70"
    assert command_of(study) == told
    study.facts.images = 0
    assert "teacher.steps=170" in command_of(study)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ("dataset=npz facts.images=3300 facts.side=32", "dataset=npz facts.images=3300 facts.side=32"),
        ("federation.sites=5 generator.steps=700", "dataset=digits federation.sites=5 generator.steps=700"),
        ("facts.images=1400", "dataset=digits facts.images=1400"),
        ("data.limit=500 teacher.steps=500", "dataset=digits data.limit=500 teacher.steps=500"),
        (
            "dataset=bloodmnist generator.steps=2950 federation.sites=10",
            "dataset=bloodmnist federation.sites=10 generator.steps=2950",
        ),
        ("data.size=64 student.arch=resnet14", "dataset=digits data.size=64 student.arch=resnet14"),
    ],
)
def test_a_command_says_which_numbers_were_set_by_hand_and_of_what_the_others_were_made(overrides, told):
    study = compose_study(overrides.split())
    assert command_of(study) == f"fedkr simulate {told}"
    assert compose_study(told.split(), count=None) == study


def test_a_command_leaves_out_where_things_lay():
    own = ["dataset=npz", "data.path='/wards/7/my images.npz'", "facts.images=900"]
    study = compose_study([*own, "out=/home/someone", "data.root=/data"])
    study.run_dir = "/home/someone/run"
    assert command_of(study) == "fedkr simulate dataset=npz facts.images=900 'data.path=my images.npz'"


def test_a_study_that_no_command_composes_has_none():
    study = compose_study([])
    study.strategy.compare = ["mine"]
    assert command_of(study) is None
