"""The student as ONNX: written without a trace of the machine that wrote it, and checked against PyTorch."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import nn

from fedkr.errors import UserError
from simulations.export.bundle import INPUT, OUTPUT, ModelDescription

TOLERANCE = 1e-4


def to_onnx(classifier: nn.Module, description: ModelDescription) -> onnx.ModelProto:
    """Return an image classifier (uint8 ``[N, H, W, C]`` to probabilities) as ONNX for any N, with its description."""
    # Two images, since a batch of one would be taken for a constant.
    example = torch.zeros(2, description.size, description.size, description.channels, dtype=torch.uint8)
    program = torch.onnx.export(
        classifier,
        (example,),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1)}},
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    _forget_where_it_was_made(model)
    onnx.helper.set_model_props(model, description.as_metadata())
    onnx.checker.check_model(model)
    return model


def _forget_where_it_was_made(model: onnx.ModelProto) -> None:
    """Drop the stack traces that PyTorch keeps: they name the folders of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]


def check_onnx(model: onnx.ModelProto, classifier: nn.Module, images: NDArray[np.uint8]) -> None:
    """Raise :class:`UserError` unless ONNX and PyTorch give the same probabilities for ``images`` ``[N, H, W, C]``.

    Run by ONNX's own reference implementation and, where it is installed, by onnxruntime.
    """
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(images)).numpy()
    for runner, found in _answers(model, images):
        worst = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
        if not worst <= TOLERANCE:
            raise UserError(
                f"student.onnx: {runner} differs from PyTorch by {worst:.2g} (at most {TOLERANCE:g}); "
                f"torch {torch.__version__} and onnx {onnx.__version__} do not fit together: update them"
            )


def _answers(model: onnx.ModelProto, images: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    yield "onnx", ReferenceEvaluator(model).run([OUTPUT], {INPUT: images})[0]
    if importlib.util.find_spec("onnxruntime"):
        yield "onnxruntime", open_session(model.SerializeToString()).run([OUTPUT], {INPUT: images})[0]


def open_session(model: str | bytes) -> Any:
    """Return an onnxruntime session on the CPU for a file's name or a model's bytes.

    Raises:
        UserError: onnxruntime is not installed, or cannot read the model.
    """
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        raise UserError(
            "onnxruntime is not installed: `pip install onnxruntime`, or name student.safetensors"
        ) from None
    try:
        return runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    # onnxruntime's errors share no base class of their own.
    except Exception as error:
        name = model if isinstance(model, str) else "student.onnx"
        raise UserError(f"{name}: onnxruntime cannot read it ({str(error).splitlines()[0]}); export it again") from None
