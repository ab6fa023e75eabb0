"""The pool of releases that the central student draws from, slice by slice, and the student itself."""

import numpy as np
import pytest
import torch

from fedkr.learning.job import Job
from fedkr.learning.runtime import Runtime
from fedkr.release import ReleasedSets
from server.student import train_student


@pytest.fixture
def pool(tmp_path, release_of):
    """Return a pool of two sites over some exchanges; a pixel is 100 site + 10 round + slice."""

    def make(exchanges, lost_after=None, **settings):
        rounds = []
        for number in range(1, exchanges + 1):
            paths = [tmp_path / f"site-{i}-r{number}.safetensors" for i in range(2)]
            for i, path in enumerate(paths):
                release_of(f"site-{i}", number, **settings).save(path)
            rounds.append(paths[:1] if lost_after is not None and number > lost_after else paths)
        return ReleasedSets.of_files(rounds)

    return make


def marks(drawn):
    return sorted({int(pixel) for pixel in np.unique(drawn[0])})


def test_one_exchange_gives_a_fresh_slice_of_every_site_each_time_and_then_begins_again(pool):
    pool = pool(1, count=6, slices=3)
    assert [marks(pool(i)) for i in range(4)] == [[10, 110], [11, 111], [12, 112], [10, 110]]


def test_several_exchanges_are_drawn_in_turn(pool):
    pool = pool(3, count=4, slices=1)
    assert [marks(pool(i)) for i in range(4)] == [[10, 110], [20, 120], [30, 130], [10, 110]]


def test_several_exchanges_of_several_slices_use_every_slice(pool):
    pool = pool(2, count=4, slices=2)
    assert [marks(pool(i)) for i in range(5)] == [[10, 110], [20, 120], [11, 111], [21, 121], [10, 110]]


def test_a_slice_is_a_part_of_the_union_in_the_dtypes_that_were_sent(pool):
    images, labels = pool(1, count=6, slices=3)(0)
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == ((4, 8, 8, 1), np.uint8, (4, 3), np.float16)


def test_a_site_lost_between_two_exchanges_leaves_a_smaller_set_that_still_trains(pool, study):
    pool = pool(2, count=8, slices=1, lost_after=1)
    study.student.steps = 12
    trained = train_student(study.student, pool, Job(Runtime.choose("cpu", "float32", 1)))
    assert all(torch.isfinite(t.float()).all() for t in trained.tensors.values())


def test_the_student_is_a_function_of_study_seed_and_releases(pool, study):
    job, pool = Job(Runtime.choose("cpu", "float32", 1)), pool(1)
    first, second = (train_student(study.student, pool, job) for _ in range(2))
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    other = train_student(study.student, pool, job.seeded(1))
    assert any(not torch.equal(first.tensors[name], other.tensors[name]) for name in first.tensors)
