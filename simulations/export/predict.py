"""Classifying images with an exported student."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fedkr.config import DataConfig
from fedkr.data.pictures.geometry import fitted as fit_picture
from fedkr.data.pictures.image_file import SUFFIXES, open_image
from fedkr.data.sources.npz_file import NpzFile
from fedkr.data.sources.npz_images import read_images
from fedkr.errors import UserError
from simulations.export.bundle import (
    INPUT,
    ONNX_FILE,
    OUTPUT,
    WEIGHTS_FILE,
    ImageClassifier,
    ModelDescription,
    read_student,
)
from simulations.export.onnx_file import open_session

BATCH = 256
NPZ_KEYS = ("images", "test_images")

Classifier = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
Picture = tuple[str, Image.Image]


class Predictions(NamedTuple):
    """A row for each image (``image``, ``class``, ``probability``, one ``p(<class>)`` a class), and what has none.

    ``refused`` has a line for each file of a folder that cannot be read, which says why.
    """

    rows: list[dict[str, Any]]
    refused: list[str]


def predict(model: Path, images: Path) -> Predictions:
    """Classify images; a file of a folder that cannot be read costs itself only.

    Args:
        model: an export folder, or its ``student.safetensors`` or ``student.onnx`` (which needs onnxruntime).
        images: an image file, a folder of images (with its sub-folders), or an npz file (array ``images``, else
            ``test_images``: uint8 ``[N, H, W]`` or ``[N, H, W, 1 or 3]``). Images of another size or colour than the
            model's are converted, which a note on stderr says once.

    Raises:
        UserError: a model, an npz file or a single image that cannot be read, or a folder without images.
    """
    classify, description = load_model(model)
    fitted = Fitting(description)
    refused: list[str] = []
    pictures = ((name, fitted(picture)) for name, picture in read_pictures(images, description.data, refused))
    rows: list[dict[str, Any]] = []
    while batch := list(islice(pictures, BATCH)):
        probabilities = classify(np.stack([pixels for _, pixels in batch]))
        rows += [_row(name, row, description) for (name, _), row in zip(batch, probabilities, strict=True)]
    for note in fitted.notes():
        print(f"fedkr: note: {note}", file=sys.stderr)
    return Predictions(rows, refused)


def _row(name: str, probabilities: NDArray[np.float32], description: ModelDescription) -> dict[str, Any]:
    values = [round(float(p), 6) for p in probabilities]
    best = int(probabilities.argmax())
    row = {"image": name, "class": description.classes[best], "probability": values[best]}
    return row | {f"p({name})": value for name, value in zip(description.classes, values, strict=True)}


def load_model(path: Path) -> tuple[Classifier, ModelDescription]:
    """Return what maps uint8 ``[N, H, W, C]`` to probabilities ``[N, K]``, and the model's description.

    Raises:
        UserError: no exported student, a damaged one, or ONNX without onnxruntime.
    """
    if path.is_dir():
        path /= ONNX_FILE if (path / ONNX_FILE).exists() and not (path / WEIGHTS_FILE).exists() else WEIGHTS_FILE
    if path.suffix == ".onnx":
        session = open_session(str(path))
        description = ModelDescription.from_metadata(session.get_modelmeta().custom_metadata_map, str(path))
        return lambda images: session.run([OUTPUT], {INPUT: images})[0], description
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: neither .safetensors nor .onnx; name what `fedkr export` wrote")
    student, description = read_student(path)
    network = ImageClassifier(student).eval()

    @torch.inference_mode()
    def classify(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return network(torch.from_numpy(images)).numpy()

    return classify, description


class Fitting:
    """Brings pictures to a model's size and colours, as the training images were, and remembers whether it had to."""

    def __init__(self, description: ModelDescription) -> None:
        self.side, self.channels, self.data = description.size, description.channels, description.data
        self.resized, self.recoloured = 0, 0

    def __call__(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Return uint8 ``[side, side, channels]``."""
        self.recoloured += picture.mode != ("L" if self.channels == 1 else "RGB")
        self.resized += picture.size != (self.side, self.side)
        return np.asarray(fit_picture(picture, self.data), np.uint8).reshape(self.side, self.side, self.channels)

    def notes(self) -> Iterator[str]:
        """Yield what was done to the pictures, a line each."""
        if self.resized:
            how = {"crop": "their central square", "pad": "the whole, padded", "stretch": "the whole, stretched"}
            yield f"{self.resized} image(s) resized to {self.side} x {self.side} pixels ({how[self.data.fit]})"
        if self.recoloured:
            yield f"{self.recoloured} image(s) converted to {'grey' if self.channels == 1 else 'RGB'}"


def read_pictures(path: Path, data: DataConfig, refused: list[str]) -> Iterator[Picture]:
    """Yield name and picture of an image file, of each image in a folder, or of each image in an npz file.

    ``refused`` gets a line for each file, or folder, in a folder that cannot be read.
    """
    if path.is_dir():
        yield from _read_folder(path, data, refused)
    elif path.suffix.lower() == ".npz":
        yield from _read_npz(path)
    else:
        yield str(path), open_image(path, data)


def _read_folder(path: Path, data: DataConfig, refused: list[str]) -> Iterator[Picture]:
    def refuse(error: OSError) -> None:
        refused.append(f"{error.filename}: cannot be read ({error.strerror})")

    found = [Path(folder) / name for folder, _, names in os.walk(path, onerror=refuse) for name in names]
    files = [file for file in sorted(found) if file.suffix.lower() in SUFFIXES]
    shown = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not shown:
        raise UserError(f"{path}: no images in it; put {', '.join(SUFFIXES)} files there")
    for file in shown:
        try:
            picture = open_image(file, data)
        except UserError as error:
            refused.append(str(error))
            continue
        yield file.relative_to(path).as_posix(), picture


def _read_npz(path: Path) -> Iterator[Picture]:
    with NpzFile(path) as file:
        key = next((key for key in NPZ_KEYS if key in file), NPZ_KEYS[0])
        images = read_images(file, key)
    for index, pixels in enumerate(images):
        yield f"{path.name}[{index}]", Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
