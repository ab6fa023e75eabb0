"""What the near-copy rule finds and what it takes for a copy: altered real images, and other real images, set by set.

Run as ``python -m simulations.evidence.near_copies data.root=DIR out=FILE``; ``sets=digits,breastmnist`` names some
sets only. ``out`` is JSON, with the Markdown table beside it. No model is trained: images of the pool are a site's,
those of the official test split stand for what a generator draws that has learnt no single image.

``runs=DIR,DIR`` counts, too, how many of the images that the sites of finished runs released the rule would draw again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.near_copies import NearCopies
from fedkr.data import ImageSet, Source, load_source
from fedkr.data.images import joined
from fedkr.disk import write_atomic, write_json
from fedkr.release import Release
from fedkr.seeds import numpy_rng
from server.composition import compose_study
from simulations.run_folder import RunFolder

Images = NDArray[np.uint8]
Means = NDArray[np.float64]
Row = dict[str, Any]

SETS = ("digits", "breastmnist", "pneumoniamnist", "bloodmnist")
# A site's images, other images, and copies of each kind.
REAL, HELD_OUT, COPIES = 900, 450, 150


def noisy(images: Images, deviation: float) -> Images:
    """Return images under normal noise of so many grey levels."""
    noise = numpy_rng("near copies", deviation).normal(0, deviation, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def shifted(images: Images, down: int, right: int) -> Images:
    """Return images moved by whole pixels, their edges repeated."""
    moved = np.pad(images, ((0, 0), (down, 0), (right, 0), (0, 0)), mode="edge")
    return moved[:, : images.shape[1], : images.shape[2]]


def towards(images: Images, mean: Means, contrast: float) -> Images:
    """Return images of so much contrast about a mean image, or one mean for each."""
    return np.rint(mean + contrast * (images - mean)).astype(np.uint8)


def bent(images: Images, gamma: float) -> Images:
    """Return images under a gamma curve."""
    return np.rint(255 * (images / 255) ** gamma).astype(np.uint8)


# From images and the means of their classes, one an image, to copies.
ALTERED: Mapping[str, Callable[[Images, Means], Images]] = {
    "noise of 8 grey levels": lambda images, means: noisy(images, 8),
    "noise of 25": lambda images, means: noisy(images, 25),
    "noise of 40": lambda images, means: noisy(images, 40),
    "mirrored": lambda images, means: images[:, :, ::-1],
    "upside down": lambda images, means: images[:, ::-1],
    "half turn": lambda images, means: images[:, ::-1, ::-1],
    "quarter turn": lambda images, means: np.rot90(images, axes=(1, 2)),
    "transposed": lambda images, means: images.swapaxes(1, 2),
    "inverted": lambda images, means: 255 - images,
    "x 0.6": lambda images, means: np.rint(images * 0.6).astype(np.uint8),
    "x 0.84 + 40": lambda images, means: np.rint(images * 0.84 + 40).astype(np.uint8),
    "half contrast about the class mean": lambda images, means: towards(images, means, 0.5),
    "quarter contrast about the class mean": lambda images, means: towards(images, means, 0.25),
    "half contrast about the mean of all": lambda images, means: towards(images, means.mean(axis=0), 0.5),
    "mirrored, half contrast, noise of 8": lambda images, means: noisy(towards(images, means, 0.5)[:, :, ::-1], 8),
    "gamma 0.6": lambda images, means: bent(images, 0.6),
    "shifted by a pixel": lambda images, means: shifted(images, 0, 1),
    "shifted diagonally": lambda images, means: shifted(images, 1, 1),
    "shifted by two": lambda images, means: shifted(images, 0, 2),
}


def some(images: ImageSet, most: int, *seed: object) -> ImageSet:
    """Return so many images at most, drawn anew from their whole."""
    return images.subset(numpy_rng("near copies", *seed).permutation(len(images))[:most])


def class_means(images: ImageSet) -> Means:
    """Return float64 ``[N, H, W, C]``: for each image, the mean of its class."""
    means = {label: images.images[images.labels == label].mean(axis=0) for label in np.unique(images.labels)}
    return np.stack([means[label] for label in images.labels])


def correlations(images: Images, real: Images) -> NDArray[np.float64]:
    """Return float64 ``[N]``: the highest correlation of each image's pixels with those of a real image."""
    rows, others = (_standardised(part) for part in (images, real))
    found: NDArray[np.float64] = (rows @ others.T).max(axis=1)
    return found


def median(values: NDArray[np.float64]) -> float | None:
    """Return the median, None of nothing."""
    return float(np.median(values)) if len(values) else None


def _standardised(images: Images) -> NDArray[np.float64]:
    rows = images.reshape(len(images), -1).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    standardised: NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return standardised


def measure(name: str, source: Source) -> Row:
    """Return what the rule finds of one set; of held-out images, too, how alike they are to the real ones.

    Those that it takes for copies may be copies: collections hold a scene more than once.
    """
    real, held_out = some(source.pool, REAL, name, "real"), some(source.test, HELD_OUT, name, "held out")
    near, copied = NearCopies(real), min(COPIES, len(real))
    flagged, alike = near(held_out.images), correlations(held_out.images, real.images)
    means = class_means(real)[:copied]
    return {
        "set": name,
        "real": len(real),
        "held_out": len(held_out),
        "held_out_flagged": float(flagged.mean()),
        "flagged_alike": median(alike[flagged]),
        "others_alike": median(alike[~flagged]),
        "copies": copied,
        "found": {kind: float(near(alter(real.images[:copied], means)).mean()) for kind, alter in ALTERED.items()},
    }


def redrawn(folder: Path) -> list[Row]:
    """Return, for each site of a finished run, the share of its released images that the rule takes for copies."""
    run, rows = RunFolder.of_run(folder), []
    for site, data in run.sites.items():
        real = joined([data.train, data.val, data.test, data.holdout])
        images = [
            Release.load(path).images for path in sorted(run.files.folder.glob(f"server/stages/release-r*-{site}-*"))
        ]
        if images:
            share = float(NearCopies(real)(np.concatenate(images)).mean())
            names = {"run": folder.name, "site": site, "generator": run.study.generator.kind}
            rows.append(names | {"real": len(real), "released": sum(map(len, images)), "redrawn": share})
    return rows


def table(rows: list[Row]) -> str:
    """Return a Markdown table of all sets, one a column."""

    def line(name: str, values: list[float | None]) -> str:
        return f"| {name} | " + " | ".join("-" if v is None else f"{v:.3f}" for v in values) + " |"

    lines = [
        "| share taken for copies | " + " | ".join(row["set"] for row in rows) + " |",
        "|---" * (1 + len(rows)) + "|",
    ]
    lines.append(line("held-out real images", [row["held_out_flagged"] for row in rows]))
    lines.append(
        line("their correlation with the most alike real image (median)", [row["flagged_alike"] for row in rows])
    )
    lines.append(line("that of all other held-out images", [row["others_alike"] for row in rows]))
    lines += [line(kind, [row["found"][kind] for row in rows]) for kind in ALTERED]
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> None:
    """Measure each set, and write JSON and the table."""
    own = dict(word.split("=", 1) for word in words)
    results: Row = {"sets": [], "runs": []}
    for name in own.get("sets", ",".join(SETS)).split(","):
        config = compose_study([f"dataset={name}"]).data
        results["sets"].append(measure(name, load_source(replace(config, root=own.get("data.root", config.root)))))
        print(results["sets"][-1], flush=True)
    for folder in filter(None, own.get("runs", "").split(",")):
        results["runs"] += redrawn(Path(folder))
    write_json(Path(own["out"]), results)
    write_atomic(Path(own["out"]).with_suffix(".md"), table(results["sets"]).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
