"""What the central student learns of the released images: labels by consensus of all sites' teachers."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

from fedkr.release import image_count, read_slice, slice_count
from fedkr.stages import Artifact
from server.consensus import consensus
from server.judges import Judges

RELEASED, CONSENSUS = "released", "consensus"
LABELS = (RELEASED, CONSENSUS)

Floats = NDArray[np.floating]


def relabel(judges: Judges, sites: Sequence[str]) -> Artifact:
    """Return labels by consensus of ``sites`` for their images, float16 ``[N, K]`` by the name of a release's file.

    ``info`` holds, as ``relabelled``, by site the share of images that now have another class than its teacher gave,
    and the ``seconds`` that it took.
    """
    started = time.perf_counter()
    released, seen = dict[str, Floats](), dict[str, dict[str, Floats]]()
    for site in sites:
        released[site], seen[site] = _opinions(judges, site, [peer for peer in sites if peer != site])
    found = consensus(released, seen)
    changed = {site: found[site].argmax(axis=1) != released[site].argmax(axis=1) for site in sites}
    tensors = dict[str, torch.Tensor]()
    for site in sites:
        parts = np.split(
            found[site].astype(np.float16), np.cumsum([image_count(path) for path in judges.files[site]])[:-1]
        )
        tensors |= {path.name: torch.from_numpy(p) for path, p in zip(judges.files[site], parts, strict=True)}
    shares = {site: float(images.mean()) for site, images in changed.items()}
    return Artifact(tensors, {"relabelled": shares, "seconds": time.perf_counter() - started})


def _opinions(judges: Judges, site: str, peers: Sequence[str]) -> tuple[Floats, dict[str, Floats]]:
    """Return a site's soft labels and what each of the other sites' students sees in its images, slice by slice."""
    parts, views = list[Floats](), {peer: list[Floats]() for peer in peers}
    for path in judges.files[site]:
        for index in range(slice_count(path)):
            images, labels = read_slice(path, index)
            parts.append(labels)
            for peer, rows in views.items():
                rows.append(scipy.special.softmax(judges.logits(peer, images), axis=1))
    return np.concatenate(parts), {peer: np.concatenate(rows) for peer, rows in views.items()}
