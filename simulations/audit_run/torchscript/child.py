"""The process that runs a TorchScript model: confined before it sees the archive, then answers images by logits."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from simulations.audit_run.torchscript.archive import checked_archive
from simulations.audit_run.torchscript.confinement import confine
from simulations.audit_run.torchscript.messages import ANSWER, ERROR, OTHER_TYPE, read_message, write_message
from simulations.audit_run.torchscript.operators import unknown_operators

TENSOR = "tensor"


def main() -> None:
    """Read an archive, answer whether it can be run, then answer images float32 ``[N, C, H, W]`` until all is asked."""
    pipe = os.fdopen(os.dup(1), "wb")
    # What a library prints goes where errors go, not among the answers.
    os.dup2(2, 1)
    # Before the rules hold: torch looks for its libraries by temporary files.
    import safetensors.torch
    import torch

    try:
        confine()
        model = _loaded(torch, read_message(sys.stdin.buffer) or b"")
    except Exception as error:  # whatever a damaged or hostile archive leads to
        write_message(pipe, ERROR + _line(error))
        return
    write_message(pipe, ANSWER)
    while (content := read_message(sys.stdin.buffer)) is not None:
        try:
            images = safetensors.torch.load(content)[TENSOR]
            with torch.inference_mode():
                # Not called, which would run hooks.
                out = model.forward(images)
            reply = _reply(out, torch.Tensor, safetensors.torch.save)
        except Exception as error:  # the model's own code
            reply = ERROR + _line(error)
        write_message(pipe, reply)


def _loaded(torch: Any, content: bytes) -> Any:
    model = torch.jit.load(io.BytesIO(checked_archive(content)), map_location="cpu")
    if unknown := unknown_operators(model.inlined_graph):
        raise ValueError(f"uses {unknown[0]}, which no classifier needs")
    return torch.nn.Module.eval(model)


def _reply(out: Any, tensor: type, save: Any) -> bytes:
    if not isinstance(out, tensor):
        return OTHER_TYPE + type(out).__name__.encode()
    packed: bytes = save({TENSOR: out.float().contiguous()})  # type: ignore[attr-defined]
    return ANSWER + packed


def _line(error: Exception) -> bytes:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][:200].encode(errors="replace")
