"""What of releases teaches: shared images once, whoever was first, and no release far more than the others."""

import numpy as np
import pytest

from fedkr.release import Release, ReleasedSets, SoftSet
from server.sharing import KEPT, LABEL, MOST_TIMES, chained, fair_parts, named, sharing_sites

CLASSES = 3


def images(seed, count=40):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def labelled(pictures, label):
    return SoftSet(pictures, np.tile(np.eye(CLASSES, dtype=np.float16)[label], (len(pictures), 1)))


def shaken(own):
    return SoftSet(np.clip(own.images.astype(int) + 1, 0, 255).astype(np.uint8), own.soft_labels)


@pytest.fixture
def fair(tmp_path):
    """Return a function that saves releases of two slices, and returns the student's sets and the notes."""

    def run(releases, slices=2):
        files = {}
        for site, own in releases.items():
            files[site] = [tmp_path / f"{site}.safetensors"]
            Release(*own, {"site": site, "slices": slices}).save(files[site][0])
        sets = {site: ReleasedSets.of_files([paths]) for site, paths in files.items()}
        found = fair_parts(files, sharing_sites(sets))
        labels, kept = ({n: t.numpy() for n, t in named(found, kind).items()} for kind in (LABEL, KEPT))
        return ReleasedSets.of_files([[path for (path,) in files.values()]], labels, kept), found.info["notes"]

    return run


def counts(sets):
    return [len(sets(number).images) for number in range(len(sets))]


def test_releases_that_share_nothing_teach_as_they_came(fair):
    honest = {f"site-{number}": labelled(images(number), number) for number in range(3)}
    sets, notes = fair(honest)
    assert notes == [] and counts(sets) == [60, 60]
    assert np.array_equal(sets(0).soft_labels, np.concatenate([own.soft_labels[:20] for own in honest.values()]))


@pytest.mark.parametrize("names", [("site-0", "site-1"), ("site-1", "site-0")])
@pytest.mark.parametrize("change", [lambda own: own, shaken])
def test_a_replay_counts_once_by_the_mean_of_both_labels_whoever_was_first(fair, names, change):
    own = labelled(images(0), 0)
    copied = SoftSet(change(own).images, labelled(own.images, 1).soft_labels)
    sets, (note,) = fair(dict(zip(names, (own, copied), strict=True)) | {"site-2": labelled(images(2), 2)})
    # One image of each slice stays, as a student wants a set in every round.
    assert counts(sets) == [41, 41]
    assert np.allclose(sets(0).soft_labels[list(names).index("site-0") :][:20].mean(axis=0)[:2], 0.5, atol=0.05)
    assert "site-0 and site-1 released the same images (100% of those of site-1)" in note


def test_a_third_replay_is_one_more_opinion_and_a_repetition_is_none(fair):
    own = labelled(images(0), 0)
    twice = SoftSet.union([labelled(own.images, 1)] * 2)
    sets, notes = fair({"site-0": own, "site-1": twice, "site-2": labelled(own.images, 1)})
    assert np.allclose(sets(0).soft_labels[:20], [1 / 3, 2 / 3, 0], atol=0.01)
    assert len(notes) >= 2 and sum(counts(sets)) == 40 + 2 * 2


def test_a_few_shared_images_leave_both_releases_as_they_are(fair):
    own = images(0)
    other = images(1)
    other[:2] = own[:2]
    sets, notes = fair({"site-0": labelled(own, 0), "site-1": labelled(other, 1)})
    assert notes == [] and counts(sets) == [40, 40]


def test_a_release_far_larger_than_the_median_is_sampled_down_and_always_the_same_way(fair):
    releases = {f"site-{n}": labelled(images(n, 20), n) for n in range(2)} | {"site-2": labelled(images(2, 800), 2)}
    first, (note,) = fair(releases)
    again, _ = fair(releases)
    assert first.digest() == again.digest()
    assert sum(counts(first)) == 40 + MOST_TIMES * 20
    assert note == "site-2 released 800 images, more than 5 times the sites' median: 100 of them taught the student"


def test_a_large_site_among_small_ones_is_not_hurt(fair):
    sizes = {"site-0": 20, "site-1": 60, "site-2": 300}
    sets, notes = fair({site: labelled(images(n, size), n) for n, (site, size) in enumerate(sizes.items())})
    assert notes == [] and sum(counts(sets)) == sum(sizes.values())


def test_sites_that_share_with_one_another_are_one_party():
    party = chained([("a", "b"), ("b", "c"), ("c", "x")], ["a", "b", "c", "d"])
    assert party["a"] == party["b"] == party["c"] != party["d"]
