"""Where and how tensors are computed: device, precision, threads."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkr.environment import processor_capabilities
from fedkr.errors import UserError


@dataclass(frozen=True)
class Runtime:
    """Where and how tensors are computed; chosen once a process."""

    device: torch.device
    autocast_dtype: torch.dtype | None

    @staticmethod
    def choose(device: str = "auto", precision: str = "auto", threads: int = 1) -> Runtime:
        """Set the process' thread count and return the runtime.

        Args:
            device: ``auto`` (a GPU when there is one), ``cpu``, ``cuda`` or ``cuda:N``.
            precision: ``auto`` is bfloat16 autocast on GPUs and processors that compute in it (from Ampere on, and
                with AMX), float32 elsewhere.
            threads: torch threads on CPU; the last digits of every result depend on it.

        Raises:
            UserError: a device that this machine does not have, or of another kind.
        """
        torch.set_num_threads(threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda"):
            _check_gpu(device)
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        elif device != "cpu":
            raise UserError(f"device={device!r}: unknown; one of: auto, cpu, cuda, cuda:N")
        else:
            fast = bool(processor_capabilities().get("amx_bf16", False))
        use_bfloat16 = precision == "bfloat16" or (precision == "auto" and fast)
        return Runtime(torch.device(device), torch.bfloat16 if use_bfloat16 else None)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the autocast context of this runtime (a no-op in float32)."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device, convolution weights channels-last."""
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def send(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the processor's on the device; a GPU fetches it while the processor goes on."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def describe(self) -> dict[str, str]:
        """Return device and precision, as stage keys and reports name them."""
        return {
            "device": self.device.type,
            "precision": str(self.autocast_dtype or torch.float32).removeprefix("torch."),
        }


def _check_gpu(device: str) -> None:
    """Raise :class:`UserError` for a name that is no GPU of this machine."""
    if not torch.cuda.is_available():
        raise UserError(f"device={device!r}: this machine has no CUDA GPU; use device=cpu or device=auto")
    known = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if device not in known:
        raise UserError(f"device={device!r}: no GPU of this machine; one of: {', '.join(known)}")
