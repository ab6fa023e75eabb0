"""The exported student: what its files say about themselves, and the network that takes images as they are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

import fedkr
from fedkr.config import (
    Count,
    DataConfig,
    Fit,
    GreyLevel,
    Must,
    Scale,
    StudentConfig,
    ValueRange,
    at_most,
    check_values,
    no_longer_than,
    read_dataclass,
)
from fedkr.config.reading import brief
from fedkr.data.images import Shape
from fedkr.documents import LARGEST_SIDE, MOST_CLASSES
from fedkr.errors import UserError
from fedkr.learning.models import build_as, load_weights
from fedkr.learning.prediction import to_model_input

WEIGHTS_FILE, ONNX_FILE = "student.safetensors", "student.onnx"
DESCRIPTION_FILE, CARD_FILE = "model.json", "MODEL_CARD.md"
INPUT, OUTPUT = "images", "probabilities"


@dataclass
class Preparation:
    """How files of images became those that the student learnt from: the options of ``data`` by these names."""

    fit: Fit = "crop"
    background: GreyLevel = 0
    scale: Scale = "type"
    range: ValueRange = field(default_factory=list)

    @staticmethod
    def of(data: DataConfig) -> Preparation:
        """Return that of a study's images."""
        return Preparation(data.fit, data.background, data.scale, list(data.range))


@dataclass
class ModelDescription:
    """All that is needed to use a student: in ``model.json`` and, as text, in the metadata of both weight files.

    Attributes:
        classes: names of the outputs, in order.
        size: height and width of the input in pixels.
        channels: 1 (grey) or 3 (RGB).
        classifier: architecture and recipe.
        preparation: how files become squares of ``size`` and 8 bits.
    """

    classes: Annotated[
        list[str], Must(lambda names: len(names) > 0, "at least one class"), no_longer_than(MOST_CLASSES)
    ]
    size: Annotated[Count, at_most(LARGEST_SIDE)]
    channels: Annotated[int, Must(lambda n: n in (1, 3), "1 (grey) or 3 (RGB)")]
    classifier: StudentConfig
    preparation: Preparation = field(default_factory=Preparation)

    @property
    def data(self) -> DataConfig:
        """What reads files as those that the student learnt from were read."""
        return DataConfig("folder", size=self.size, channels=self.channels, **dataclasses.asdict(self.preparation))

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Return what happens to an image before the first layer of ``student.safetensors``."""
        fit = {
            "crop": "bicubic, after a crop to the central square",
            "pad": f"bicubic, the whole on a square of grey level {self.preparation.background}",
            "stretch": "bicubic, both sides made equal",
        }
        return {
            "resize": [self.size, self.size],
            "resample": fit[self.preparation.fit],
            "mode": "L" if self.channels == 1 else "RGB",
            "divide": 127.5,
            "subtract": 1.0,
            "layout": "float32 NCHW in [-1, 1]",
        }

    def as_json(self) -> dict[str, Any]:
        """Return the description as JSON can hold it."""
        return {"fedkr": fedkr.__version__, **dataclasses.asdict(self), "preprocessing": self.preprocessing}

    def as_metadata(self) -> dict[str, str]:
        """Return the description as names and texts, each a JSON value."""
        return {name: json.dumps(value) for name, value in self.as_json().items()}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str], where: str) -> ModelDescription:
        """Read what :meth:`as_metadata` wrote; raise :class:`UserError` for metadata that is something else."""
        names = [known.name for known in dataclasses.fields(ModelDescription)]
        try:
            # Files of before preparation was written were prepared as its defaults say, or nobody knows how.
            values = {name: json.loads(metadata[name]) for name in names if name != "preparation" or name in metadata}
        except (KeyError, ValueError, RecursionError):
            raise UserError(
                f"{where}: says nothing of classes and input size; name what `fedkr export` wrote"
            ) from None
        description = read_dataclass(ModelDescription, values, where)
        check_values(description, where)
        return description

    def build(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Return the classifier with these weights in evaluation mode (input float32 NCHW in [-1, 1], output logits).

        Raises:
            UserError: weights of another architecture.
        """
        shape = Shape(self.channels, self.size, len(self.classes))
        return load_weights(build_as(self.classifier, shape, weights), weights).eval()


def read_student(path: Path) -> tuple[nn.Module, ModelDescription]:
    """Read the weights that ``fedkr export`` wrote; return the network in evaluation mode, and what it says of itself.

    Raises:
        UserError: the file is missing, damaged or of something else.
    """
    if not path.exists():
        raise UserError(f"{path.parent}: holds no {path.name}; name a folder that `fedkr export` wrote")
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({brief(error)}); export it again") from None
    description = ModelDescription.from_metadata(metadata, str(path))
    return description.build(weights), description


class ImageClassifier(nn.Module):
    """The student with its preprocessing: uint8 ``[N, H, W, C]`` to probabilities ``[N, K]``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 probabilities, rows sum to one."""
        return torch.softmax(self.model(to_model_input(images)), dim=1)
