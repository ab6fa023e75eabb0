"""A classifier from elsewhere: what can be read, what is refused in one line, and what the audit finds."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fedkr.config import ClassifierConfig
from fedkr.data import ImageSet
from fedkr.data.images import Shape
from fedkr.errors import UserError
from fedkr.learning.classifier import train_on_real
from fedkr.learning.job import Job
from fedkr.learning.models import build_classifier
from fedkr.learning.models.resnet import resnet18
from fedkr.learning.runtime import Runtime
from simulations.audit_run.options import Request
from simulations.audit_run.outside import audit_outside
from simulations.audit_run.outside_model import OutsideModel, check_answers, load_model, recipe_of
from simulations.audit_run.torchscript.confinement import why_not

confining = pytest.mark.skipif(why_not() is not None, reason="this system runs no TorchScript")
SMALL = ClassifierConfig(arch="resnet8", width=4, steps=40, batch=32, augment="none")
CPU = Runtime.choose("cpu", "float32")


def noise(count, seed, classes=3, channels=1):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)
    return ImageSet(images, np.arange(count) % classes, tuple("abcdefg"[:classes]))


@pytest.fixture(scope="module")
def members():
    return noise(48, 0)


@pytest.fixture(scope="module")
def overfitted(members):
    """A classifier that can only know its images by heart: they are noise."""
    return train_on_real(SMALL, members, Job(CPU, seed=("overfitted",)), "model")


@pytest.fixture(scope="module")
def npz(members, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    arrays = {}
    for name, data in (("train", members), ("holdout", noise(48, 1)), ("val", noise(30, 2)), ("test", noise(30, 3))):
        arrays |= {f"{name}_images": data.images, f"{name}_labels": data.labels}
    np.savez(path, **arrays)
    return path


def scripted(model, path, example=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model.eval(), torch.zeros(2, 1, 8, 8) if example is None else example)
        traced.save(str(path))
    return path


def save(model, path):
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


def logits(path, members, config=SMALL):
    model = load_model(path, config, members)
    check_answers(model, members, path, CPU)
    return model.predict(members.images, CPU)


@confining
def test_every_file_of_one_model_gives_the_same_answers(overfitted, members, tmp_path):
    torch.save({"net": overfitted.state_dict(), "epoch": 3}, tmp_path / "wrapped.pt")
    torch.save(nn.DataParallel(overfitted).state_dict(), tmp_path / "parallel.pth")
    paths = [save(overfitted, tmp_path / "model.safetensors"), scripted(overfitted, tmp_path / "model.pt")]
    found = [logits(path, members) for path in (*paths, tmp_path / "wrapped.pt", tmp_path / "parallel.pth")]
    for answers in found[1:]:
        np.testing.assert_allclose(answers, found[0], atol=1e-5)


def test_resnet18_loads_with_torchvisions_stem_at_any_size(members, tmp_path):
    path = save(resnet18(1, 64, 3, "batch"), tmp_path / "resnet18.safetensors")
    assert logits(path, members, ClassifierConfig(arch="resnet18")).shape == (48, 3)


def test_a_pickled_model_is_never_opened(overfitted, members, tmp_path):
    torch.save(overfitted, tmp_path / "model.pt")
    with pytest.raises(UserError, match="a pickled model is never opened"):
        load_model(tmp_path / "model.pt", SMALL, members)


@pytest.mark.parametrize("content", [b"hello", b"", b"\x80\x04."])
def test_a_file_of_something_else_is_refused(content, members, tmp_path):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(UserError, match="neither TorchScript nor a file of plain tensors"):
        load_model(tmp_path / "model.pt", SMALL, members)


def test_a_damaged_archive_and_code_under_another_name_are_refused_in_one_line(members, tmp_path):
    path = scripted(Answering(lambda m: m), tmp_path / "model.pt")
    whole = path.read_bytes()
    for content in (whole.replace(b"PK\x01\x02", b"PK\x01\x03"), whole.replace(b"/code/", b"/CODE/")):
        path.write_bytes(content)
        with pytest.raises(UserError, match="neither TorchScript nor a file of plain tensors"):
            load_model(path, SMALL, members)


def test_missing_and_foreign_weights_are_named(overfitted, members, tmp_path):
    with pytest.raises(UserError, match="no such model"):
        load_model(tmp_path / "none.pt", SMALL, members)
    with pytest.raises(UserError, match=r"holds no student\.safetensors"):
        load_model(tmp_path, SMALL, members)
    path = save(overfitted, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="given were --arch resnet8 --width 16"):
        load_model(path, ClassifierConfig(arch="resnet8", width=16), members)
    with pytest.raises(UserError, match=r"not the weights of resnet18 \(--arch\)"):
        load_model(path, ClassifierConfig(arch="resnet18"), members)


class Answering(nn.Module):
    """Answers as a test says."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x.mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (lambda m: m, r"returns a tensor of shape \[48\] for 48 images; it must return logits"),
        (lambda m: (m[:, None].repeat(1, 3), m), "returns a tuple"),
        (lambda m: m[:, None].repeat(1, 7), r"gives 7 logits an image, the data have 3 classes; add --classes 7"),
        (lambda m: m[:, None].repeat(1, 2), "gives 2 logits an image, the data have 3 classes$"),
        (lambda m: m[:, None].repeat(1, 3) / 0, "gives NaN or infinite logits; check --mean and --std"),
    ],
)
def test_answers_that_are_no_logits_for_these_classes_are_refused(answer, line, members):
    with pytest.raises(UserError, match=f"model.pt: {line}"):
        check_answers(OutsideModel(Answering(answer), "a test"), members, Path("model.pt"), CPU)


@confining
def test_a_torchscript_file_that_returns_a_tuple_is_refused_by_its_name(members, tmp_path):
    path = scripted(Answering(lambda m: (m[:, None].repeat(1, 3), m)), tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt: returns a tuple"):
        check_answers(load_model(path, SMALL, members), members, path, CPU)


def test_images_that_the_model_cannot_take_are_refused(members):
    colour = build_classifier(SMALL, Shape(3, 8, 3), "colour")
    with pytest.raises(UserError, match="cannot take images of 1 x 8 x 8"):
        check_answers(OutsideModel(colour, "a test"), members, Path("model.pt"), CPU)


@pytest.mark.parametrize("later", [lambda m: m[1:], lambda m: m[:, 0], lambda m: m / 0, lambda m: m @ m])
def test_a_model_that_answers_otherwise_after_it_was_tried_is_one_line(later, members):
    model = OutsideModel(Answering(lambda m: m[:, None].repeat(1, 3)), "a test")
    check_answers(model, members, Path("model.pt"), CPU)
    model.network = Answering(lambda m: later(m[:, None].repeat(1, 3)))
    with pytest.raises(UserError, match="some of the images"):
        model.predict(members.images, CPU)


def test_probabilities_are_turned_into_logits(overfitted, members, tmp_path):
    model = OutsideModel(nn.Sequential(overfitted, nn.Softmax(dim=1)), "a test")
    check_answers(model, members, Path("model.pt"), CPU)
    expected = torch.from_numpy(logits(save(overfitted, tmp_path / "m.safetensors"), members)).log_softmax(1)
    np.testing.assert_allclose(model.predict(members.images, CPU), expected.clamp_min(np.log(1e-12)), atol=1e-3)


def test_the_input_is_normalised_as_asked(members):
    model = OutsideModel(Answering(lambda m: m[:, None].repeat(1, 3)), "a test")
    model.normalise("0.25", "0.5", 1)
    means = members.images.mean((1, 2, 3)) / 255
    np.testing.assert_allclose(model.predict(members.images, CPU)[:, 0], (means - 0.25) / 0.5, atol=1e-5)


@pytest.mark.parametrize(
    ("mean", "std", "line"),
    [("x", "1", "not a number"), ("0.1,0.2", "1", "2 numbers, but the images have 3"), ("0", "0", "above 0")],
)
def test_a_normalisation_that_is_none_is_refused(mean, std, line):
    with pytest.raises(UserError, match=line):
        OutsideModel(nn.Identity(), "none").normalise(mean, std, 3)


def test_what_is_given_wins_over_what_the_model_says_of_itself():
    assert recipe_of(SMALL, {"steps": 7, "arch": None}).steps == 7
    assert recipe_of(SMALL, {"steps": 7, "arch": None}).arch == "resnet8"
    assert recipe_of(None, {"width": 3}).width == 3


@confining
def test_a_model_that_knows_its_images_by_heart_is_found(overfitted, npz, tmp_path, capsys):
    path = scripted(overfitted, tmp_path / "model.pt")
    out = audit_outside(
        Request(path, npz, tmp_path / "out", references=4, arch="resnet8", width=4, steps=40, device="cpu"), 20
    )
    document = json.loads((out / "audit.json").read_text())
    (verdict,) = document["audit_extras"]["verdicts"]
    assert (verdict["target"], verdict["verdict"]) == ("model", "leakage found")
    rows = {row["target"]: row for row in document["audit"] if row["headline"]}
    assert rows["model"]["attack"] == "rmia" and min(row["auc_low"] for row in rows.values()) > 0.5
    assert str(tmp_path) not in (out / "audit.json").read_text() + (out / "audit.html").read_text()
    assert "leakage found" in (out / "audit.html").read_text()
    assert "verdict: leakage found" in " ".join(capsys.readouterr().out.split())


def test_an_exported_student_cannot_pass_by_direct_references(exported, tmp_path, capsys):
    arrays = {}
    for seed, name in enumerate(("train", "val")):
        images = np.random.default_rng(seed).integers(0, 256, (60, 12, 12), dtype=np.uint8)
        arrays |= {f"{name}_images": images, f"{name}_labels": np.arange(60) % 3}
    np.savez(tmp_path / "data.npz", **arrays)
    request = Request(exported, tmp_path / "data.npz", tmp_path / "out", references=4, steps=5, device="cpu")
    document = json.loads((audit_outside(request, 20) / "audit.json").read_text())
    (verdict,) = document["audit_extras"]["verdicts"]
    assert (verdict["target"], verdict["verdict"]) == ("student", "cannot tell")
    assert any("direct references never saw a generator" in note for note in document["notes"])
    assert document["recipe"]["arch"] == "resnet8" and document["recipe"]["width"] == 4


def test_a_light_audit_trains_nothing(overfitted, npz, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fedkr.audit.outside.model.train_references", lambda *a, **k: pytest.fail("trained"))
    path = save(overfitted, tmp_path / "model.safetensors")
    out = audit_outside(Request(path, npz, tmp_path / "out", preset="light", arch="resnet8", width=4), 20)
    document = json.loads((out / "audit.json").read_text())
    assert {row["target"] for row in document["audit"]} == {"model"}


@pytest.mark.parametrize(
    ("changes", "line"),
    [({"preset": "heavy"}, "--preset heavy"), ({"references": 5}, "--references 5: an even number, at least 4")],
)
def test_options_that_make_no_audit_are_refused(changes, line, npz, tmp_path):
    with pytest.raises(UserError, match=line):
        audit_outside(Request(tmp_path / "model.pt", npz, **changes))


# The same weights as training scripts save them.


def state(model, before="", within=""):
    return {f"{before}{name.replace('.', f'.{within}', 1)}": value for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "saved",
    [
        lambda model: state(model, "_orig_mod."),
        lambda model: state(model, "module._orig_mod."),
        lambda model: {"state_dict": state(model, "model."), "epoch": 3, "hyper_parameters": {"lr": 0.1}},
        lambda model: {"model": {"state_dict": state(model, "net.backbone.")}},
        lambda model: state(model, within="_orig_mod."),
        lambda model: {name: value for name, value in state(model).items() if not name.endswith("num_batches_tracked")},
    ],
)
def test_what_training_scripts_put_before_the_names_of_weights_is_no_matter(saved, overfitted, members, tmp_path):
    torch.save(saved(overfitted), tmp_path / "model.pt")
    model = load_model(tmp_path / "model.pt", SMALL, members)
    np.testing.assert_array_equal(model.predict(members.images, CPU), overfitted_logits(overfitted, members))


def overfitted_logits(overfitted, members):
    return OutsideModel(overfitted, "as trained").predict(members.images, CPU)


@pytest.mark.parametrize(
    ("saved", "line"),
    [
        (lambda m: state(m, "model.") | {"criterion.weight": torch.ones(3)}, "'criterion.weight' beside the model"),
        (lambda m: state(m, "model.") | state(m, "ema."), r"holds 2 models, under 'ema\.', 'model\.'"),
        (lambda m: state(m) | state(m, "module."), "holds two models, a wrapped one and another"),
        (lambda m: {"a.b": torch.ones(3)}, r"no name is the same: the file has 'a\.b'"),
        (
            lambda m: {name.replace("head.", "head.1."): value for name, value in state(m, "model.").items()},
            r"lacks 'head\.bias', 'head\.weight' and has 'head\.1\.bias', 'head\.1\.weight', which resnet8 has not",
        ),
    ],
)
def test_weights_that_do_not_fit_are_told_by_what_does_not(saved, line, overfitted, members, tmp_path):
    torch.save(saved(overfitted), tmp_path / "model.pt")
    with pytest.raises(UserError, match=line) as error:
        load_model(tmp_path / "model.pt", SMALL, members)
    assert "\n" not in str(error.value)


class FixedBatch(nn.Module):
    """Takes batches of one size only, as a model that was exported with that size."""

    def forward(self, x):
        return x.view(48, -1)[:, :3]


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        (nn.Dropout(0.1), "another answer the next time"),
        (nn.BatchNorm1d(3), "another answer alone"),
        (FixedBatch(), "another answer alone"),
    ],
)
def test_answers_that_depend_on_chance_or_on_the_batch_are_refused(layer, line, overfitted, members):
    network = nn.Sequential(overfitted.eval(), layer.train()) if not isinstance(layer, FixedBatch) else layer
    with pytest.raises(UserError, match=rf"model\.pt: gives an image {line}.*save the model after model\.eval\(\)"):
        check_answers(OutsideModel(network, "a test"), members, Path("model.pt"), CPU)


@confining
def test_a_model_traced_in_training_mode_is_refused(members, tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten(), nn.BatchNorm1d(3)).train()
    traced = torch.jit.trace(network, torch.rand(4, 1, 8, 8), check_trace=False)
    traced.save(str(tmp_path / "model.pt"))
    with pytest.raises(UserError, match=r"another answer .*save the model after model\.eval\(\)"):
        check_answers(load_model(tmp_path / "model.pt", SMALL, members), members, tmp_path / "model.pt", CPU)
