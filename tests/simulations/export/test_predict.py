"""What ``fedkr predict`` answers."""

import importlib.util
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from fedkr.config import DataConfig, StudentConfig
from fedkr.data.pictures.geometry import fitted
from fedkr.errors import UserError
from simulations.export.bundle import ModelDescription, Preparation
from simulations.export.predict import Fitting, read_pictures
from simulations.export.predict import predict as predictions

CLASSES = ["benign", "a | <b>", "rare"]
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 12, 12), dtype=np.uint8)


def predict(model, images):
    return predictions(model, images).rows


@pytest.fixture
def folder(tmp_path):
    """Return a folder with two grey images in sub-folders and files that are none."""
    for name, pixels in (("a/1.png", PIXELS[0]), ("b/2.PNG", PIXELS[1]), (".hidden/3.png", PIXELS[2])):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "images" / name, "png")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_each_image_of_a_folder_gets_a_class_and_its_probabilities(exported, folder, capsys):
    rows = predict(exported, folder)
    assert [row["image"] for row in rows] == ["a/1.png", "b/2.PNG"]
    for row in rows:
        assert list(row) == ["image", "class", "probability", *(f"p({name})" for name in CLASSES)]
        given = [row[f"p({name})"] for name in CLASSES]
        assert sum(given) == pytest.approx(1, abs=1e-5)
        assert row["class"] == CLASSES[int(np.argmax(given))]
        assert row["probability"] == max(given)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("key", ["images", "test_images"])
@pytest.mark.parametrize("shape", [(5, 12, 12), (5, 12, 12, 1)])
def test_an_npz_file_gives_the_same_answers_as_the_images_in_it(exported, folder, tmp_path, key, shape):
    np.savez(tmp_path / "some.npz", **{key: PIXELS.reshape(shape)})
    rows, expected = predict(exported, tmp_path / "some.npz"), predict(exported, folder)
    assert [row["image"] for row in rows] == [f"some.npz[{i}]" for i in range(5)]
    assert [row | {"image": ""} for row in rows[:2]] == [row | {"image": ""} for row in expected]


def test_an_exports_own_releases_can_be_classified(exported):
    assert len(predict(exported, exported / "releases" / "site-0.npz")) == 10


def test_an_image_of_another_size_and_colour_is_converted_with_a_note(exported, tmp_path, capsys):
    Image.fromarray(np.stack([PIXELS[0]] * 3, axis=-1)).save(tmp_path / "colour.png")
    Image.fromarray(PIXELS[0]).resize((36, 24)).save(tmp_path / "wide.png")
    plain = predict(exported, tmp_path / "colour.png")[0]
    assert "1 image(s) converted to grey" in capsys.readouterr().err
    assert plain["image"] == str(tmp_path / "colour.png")
    predict(exported, tmp_path / "wide.png")
    assert "1 image(s) resized to 12 x 12 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prepared", "how"),
    [
        (Preparation(fit="stretch"), "the whole, stretched"),
        (Preparation(fit="pad", background=7), "the whole, padded"),
        (Preparation(), "their central square"),
    ],
)
def test_images_are_prepared_as_those_that_the_student_learnt_from(prepared, how):
    description = ModelDescription(CLASSES, 12, 1, StudentConfig(), prepared)
    read = ModelDescription.from_metadata(description.as_metadata(), "model")
    assert read == description
    picture, fitting = Image.fromarray(PIXELS[0]).resize((36, 24)), Fitting(read)
    config = DataConfig("folder", size=12, channels=1, fit=prepared.fit, background=prepared.background)
    assert np.array_equal(fitting(picture)[..., 0], np.asarray(fitted(picture, config)))
    assert list(fitting.notes()) == [f"1 image(s) resized to 12 x 12 pixels ({how})"]


def test_a_model_of_before_says_nothing_of_preparation_and_is_read_by_its_defaults():
    metadata = ModelDescription(CLASSES, 12, 1, StudentConfig()).as_metadata()
    del metadata["preparation"]
    assert ModelDescription.from_metadata(metadata, "model").preparation == Preparation()


def test_deep_images_are_read_by_the_range_that_the_student_learnt_from(tmp_path):
    Image.fromarray(np.array([[0, 100], [200, 4000]], np.uint16)).save(tmp_path / "deep.png")
    description = ModelDescription(CLASSES, 2, 1, StudentConfig(), Preparation(range=[0.0, 200.0]))
    ((_, picture),) = read_pictures(tmp_path / "deep.png", description.data, [])
    assert Fitting(description)(picture)[..., 0].tolist() == [[0, 128], [255, 255]]


def test_a_weight_file_alone_is_enough(exported, folder, tmp_path):
    alone = shutil.copy(exported / "student.safetensors", tmp_path / "other-name.safetensors")
    assert predict(alone, folder) == predict(exported, folder)


@pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="onnxruntime is not installed")
def test_onnx_gives_the_same_answers(exported, folder):
    expected, found = predict(exported, folder), predict(exported / "student.onnx", folder)
    for one, other in zip(expected, found, strict=True):
        assert one["class"] == other["class"]
        assert [one[f"p({c})"] for c in CLASSES] == pytest.approx([other[f"p({c})"] for c in CLASSES], abs=1e-4)


def test_onnx_without_onnxruntime_is_one_line(exported, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="onnxruntime is not installed: `pip install onnxruntime`"):
        predict(exported / "student.onnx", folder)


def bare(path):
    save_file(load_file(path / "student.safetensors"), path / "student.safetensors")


def text(path):
    (path / "student.safetensors").write_text("text")


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (bare, "says nothing of classes"),
        (text, "not a readable safetensors file"),
        (lambda path: [file.unlink() for file in path.glob("student.*")], "holds no student.safetensors"),
    ],
)
def test_a_model_that_cannot_be_read_is_one_line(exported, folder, tmp_path, damage, line):
    broken = shutil.copytree(exported, tmp_path / "broken")
    damage(broken)
    with pytest.raises(UserError, match=line) as error:
        predict(broken, folder)
    assert "\n" not in str(error.value)


def test_a_model_of_another_kind_is_one_line(exported, folder):
    with pytest.raises(UserError, match=r"model\.json: neither .safetensors nor .onnx"):
        predict(exported / "model.json", folder)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("broken.png", b"no image", "broken.png: not a readable image"),
        ("deep.png", np.zeros((4, 4), np.uint16), "more than 8 bits"),
        ("text.npz", b"no zip", "text.npz: not a readable .npz"),
        ("labels.npz", {"labels": np.zeros(3)}, "labels.npz: has no array 'images'"),
        ("floats.npz", {"images": np.zeros((2, 4, 4))}, "images has dtype float64"),
        ("flat.npz", {"images": np.zeros((2, 16), np.uint8)}, r"images has shape \[2, 16\]"),
        ("pickle.npz", {"images": np.array([None])}, "Python objects"),
    ],
)
def test_an_image_that_cannot_be_read_is_one_line(exported, tmp_path, name, content, line):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        Image.fromarray(content).save(path)
    with pytest.raises(UserError, match=line) as error:
        predict(exported, path)
    assert "\n" not in str(error.value)


def test_a_folder_without_images_is_one_line(exported, tmp_path):
    with pytest.raises(UserError, match="no images in it"):
        predict(exported, tmp_path)


def test_a_file_of_a_folder_that_cannot_be_read_costs_itself_only(exported, folder):
    expected = predict(exported, folder)
    (folder / "a" / "0-broken.png").write_bytes(b"no image")
    (folder / "empty.jpg").touch()
    rows, refused = predictions(exported, folder)
    assert rows == expected
    assert [line.split(": not a readable image")[0] for line in refused] == [
        str(folder / "a" / "0-broken.png"),
        str(folder / "empty.jpg"),
    ]
