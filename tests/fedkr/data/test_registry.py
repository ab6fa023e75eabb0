import sys
import types

import numpy as np
import pytest

from fedkr.config import DataConfig
from fedkr.data import ImageSet, Source, load_source
from fedkr.errors import UserError


def test_digits_are_1797_images_of_ten_classes():
    source = load_source(DataConfig())
    assert len(source.pool) + len(source.test) == 1797
    assert source.pool.images.shape[1:] == (8, 8, 1)
    assert source.pool.classes == tuple("0123456789")
    assert (source.pool.images.min(), source.pool.images.max()) == (0, 255)


def test_the_digits_test_set_is_a_stratified_fifth():
    test = load_source(DataConfig()).test
    assert abs(len(test) - 1797 / 5) <= 1
    assert test.class_counts().min() >= 35


def test_the_test_set_is_the_same_in_every_process():
    test = load_source(DataConfig()).test
    assert test.labels[:12].tolist() == [1, 3, 6, 0, 2, 3, 7, 4, 7, 1, 7, 0]


def test_a_dataset_is_loaded_once_per_process():
    assert load_source(DataConfig()) is load_source(DataConfig())


def test_a_limit_keeps_a_stratified_part_of_the_pool_and_the_whole_test_set():
    full, limited = load_source(DataConfig()), load_source(DataConfig(limit=200))
    assert len(limited.pool) == 200
    assert len(limited.test) == len(full.test)
    assert limited.pool.class_counts().min() >= 19


def test_a_limit_above_the_pool_keeps_all_of_it():
    assert len(load_source(DataConfig(limit=5000)).pool) == len(load_source(DataConfig()).pool)


def own_module(monkeypatch, load):
    package, module = types.ModuleType("ownpackage"), types.ModuleType("ownpackage.scans")
    if load is not None:
        module.load = load
    monkeypatch.setitem(sys.modules, "ownpackage", package)
    monkeypatch.setitem(sys.modules, "ownpackage.scans", module)


def test_a_dotted_name_is_a_module_with_a_load_function(monkeypatch):
    def load(config):
        labels = np.arange(10) % 2
        images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
        pool, test = (ImageSet(half, labels, ("left", "right")) for half in (images[:10], images[10:]))
        return Source(pool, test, [f"limit {config.limit}"])

    own_module(monkeypatch, load)
    source = load_source(DataConfig(name="ownpackage.scans", limit=6))
    assert len(source.pool) == 6
    assert source.warnings == ["limit 6"]


@pytest.mark.parametrize(
    ("load", "message"),
    [(None, "has no function load"), (lambda config: 3, "returned int; return a Source")],
)
def test_a_module_that_keeps_no_contract_is_refused(monkeypatch, load, message):
    own_module(monkeypatch, load)
    with pytest.raises(UserError, match=message):
        load_source(DataConfig(name="ownpackage.scans", test_fraction=0.1 if load else 0.2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "brestmnist"}, "data.name='brestmnist': unknown dataset; did you mean 'breastmnist'"),
        ({"name": "nosuch.module"}, "data.name='nosuch.module': No module named 'nosuch'; install it"),
        ({"size": 32}, "data.size=32: the images of 'digits' have 8 x 8 pixels"),
        ({"size": -1}, "data.size=-1"),
        ({"limit": -5}, "data.limit=-5"),
        ({"test_fraction": 1.0}, "data.test_fraction=1.0"),
        ({"classes": ["cat", "dog"]}, "data.classes: 'digits' brings its own classes"),
    ],
)
def test_a_bad_option_is_named(options, message):
    with pytest.raises(UserError, match=message) as caught:
        load_source(DataConfig(**options))
    assert "\n" not in str(caught.value)


def classes_warned(pool, test, names, monkeypatch):
    def load(config):
        def images(count):
            return np.random.default_rng(count).integers(0, 256, (count, 4, 4, 1), np.uint8)

        sets = [ImageSet(images(len(labels)), np.array(labels), names) for labels in (pool, test)]
        return Source(*sets, [f"of {pool} {test}"])

    own_module(monkeypatch, load)
    # Another limit is another entry of the cache.
    return load_source(
        DataConfig(name="ownpackage.scans", limit=1000 + hash((tuple(pool), tuple(test))) % 10**6)
    ).warnings[1:]


@pytest.mark.parametrize(
    ("pool", "test", "told"),
    [
        ([0, 1, 2, 0], [0, 1, 2], []),
        ([0, 1, 0, 1], [0, 1, 2], ["have test images but none to train on, so that no model can get them right: c"]),
        ([0, 1, 2, 1], [1, 1, 1], ["have no test image, so that no figure says how well they are told apart: a, c"]),
        ([0, 1, 0, 1], [0, 1, 1], ["have no image at all: c"]),
    ],
)
def test_classes_that_are_of_no_use_are_told(monkeypatch, pool, test, told):
    assert classes_warned(pool, test, ("a", "b", "c"), monkeypatch) == [f"classes that {line}" for line in told]


def test_a_limit_that_loses_a_class_says_so():
    (warning,) = load_source(DataConfig(limit=9)).warnings
    assert warning.startswith("classes that have test images but none to train on")


@pytest.mark.parametrize("options", [{"range": [0, 100]}, {"scale": "image"}])
def test_an_option_for_more_than_8_bits_is_told_to_change_nothing_where_there_are_no_more(options):
    plain, set_so = load_source(DataConfig()), load_source(DataConfig(**options))
    assert not plain.warnings and plain.identity == set_so.identity
    assert set_so.warnings == ["digits: 8 bits, so data.range and data.scale change nothing"]
