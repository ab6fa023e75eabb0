"""Weights as training scripts save them: found in their file, and named as the architecture names them."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedkr.errors import UserError

# Keys under which training scripts put the weights among other things.
HOLDERS = ("state_dict", "model_state_dict", "model", "net", "module", "params", "weights")
# What torch's own wrappers (DataParallel, compile, FSDP, checkpointing) put into a name, wherever they wrap.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# How often a BatchNorm was trained: no answer depends on it, and older files lack it.
COUNTER = "num_batches_tracked"
NAMED = 2


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return names and tensors of a ``.pt`` file, by themselves or among other things.

    Raises:
        UserError: a file of anything else; nothing but tensors and plain values is unpickled.
    """
    try:
        with warnings.catch_warnings():
            # Of files that are refused below in one line.
            warnings.simplefilter("ignore")
            values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # the restricted unpickler raises whatever its bytes happen to lead it to
        raise UserError(
            f"{path}: neither TorchScript nor a file of plain tensors; a pickled model is never opened: save its "
            "state_dict() (torch.save or safetensors), or torch.jit.save the model"
        ) from None
    values = _held(values)
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise UserError(f"{path}: holds no state_dict (names and tensors); save model.state_dict()")
    return {str(name): value for name, value in values.items()}


def as_named(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], arch: str) -> dict[str, Tensor]:
    """Return weights under the names of one's ``own``: without wrappers, and without what all names begin with.

    Raises:
        UserError: weights of another architecture ``arch``, of more than one model, or among other tensors.
    """
    plain = {_without_wrappers(name): value for name, value in weights.items()}
    if len(plain) < len(weights):
        raise UserError(f"holds two models, a wrapped one and another; save the state_dict() of one {arch}")
    needed = {name for name in own if not name.endswith(COUNTER)}
    prefix = _prefix(plain.keys(), needed, arch)
    found = {name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)}
    lacking, foreign = needed - found.keys(), found.keys() - own.keys()
    if lacking or foreign:
        parts = [f"lacks {_some(lacking)}"] if lacking else []
        parts += [f"has {_some(foreign)}, which {arch} has not"] if foreign else []
        raise UserError(f"not the weights of {arch} (--arch): the file {' and '.join(parts)}")
    if outside := plain.keys() - {prefix + name for name in found}:
        raise UserError(f"holds {_some(outside)} beside the model under {prefix!r}; save that model's own state_dict()")
    return {name: value for name, value in own.items() if name.endswith(COUNTER)} | found


def _held(values: Any) -> Any:
    """Return the weights in what a training script saved, which may hold them more than one key deep."""
    while isinstance(values, dict):
        inner = next((values[name] for name in HOLDERS if isinstance(values.get(name), dict)), None)
        if inner is None:
            break
        values = inner
    return values


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _prefix(found: Collection[str], needed: Collection[str], arch: str) -> str:
    """Return what stands before the names of the model: of all that some name has, what most needed names follow."""
    prefixes = {name[: -len(own)] for own in needed for name in found if name.endswith(own)}
    prefixes = {prefix for prefix in prefixes if not prefix or prefix.endswith(".")}
    counts = {prefix: sum(prefix + own in found for own in needed) for prefix in prefixes}
    whole = sorted(prefix for prefix, count in counts.items() if count == len(needed))
    if len(whole) > 1:
        names = ", ".join(map(repr, whole))
        raise UserError(f"holds {len(whole)} models, under {names}; save the state_dict() of the one to audit")
    if not counts:
        raise UserError(f"not the weights of {arch} (--arch), no name is the same: the file has {_some(found)}")
    return max(counts, key=lambda prefix: (counts[prefix], -len(prefix)))


def _some(names: Collection[str]) -> str:
    shown = ", ".join(map(ascii, sorted(names)[:NAMED]))
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
