"""All randomness: one number from (study seed, site, round, stage), the same on every backend."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part and nothing else (no process, no order of execution)."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big") >> 1


def numpy_rng(*parts: object) -> np.random.Generator:
    """Return NumPy's generator seeded by :func:`derive_seed`."""
    return np.random.default_rng(derive_seed(*parts))


def torch_rng(*parts: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Return torch's generator seeded by :func:`derive_seed`."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))
