"""What labels and patient ids of an npz file become: no class is made up, none vanishes untold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkr.config import DataConfig
from fedkr.data import load_source
from fedkr.data.sources.labels import classes_of, groups_of
from fedkr.errors import UserError


@pytest.fixture
def labelled(arrays, save):
    """Load the small file with its labels, 0 and 1, replaced by other values; return the source."""

    def load(zero, one, classes=(), **changes):
        values = {f"{s}_labels": np.array([zero, one])[arrays[f"{s}_labels"].ravel()] for s in ("train", "val", "test")}
        return load_source(DataConfig(name="npz", path=save(arrays | values | changes), classes=list(classes)))

    return load


def counts(source):
    return source.pool.classes, source.pool.class_counts().tolist(), source.test.class_counts().tolist()


@pytest.mark.parametrize(("zero", "one"), [(1, 2), (0, 2), (0, 255), (100_000, 100_001), (3, 4), (1.0, 2.0)])
def test_numbers_that_do_not_count_from_0_are_names_and_the_mapping_is_told(labelled, zero, one):
    source = labelled(zero, one)
    names = (f"{zero:g}", f"{one:g}") if zero < 100 else ("100000", "100001")
    assert counts(source) == (names, [25, 25], [7, 7])
    (warning,) = source.warnings
    assert f"{names[0]} is class 0, {names[1]} is class 1" in warning and warning.startswith("own.npz: ")


@pytest.mark.parametrize(("zero", "one"), [(0, 1), (0.0, 1.0), (False, True), (np.uint64(0), np.uint64(1))])
def test_whole_numbers_of_any_type_that_count_from_0_are_taken_as_they_are(labelled, zero, one):
    source = labelled(zero, one)
    assert counts(source) == (("0", "1"), [25, 25], [7, 7])
    assert source.warnings == []


@pytest.mark.parametrize(("zero", "one"), [("healthy", "ill"), (b"healthy", b"ill")])
def test_text_is_a_classs_name(labelled, zero, one):
    source = labelled(zero, one)
    assert counts(source) == (("healthy", "ill"), [25, 25], [7, 7]) and source.warnings == []
    assert labelled(zero, one, ["ill", "healthy"]).pool.labels.tolist() == (1 - source.pool.labels).tolist()


def test_text_of_one_spelling_in_two_encodings_is_one_class(labelled):
    one, other = "gr\u00f6\u00dfe", "gro\u0308\u00dfe"
    assert labelled(one, "klein", [other, "klein"]).pool.class_counts().tolist() == [25, 25]
    assert labelled(other, "klein", [one, "klein"]).pool.class_counts().tolist() == [25, 25]


def test_what_looks_like_a_missing_value_is_a_class_where_the_study_names_it(labelled):
    assert labelled("nan", "b", ["nan", "b"]).pool.class_counts().tolist() == [25, 25]


def test_two_names_that_read_the_same_are_no_two_classes(labelled):
    one, other = "gr\u00f6\u00dfe", "gro\u0308\u00dfe"
    with pytest.raises(UserError, match="two classes have one name"):
        labelled(0, 1, [one, other])


def test_numbered_text_is_in_the_order_of_its_numbers(labelled):
    assert labelled("10", "2").pool.classes == ("2", "10")


def test_the_studys_names_say_what_numbers_mean(labelled):
    assert counts(labelled(1, 2, ["1", "2", "3"]))[1] == [25, 25, 0]
    assert counts(labelled(0, 1, ["no", "yes"]))[1] == [25, 25]
    # Places, although one of them is a name too.
    assert counts(labelled(0, 1, ["1", "2"]))[1] == [25, 25]


REFUSED = {
    "negative": ((-1, 1), (), "train_labels holds -1"),
    "from 1 under names": ((1, 2), ("a", "b"), "train_labels holds 2, but there are 2 class names .* from 0 to 1"),
    "not whole": ((0, 0.5), (), "train_labels holds 0.5; give every image a whole number"),
    "NaN": ((0, np.nan), (), "train_labels holds 20 NaN values"),
    "infinite": ((0, np.inf), (), "train_labels holds inf"),
    "missing text": (("a", "nan"), (), "train_labels holds 'nan', a missing value"),
    "empty text": (("a", " "), (), "train_labels holds ' ', a missing value"),
    "an unknown name": (("a", "b"), ("a", "c"), "train_labels holds 'b', but there are 2 class names"),
    "no UTF-8": ((b"\xff", b"a"), (), "train_labels holds bytes that are not UTF-8"),
    "dates": ((np.datetime64("2020-01-01"), np.datetime64("2021-01-01")), (), "train_labels has dtype datetime64"),
    "one class": ((1, 1), (), "only one class"),
    "beyond int64": ((np.uint64(0), np.uint64(2**64 - 1)), (), "train_labels holds 18446744073709551615"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_label_is_refused_in_one_line_with_its_array_and_value(labelled, case):
    values, names, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as caught:
        labelled(*values, names)
    assert "\n" not in str(caught.value) and "own.npz" in str(caught.value)


def test_numbers_in_one_split_and_text_in_another_are_refused(labelled):
    with pytest.raises(UserError, match=r"labels of two kinds .*test_labels text"):
        labelled(0, 1, test_labels=np.array(["0", "1"] * 7))


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=60).filter(lambda values: len(set(values)) > 1))
def test_every_class_has_an_image_and_every_image_keeps_its_value(values):
    half = len(values) // 2
    splits = {"train": np.array(values[:half] or values), "test": np.array(values[half:])}
    classes, labels, _ = classes_of(splits, (), "file")
    assert {int(name) for name in classes} == set(np.concatenate(list(splits.values())).tolist())
    for split, own in splits.items():
        assert [int(classes[label]) for label in labels[split]] == own.tolist()


def test_patient_ids_of_any_kind_are_the_same_patients_in_all_splits():
    groups = groups_of({"train": np.array(["p1", "p2", "p1"]), "test": np.array(["p2", "p9"])})
    train, test = groups["train"], groups["test"]
    assert train[0] == train[2] != train[1] == test[0] != test[1]
    mixed = groups_of({"train": np.array([7, 8]), "test": np.array(["8", "9"])})
    assert mixed["train"][1] == mixed["test"][0]


@pytest.mark.parametrize("ids", [np.arange(40.0) // 4, np.array([f"p{i // 4}" for i in range(40)])])
def test_text_and_whole_floats_are_patient_ids(arrays, save, ids):
    splits = ("train_images", "train_labels", "test_images", "test_labels")
    source = load_source(DataConfig(name="npz", path=save({k: arrays[k] for k in splits} | {"train_groups": ids})))
    assert len(np.unique(source.pool.groups)) == 10
    assert source.warnings[0].startswith("own.npz: test_groups is missing")


def test_a_missing_patient_id_is_refused(arrays, save):
    ids = {f"{s}_groups": np.array(["p", "nan"] * (n // 2)) for s, n in (("train", 40), ("val", 10), ("test", 14))}
    with pytest.raises(UserError, match="train_groups holds 'nan', a missing value"):
        load_source(DataConfig(name="npz", path=save(arrays | ids)))


def test_patient_ids_of_the_test_images_alone_are_refused(arrays, save):
    with pytest.raises(UserError, match="train_groups is missing while test has groups"):
        load_source(DataConfig(name="npz", path=save(arrays | {"test_groups": np.arange(14)})))
