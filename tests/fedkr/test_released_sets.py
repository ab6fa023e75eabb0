"""The sets that a student turns to, one a regeneration round: in memory, from files, of several sites."""

import numpy as np

from fedkr.release import Release, ReleasedSets, SoftSet


def released(*sizes, mark=0):
    count = sum(sizes)
    images = (mark + np.arange(count, dtype=np.uint8))[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    return ReleasedSets.of_arrays(images, np.full((count, 2), 0.5, np.float16), sizes)


def marks(drawn):
    return drawn.images[:, 0, 0, 0].tolist()


def test_a_student_turns_to_one_set_after_the_other_and_then_to_the_first_again():
    three = released(2, 3, 1)
    assert [marks(three(i)) for i in range(4)] == [[0, 1], [2, 3, 4], [5], [0, 1]]
    union = three.united(released(1, 1, mark=100))
    assert [marks(union(i)) for i in range(3)] == [[0, 1, 100], [2, 3, 4, 101], [5, 100]]


def test_without_other_sites_the_sets_are_a_sites_own():
    alone = released(2, 3).united(None)
    assert [marks(alone(i)) for i in range(2)] == [[0, 1], [2, 3, 4]]


def test_sets_come_back_from_their_stage_and_are_named_by_all_they_hold():
    kept = ReleasedSets.from_artifact(released(2, 3).as_artifact())
    assert kept.arrays()[1] == [2, 3] and kept.digest() == released(2, 3).digest()
    assert len({released(2, 3).digest(), released(3, 2).digest(), released(2, 3, mark=1).digest()}) == 3


def test_several_exchanges_are_turned_to_one_after_the_other_as_the_central_student_does():
    (images, labels), _ = released(4).arrays()
    releases = [Release(images + mark, labels, {"slices": 2}) for mark in (0, 100)]
    found, sizes = ReleasedSets.of_releases(releases).arrays()
    assert sizes == [2, 2, 2, 2]
    assert marks(found) == [0, 1, 100, 101, 2, 3, 102, 103]


def test_files_give_the_same_sets_as_the_releases_that_they_hold(tmp_path):
    (images, labels), _ = released(4).arrays()
    paths = [tmp_path / f"{mark}.safetensors" for mark in (0, 100)]
    for mark, path in zip((0, 100), paths, strict=True):
        Release(images + mark, labels, {"slices": 2}).save(path)
    of_files = ReleasedSets.of_files([[path] for path in paths])
    assert of_files.digest() == ReleasedSets.of_releases([Release.load(path) for path in paths]).digest()


def test_a_union_keeps_the_order_of_its_parts():
    parts = [SoftSet(np.full((n, 8, 8, 1), n, np.uint8), np.full((n, 2), 0.5, np.float16)) for n in (2, 1)]
    assert marks(SoftSet.union(parts)) == [2, 2, 1]
