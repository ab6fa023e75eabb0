import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedkr.audit.challenge import build_challenge
from fedkr.audit.copies import CopyFigures, ReleaseCopies, check_copies
from fedkr.data.images import ImageSet
from fedkr.errors import UserError
from fedkr.release import Release

FIGURES = CopyFigures(400, 24, 20, 390, 4, 400, 25, 390, 5)


def digits(seed):
    """Shuffled digits: the challenge of 400 members and 400 others, and fresh images of the same distribution."""
    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None]
    parts = np.split(np.random.default_rng(seed).permutation(len(images)), [400, 800])
    sets = [ImageSet(images[p], data.target[p].astype(np.int64), tuple(map(str, range(10)))) for p in parts]
    return build_challenge(*sets[:2]), sets[2].images


def checked(challenge, *rounds):
    releases = [Release(images, np.full((len(images), 10), 0.1, np.float16), {}) for images in rounds]
    return check_copies(releases, challenge, site="site-0", seed=0)


def test_five_percent_of_verbatim_copies_are_flagged_and_named_exactly():
    challenge, fresh = digits(0)
    copies = checked(challenge, fresh[:380], challenge.members.images[:20])
    assert copies.figures.flagged and copies.figures.p_value < 0.001
    assert copies.figures.verbatim == 20
    verbatim = copies.suspects.distances == 0
    assert sorted(copies.suspects.released[verbatim]) == list(range(380, 400))
    assert sorted(copies.suspects.members[verbatim]) == list(range(20))
    assert verbatim[:20].all()
    assert copies.figures.share >= 0.05 > copies.figures.chance_share
    np.testing.assert_array_equal(copies.pairs.members[:20], copies.pairs.released[:20])
    assert (copies.pairs.distances[:20] == 0).all() and (copies.pairs.distances[20:] > 0).all()


def test_a_check_that_was_kept_is_the_one_that_was_made():
    challenge, fresh = digits(0)
    copies = checked(challenge, fresh[:50], challenge.members.images[:5])
    kept = ReleaseCopies.from_artifact(copies.as_artifact())
    assert kept.figures == copies.figures
    for made, read in ((copies.suspects, kept.suspects), (copies.pairs, kept.pairs)):
        for name, value in vars(made).items():
            np.testing.assert_array_equal(getattr(read, name), value)


def test_fresh_images_are_not_flagged():
    results = [checked(*digits(seed)).figures for seed in range(8)]
    assert not any(figures.flagged for figures in results)
    shares = np.array([[figures.share, figures.chance_share] for figures in results]).mean(0)
    assert (np.abs(shares - 0.01) < 0.015).all()


def test_smooth_images_that_come_close_to_everybody_are_no_copies():
    rng = np.random.default_rng(0)
    plain = rng.integers(60, 200, (20, 8, 8, 1))

    def noisy():
        images = np.repeat(plain, 15, axis=0) + rng.normal(0, 15, (300, 8, 8, 1))
        return ImageSet(np.rint(images).clip(0, 255).astype(np.uint8), np.zeros(300, np.int64), ("a",))

    figures = checked(build_challenge(noisy(), noisy()), np.repeat(plain, 15, axis=0).astype(np.uint8)).figures
    assert figures.share > 0.9 > 0.1 > figures.chance_share
    assert figures.members_found > 200 and not figures.flagged


def test_patients_count_once_however_many_of_their_images_are_found():
    challenge, fresh = digits(2)
    sides = []
    for first, side in ((0, challenge.members), (1000, challenge.nonmembers)):
        groups = first + np.arange(len(side)) // 10
        sides.append(ImageSet(side.images, side.labels, side.classes, groups))
    grouped = type(challenge)(*sides, challenge.duplicates)
    figures = checked(grouped, np.concatenate([fresh[:50], challenge.members.images[:10]])).figures
    assert (figures.members, figures.nonmembers) == (40, 40)
    assert figures.verbatim == 10 and figures.members_found < 10


def test_figures_are_made_anew_from_the_counts_that_travel_which_hold_no_single_image():
    counts = FIGURES.counts("site-0")
    assert {type(value) for name, value in counts.items() if name != "site"} == {int}
    assert CopyFigures.of_counts(json.loads(json.dumps(counts))) == FIGURES
    row = FIGURES.as_row("site-0")
    assert json.loads(json.dumps(row)) == row
    assert (row["share"], row["flagged"], row["site"]) == (0.06, 1, "site-0")


def test_a_site_without_a_release_is_named():
    challenge, _ = digits(3)
    with pytest.raises(UserError, match="copy check at site-0: no release"):
        checked(challenge)
