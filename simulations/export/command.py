"""What a finished run hands on: the student, its card, and the releases, in formats that need no fedkr."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from fedkr.config import StudentConfig, parse_study, read_dataclass
from fedkr.disk import write_atomic, write_json
from fedkr.errors import UserError
from fedkr.release import Release
from fedkr.report.results import RESULTS_FILE, Results, load_results
from fedkr.run_files import RunFiles
from fedkr.seeds import numpy_rng
from fedkr.stages import Artifact, read_artifact
from simulations.export.bundle import (
    CARD_FILE,
    DESCRIPTION_FILE,
    INPUT,
    ONNX_FILE,
    OUTPUT,
    WEIGHTS_FILE,
    ImageClassifier,
    ModelDescription,
    Preparation,
)
from simulations.export.model_card import write_card
from simulations.export.onnx_file import check_onnx, to_onnx
from simulations.study.command import command_of, portable

# Few, since ONNX's reference implementation is slow on large images.
COMPARED_IMAGES = 4


def export_run(run: Path, out: Path | None = None) -> Path:
    """Write a finished run's student and releases to ``out`` (``run/export`` if None); return that folder.

    It gets ``student.safetensors`` (bare weights), ``student.onnx`` (uint8 images to probabilities, compared with
    PyTorch before it is written), ``model.json``, ``MODEL_CARD.md`` and ``releases/<site>.npz``.

    Raises:
        UserError: a run that is unfinished or has no student, or a disk that refuses.
    """
    out = run / "export" if out is None else out
    results, student = read_run(run)
    study = parse_study(json.dumps(results["study"]))
    described = describe(student, RunFiles(run).model("student"))
    description = dataclasses.replace(described, preparation=Preparation.of(study.data))
    classifier = ImageClassifier(description.build(student.tensors)).eval()
    make_folder(out / "releases")
    write_atomic(out / WEIGHTS_FILE, save(student.tensors, description.as_metadata()))
    write_atomic(out / ONNX_FILE, checked_onnx(classifier, description))
    facts = description.as_json() | _formats(description) | {"study": _public(results["study"])}
    write_json(out / DESCRIPTION_FILE, facts)
    for site, paths in results.get("releases", {}).items():
        write_release(out / "releases" / f"{file_name(site)}.npz", [run / path for path in paths], description.classes)
    write_atomic(out / CARD_FILE, write_card(results, study, description, command_of(study)).encode())
    return out


def read_run(run: Path) -> tuple[Results, Artifact]:
    """Return the results and the student of a finished run; raise :class:`UserError` for one that lacks either."""
    if not (run / RESULTS_FILE).exists():
        raise UserError(f"{run}: no finished run (it has no {RESULTS_FILE}); the command that began it continues it")
    results = load_results(run)
    student = RunFiles(run).model("student")
    if not student.exists():
        raise UserError(f"{run}: this run has no student; add fedkr to strategy.compare and run the study")
    if "study" not in results:
        raise UserError(f"{run / RESULTS_FILE}: has no study; run the study again to write it anew")
    return results, read_artifact(student)


def describe(student: Artifact, where: Path) -> ModelDescription:
    """Return the description of a run's student; raise :class:`UserError` when its file lacks a part of it."""
    info = student.info
    try:
        classifier = read_dataclass(StudentConfig, info["classifier"], str(where))
        return ModelDescription(list(info["classes"]), info["size"], info["channels"], classifier)
    except KeyError as error:
        raise UserError(f"{where}: says nothing of {error}; run the study again with this version of fedkr") from None


def checked_onnx(classifier: nn.Module, description: ModelDescription) -> bytes:
    """Return the student as ONNX after comparing its answers with PyTorch's on random images."""
    model = to_onnx(classifier, description)
    shape = (COMPARED_IMAGES, description.size, description.size, description.channels)
    check_onnx(model, classifier, numpy_rng("export").integers(0, 256, shape, dtype=np.uint8))
    return model.SerializeToString()


def _public(study: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study for other people: on the digest of private data they could try a guess at them."""
    return {name: value for name, value in portable(study).items() if name != "data_digest"}


def _formats(description: ModelDescription) -> dict[str, Any]:
    side, channels, classes = description.size, description.channels, len(description.classes)
    weights = {"input": f"float32 [N, {channels}, {side}, {side}], preprocessed"}
    weights["output"] = f"logits float32 [N, {classes}]"
    onnx = {"input": f"{INPUT}: uint8 [N, {side}, {side}, {channels}], only resized"}
    onnx["output"] = f"{OUTPUT}: float32 [N, {classes}]"
    return {"files": {WEIGHTS_FILE: weights, ONNX_FILE: onnx}}


def make_folder(path: Path) -> None:
    """Make a folder and those above it; raise :class:`UserError` when the disk refuses."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror}); name another folder with --out") from None


def file_name(site: str) -> str:
    """Return a site's name as a file may have it: other machines choose these names."""
    return re.sub(r"[^\w.-]", "_", site).lstrip(".") or "_"


def write_release(path: Path, files: list[Path], classes: list[str]) -> None:
    """Write one site's releases as npz that loads without pickle.

    Arrays: ``images`` uint8 ``[N, H, W, C]``, ``soft_labels`` float16 ``[N, K]``, ``exchange`` int64 ``[N]`` (which of
    the exchanges each image came with, from 1), ``classes`` text ``[K]``.
    """
    releases = [Release.load(file) for file in files]
    arrays: dict[str, NDArray[Any]] = {
        "images": np.concatenate([release.images for release in releases]),
        "soft_labels": np.concatenate([release.soft_labels for release in releases]),
        "exchange": np.repeat(np.arange(1, len(releases) + 1), [len(release) for release in releases]),
        "classes": np.array(classes, dtype=np.str_),
    }
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_atomic(path, content.getvalue())
