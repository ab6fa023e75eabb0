"""Outside models: a TorchScript file, the weights of a known architecture, or an export of fedkr, as one predictor."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedkr.config import ClassifierConfig
from fedkr.data.images import ImageSet, Shape
from fedkr.errors import UserError
from fedkr.learning.models import build_classifier, load_weights
from fedkr.learning.models.resnet import resnet18
from fedkr.learning.prediction import predict_logits, to_model_input
from fedkr.learning.runtime import Runtime
from fedkr.stages import model_tensors
from simulations.audit_run.torchscript.model import ConfinedModel
from simulations.audit_run.weights import as_named, read_state_dict
from simulations.export.bundle import WEIGHTS_FILE, read_student

# The kernel of ResNet-18's first layer in its form for large images, which torchvision uses at every size.
LARGE_STEM = 7
PROBED = 64
# Of the largest logit; rounding differs between batches by a hundredth of it, in float16 too.
TOLERANCE = 1e-2
# Trained on releases, by the rule of the verdict.
STUDENT = "student"
SMALLEST_PROBABILITY = 1e-12


def _numbers(name: str, text: str, channels: int) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"{name} {text}: not a number, or numbers with commas, as in 0.5 or 0.485,0.456,0.406"
        ) from None
    if len(values) not in (1, channels):
        raise UserError(f"{name} {text}: {len(values)} numbers, but the images have {channels} channel(s)")
    return values


class OutsideModel(nn.Module):
    """A model with its normalisation: fedkr's input float32 ``[N, C, H, W]`` in [-1, 1] to logits ``[N, K]``.

    The model itself wants images in [0, 1], less ``mean``, over ``std``; until it is told, 0.5, which is fedkr's input.

    Args:
        kind: what it was read from, in words.
        target: how the report names it: ``student`` for one that was trained on releases.
        recipe: what is known of its training; None for nothing.
    """

    def __init__(
        self, network: nn.Module, kind: str, target: str = "model", recipe: ClassifierConfig | None = None
    ) -> None:
        super().__init__()
        self.network, self.kind, self.target, self.recipe = network, kind, target, recipe
        self.gives_probabilities = False
        self.register_buffer("mean", torch.tensor(0.5), persistent=False)
        self.register_buffer("std", torch.tensor(0.5), persistent=False)

    def normalise(self, mean: str, std: str, channels: int) -> None:
        """Take one number, or one a channel, as the command line has them, such as ``0.485,0.456,0.406``.

        Raises:
            UserError: no numbers, as many as neither 1 nor the channels, or a deviation that is not above 0.
        """
        values = [_numbers(name, text, channels) for name, text in (("--mean", mean), ("--std", std))]
        if min(values[1]) <= 0:
            raise UserError(f"--std {std}: must be above 0")
        self.mean, self.std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in values)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits; the logarithm of probabilities where the model gives those."""
        # Outside models may count on images that lie in memory channel by channel.
        out = self.network((((x + 1) / 2 - self.mean) / self.std).contiguous())
        return out.clamp_min(SMALLEST_PROBABILITY).log() if self.gives_probabilities else out

    def predict(self, images: NDArray[np.uint8], runtime: Runtime) -> NDArray[np.float32]:
        """Return float32 logits ``[N, K]`` of uint8 ``[N, H, W, C]``, in the precision that the model was made in.

        Raises:
            UserError: a model that fails on some of the images, whatever it answered to the first.
        """
        try:
            logits = predict_logits(self, images, Runtime(runtime.device, None))
        except (RuntimeError, ValueError) as error:
            raise UserError(f"the model fails on some of the images ({_reason(error)})") from None
        if logits.ndim != 2 or len(logits) != len(images) or not np.isfinite(logits).all():
            raise UserError("the model gives some of the images other answers than finite logits [N, classes]")
        return logits


def load_model(path: Path, config: ClassifierConfig, shape: ImageSet) -> OutsideModel:
    """Read TorchScript, ``.safetensors``, a ``.pt`` file of tensors, or a folder of ``fedkr export``.

    Nothing is unpickled, and TorchScript runs confined (:mod:`simulations.audit_run.torchscript`).

    Bare weights are of the architecture ``config``; the model must fit size, channels and classes of ``shape``.

    Raises:
        UserError: a file that is none of these, or weights of another architecture.
    """
    if not path.exists():
        raise UserError(f"{path}: no such model; name a TorchScript file, weights, or a folder of `fedkr export`")
    if path.is_dir() or path.name == WEIGHTS_FILE:
        return _exported(path, shape)
    if path.suffix == ".safetensors":
        try:
            return _of_weights(load_file(path), config, Shape.of(shape), path)
        except SafetensorError as error:
            raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    if _is_torchscript(path):
        return OutsideModel(ConfinedModel(path), "TorchScript")
    return _of_weights(read_state_dict(path), config, Shape.of(shape), path)


def check_answers(model: OutsideModel, data: ImageSet, path: Path, runtime: Runtime) -> None:
    """Try the model on a few images, and note whether it gives probabilities.

    Answers other than finite logits ``[N, K]`` for the data's classes are a :class:`UserError`, and so are answers that
    change from call to call, or with the other images of a batch.
    """
    probe, classes = data.images[:PROBED], len(data.classes)
    with torch.inference_mode():
        x = to_model_input(torch.from_numpy(probe).to(runtime.device))
        try:
            out = model(x)
        except UserError:
            raise
        except Exception as error:  # whatever the model's own code raises
            size = f"{data.channels} x {data.size} x {data.size}"
            raise UserError(f"{path}: the model cannot take images of {size} ({_reason(error)})") from None
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(probe):
        found = f"a tensor of shape {list(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise UserError(f"{path}: returns {found} for {len(probe)} images; it must return logits [N, classes]")
    if out.shape[1] != classes:
        remedy = f"; add --classes {out.shape[1]} if the data lack some" if out.shape[1] > classes else ""
        raise UserError(f"{path}: gives {out.shape[1]} logits an image, the data have {classes} classes{remedy}")
    if not torch.isfinite(out).all():
        raise UserError(f"{path}: gives NaN or infinite logits; check --mean and --std, and the model's weights")
    _check_same_again(model, x, out, path)
    sums = out.float().sum(dim=1)
    model.gives_probabilities = bool((out >= 0).all() and (sums - 1).abs().max() < 1e-3)


def _check_same_again(model: OutsideModel, x: Tensor, out: Tensor, path: Path) -> None:
    """Raise :class:`UserError` for answers that depend on more than the image: on chance, or on the batch around it."""
    parts = {"the next time": slice(None), "alone": slice(0, 1), "in a smaller batch": slice(len(x) // 2, None)}
    for when, part in parts.items():
        with torch.inference_mode():
            try:
                again = model(x[part])
            except UserError:
                raise
            except Exception as error:  # whatever the model's own code raises
                again, reason = None, f" ({_reason(error)})"
            else:
                reason = ""
        scale = 1 + float(out.abs().max())
        if again is None or again.shape != out[part].shape or not (again - out[part]).abs().max() < TOLERANCE * scale:
            raise UserError(
                f"{path}: gives an image another answer {when}{reason}, so that members cannot be told from chance: "
                "dropout, BatchNorm or the batch's size was kept as in training; save the model after model.eval()"
            )


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _exported(path: Path, shape: ImageSet) -> OutsideModel:
    network, description = read_student(path / WEIGHTS_FILE if path.is_dir() else path)
    wanted, found = (description.channels, description.size), (shape.channels, shape.size)
    if wanted != found:
        raise UserError(
            f"{path}: takes images of {wanted[0]} x {wanted[1]} x {wanted[1]}, "
            f"the data have {found[0]} x {found[1]} x {found[1]}"
        )
    return OutsideModel(network, "a student that fedkr exported", STUDENT, description.classifier)


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except Exception:  # the parser of a damaged archive raises whatever its bytes lead it to
        return False


def _of_weights(weights: Mapping[str, Tensor], config: ClassifierConfig, shape: Shape, path: Path) -> OutsideModel:
    network = build_classifier(config, shape, "any")
    if config.arch == "resnet18" and any(value.shape[2:] == (LARGE_STEM, LARGE_STEM) for value in weights.values()):
        # The size only decides the stem.
        network = resnet18(shape.channels, 64, shape.classes, config.norm)
    try:
        named = as_named(weights, model_tensors(network), config.arch)
        return OutsideModel(load_weights(network, named).eval(), f"weights of {config.arch}")
    except UserError as error:
        hint = f"--arch {config.arch} --width {config.width}, {shape.channels} channel(s), {shape.classes} classes"
        raise UserError(f"{path}: {error}; given were {hint}") from None


def recipe_of(known: ClassifierConfig | None, given: Mapping[str, Any]) -> ClassifierConfig:
    """Return the reference models' recipe: what was given, else what the model says of itself, else a teacher's."""
    fields = [field.name for field in dataclasses.fields(ClassifierConfig)]
    own = {} if known is None else {name: getattr(known, name) for name in fields}
    return ClassifierConfig(**own | {name: value for name, value in given.items() if value is not None})
