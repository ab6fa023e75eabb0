"""The audit's proof without any model: copies in a released set are found, and a shifted test split is not taken
for non-members.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fedkr.audit.challenge import Challenge, build_challenge, image_digests
from fedkr.audit.copies import ReleaseCopies, check_copies
from fedkr.audit.run_release import audit_release
from fedkr.audit.statistics.blind import blind_baseline, holm_reject
from fedkr.audit.subject import Subject
from fedkr.audit.targets import RELEASE, RELEASE_HEADLINE
from fedkr.config import AuditConfig, SplitConfig
from fedkr.data import ImageSet, split_site
from fedkr.release import Release
from fedkr.seeds import derive_seed, numpy_rng
from simulations.evidence.proof import XRAYS, Bench, Figures, dealt, digest_of, official_train

SITE = "proof"
LEVEL = 0.01
CLEAN, FEW, HALF = 0.0, 0.05, 0.5


@dataclass(frozen=True)
class CopySizes:
    """How many images are members, non-members, released, and RMIA's or a density's population."""

    members: int = 1500
    holdout: int = 1000
    released: int = 1500
    population: int = 600


def prove_copies(bench: Bench, seeds: Sequence[int], sizes: CopySizes | None = None) -> Figures:
    """Release real held-out images with members copied in, 0 %, 5 % and 50 % of the set; attack and check it.

    The dataset itself holds some images more than once, so that a set of other images can still hold a member, or a
    non-member, byte by byte. Judged is what is found without these; the same with them is reported beside it.

    Returns:
        A row a seed and share, and which of the expectations hold at every seed.
    """
    sizes = sizes or CopySizes()
    train = official_train(bench.source(XRAYS))
    once = distinct(train)
    rows, twice = (_copy_rows(bench, data, sizes, seeds) for data in (once, train))
    return {
        "sizes": dataclasses.asdict(sizes),
        "images_that_repeat_others": len(train) - len(once),
        "rows": rows,
        "rows_with_repeated_images": twice,
        "holds": _copies_hold(rows),
        "holds_with_repeated_images": _copies_hold(twice),
    }


def distinct(data: ImageSet) -> ImageSet:
    """Return the images without those that repeat an earlier one byte by byte."""
    first = {digest: index for index, digest in reversed(list(enumerate(image_digests(data.images))))}
    return data.subset(np.sort(np.fromiter(first.values(), np.int64)))


def _copy_rows(bench: Bench, data: ImageSet, sizes: CopySizes, seeds: Sequence[int]) -> list[Figures]:
    key = {"data": digest_of(data), **dataclasses.asdict(sizes)}
    return [
        bench.once("copies", key | {"seed": seed, "share": share}, partial(copied, data, sizes, seed, share))
        for seed in seeds
        for share in (CLEAN, FEW, HALF)
    ]


def copied(train: ImageSet, sizes: CopySizes, seed: int, share: float) -> Figures:
    """Return what the release attacks and the copy check say of a set of which ``share`` are members."""
    rng = numpy_rng(seed, "proof", "copies")
    counts = [sizes.members, sizes.holdout, sizes.released, sizes.population]
    members, holdout, clean, population = dealt(train, counts, rng)
    challenge = build_challenge(members, holdout)
    release, places, originals = with_copies(clean, challenge.members, share, rng)
    config = AuditConfig(fprs=[0.01])
    report = audit_release([release], population, Subject(RELEASE, SITE, challenge, config, seed))
    check = check_copies([release], challenge, site=SITE, seed=seed)
    attacks = {row["attack"]: {key: row[key] for key in row if key != "roc"} for row in report.rows}
    return {
        "seed": seed,
        "share": share,
        "copies": len(places),
        **named(check, challenge, places, originals),
        "check": check.figures.as_row(SITE),
        "headline": attacks[RELEASE_HEADLINE],
        "attacks": attacks,
    }


def with_copies(
    clean: ImageSet, members: ImageSet, share: float, rng: np.random.Generator
) -> tuple[Release, np.ndarray, np.ndarray]:
    """Put members in the place of a share of the clean images.

    Returns:
        The release, the indices of the copies in it, and of their originals among the members.
    """
    count = round(share * len(clean))
    places, originals = rng.permutation(len(clean))[:count], rng.permutation(len(members))[:count]
    images, labels = clean.images.copy(), clean.labels.copy()
    images[places], labels[places] = members.images[originals], members.labels[originals]
    soft = np.eye(len(clean.classes), dtype=np.float16)[labels]
    manifest = {"site": SITE, "round": 1, "slices": 1, "count": len(images), "left_out": []}
    return Release(images, soft, manifest), places, originals


def named(check: ReleaseCopies, challenge: Challenge, places: np.ndarray, originals: np.ndarray) -> Figures:
    """Return how many copies the check names beside the right member, and how many other images it suspects."""
    found = dict(zip(check.suspects.released.tolist(), check.suspects.members.tolist(), strict=True))
    images = challenge.members.images
    right = sum(
        place in found and np.array_equal(images[found[place]], images[original])
        for place, original in zip(places.tolist(), originals.tolist(), strict=True)
    )
    return {"copies_named": int(right), "others_suspected": len(found.keys() - set(places.tolist()))}


def prove_blind(bench: Bench, seeds: Sequence[int], shifted: int = 5, permutations: int = 2000) -> Figures:
    """Ask the blind baseline about random holdouts, and about the official test split in their place.

    Args:
        bench: data and stages.
        seeds: each redraws the split that every site uses, on the official training split.
        shifted: for so many of the seeds the official test split is tried too.
        permutations: of each test.
    """
    source = bench.source(XRAYS)
    train, test = official_train(source), source.test
    key = {"permutations": permutations, "data": digest_of(train, test)}
    tried = [(seed, "holdout", None) for seed in seeds] + [(seed, "official test", test) for seed in seeds[:shifted]]
    rows = [
        bench.once("blind", key | {"seed": s, "nonmembers": name}, partial(blind, train, outside, s, permutations))
        for s, name, outside in tried
    ]
    return {"level": LEVEL, "permutations": permutations, "rows": rows, "holds": _blind_holds(rows)}


def blind(train: ImageSet, outside: ImageSet | None, seed: int, permutations: int) -> Figures:
    """Return the blind baseline's figures for members against the holdout, or against ``outside``."""
    data = split_site(train, SplitConfig(), seed, SITE)
    challenge = build_challenge(data.train, data.holdout if outside is None else outside)
    found = blind_baseline(challenge.members, challenge.nonmembers, derive_seed(seed, SITE), permutations)
    return {
        "seed": seed,
        "nonmembers_are": "random holdout" if outside is None else "official test split",
        "auc": found.auc,
        "p_value": found.p_value,
        "rejected": holm_reject([found.p_value], LEVEL)[0],
        "members": len(challenge.members),
        "nonmembers": len(challenge.nonmembers),
    }


def _copies_hold(rows: Sequence[Figures]) -> dict[str, bool]:
    at = {share: [row for row in rows if row["share"] == share] for share in (CLEAN, FEW, HALF)}
    tpr = "tpr_at_fpr_0.01"
    return {
        "5 %: every copy named": all(row["copies_named"] == row["copies"] for row in at[FEW]),
        "5 %: flagged": all(row["check"]["flagged"] for row in at[FEW]),
        "5 %: TPR at 1 % FPR at least 4 %": all(row["headline"][tpr] >= 0.04 for row in at[FEW]),
        "5 %: its lower limit above 1 %": all(row["headline"][f"{tpr}_low"] > 0.01 for row in at[FEW]),
        "50 %: AUC at least 0.7": all(row["headline"]["auc"] >= 0.7 for row in at[HALF]),
        "clean: not flagged": not any(row["check"]["flagged"] for row in at[CLEAN]),
    }


def _blind_holds(rows: Sequence[Figures]) -> dict[str, bool]:
    random = [row["rejected"] for row in rows if row["nonmembers_are"] == "random holdout"]
    shifted = [row["rejected"] for row in rows if row["nonmembers_are"] != "random holdout"]
    return {
        "official test split: rejected at every seed": all(shifted),
        # A test at 1 % rejects more than one clean split in twenty with probability 0.017.
        "random holdout: at most one seed rejected": sum(random) <= 1,
    }
