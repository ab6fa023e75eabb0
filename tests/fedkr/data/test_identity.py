"""One name for data: whatever decides a split or a result changes it, and it says what changed."""

import numpy as np
import pytest

from fedkr.config import DataConfig, Study
from fedkr.data import Source, load_source, study_source
from fedkr.data.identity import DIGITS, PARTS, identity_of, what_changed
from fedkr.errors import UserError

GROUPS = {"train_groups": np.arange(40) // 2, "val_groups": 50 + np.arange(10) // 2, "test_groups": 90 + np.arange(14)}


def other(array):
    """Return the array with its first value changed to another that it holds or could hold."""
    changed = array.copy()
    changed.flat[0] = changed.flat[1] if changed.flat[0] != changed.flat[1] else changed.flat[0] ^ 1
    return changed


@pytest.fixture
def study_on(arrays, save):
    """Write the small file, with patients, some arrays changed or (None) left out; return a study of what it holds."""

    def study_on(begun=None, classes=(), **changes):
        values = {name: array for name, array in {**arrays, **GROUPS, **changes}.items() if array is not None}
        config = DataConfig(name="npz", path=save(values), classes=list(classes))
        return Study(data=config, data_digest=load_source(config).identity if begun is None else begun.data_digest)

    return study_on


WITHOUT_PATIENTS = dict.fromkeys(GROUPS)
CHANGES = {
    "pixels of the training set": ["train_images"],
    "pixels of the val set": ["val_images"],
    "pixels of the test set": ["test_images"],
    "labels of the training set": ["train_labels"],
    "labels of the val set": ["val_labels"],
    "labels of the test set": ["test_labels"],
    "patients of the training set": ["train_groups"],
    "patients of the val set": ["val_groups"],
    "patients of the test set": ["test_groups"],
}


@pytest.mark.parametrize("part", CHANGES)
def test_data_that_are_read_again_are_held_to_each_part_of_what_they_were(study_on, arrays, part):
    begun = study_on()
    assert len(study_source(begun).pool) == 50
    again = study_on(begun, **{name: other({**arrays, **GROUPS}[name]) for name in CHANGES[part]})
    with pytest.raises(
        UserError, match=rf"own\.npz\) are not those that the study began with: {part} changed"
    ) as caught:
        study_source(again)
    assert "\n" not in str(caught.value)


def test_patient_ids_that_are_added_later_are_another_identity(study_on):
    begun = study_on(**WITHOUT_PATIENTS)
    patients = ", ".join(f"patients of the {name} set" for name in ("training", "val", "test"))
    with pytest.raises(UserError, match=f"began with: {patients} changed"):
        study_source(study_on(begun))


def test_other_class_names_are_another_identity(study_on):
    with pytest.raises(UserError, match="began with: classes changed"):
        study_source(study_on(study_on(), classes=["a", "b"]))


def test_where_the_val_set_begins_is_part_of_the_identity(study_on):
    source = study_source(study_on())
    moved = Source(source.pool, source.test, val=source.val + 1)
    assert what_changed(source.identity, moved.identity)[0] == "pixels of the training set"


def test_the_same_arrays_are_the_same_data_wherever_they_lie(study_on, arrays, save):
    begun = study_on()
    begun.data.path = save({**arrays, **GROUPS}, "elsewhere.npz")
    assert study_source(begun).identity == begun.data_digest


def test_an_identity_of_another_form_is_no_match():
    identity = identity_of(*(load_source(DataConfig()).pool,) * 2)
    assert len(identity) == DIGITS * len(PARTS)
    assert what_changed(identity, identity) == []
    assert what_changed("0" * 32, identity) == ["the digest's own form, as of another version of fedkr"]
