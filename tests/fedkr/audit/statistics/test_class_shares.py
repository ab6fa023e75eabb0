import dataclasses

import numpy as np
import pytest

from fedkr.audit.statistics.blind import blind_baseline, voided
from fedkr.audit.statistics.class_shares import class_shares_p_value
from fedkr.config import BLIND_LEVEL, AuditConfig, Study, check_study, least_permutations
from fedkr.data.images import ImageSet
from fedkr.errors import UserError
from sites.coarse import coarse_p_value

CLASSES = ("a", "b", "c")


def image_set(rng, labels, groups=None):
    images = rng.integers(0, 256, (len(labels), 4, 4, 1), dtype=np.uint8)
    return ImageSet(images, np.asarray(labels, np.int64), CLASSES, groups)


def p_value(members, nonmembers, seed=0, permutations=199):
    return class_shares_p_value(members, nonmembers, seed, permutations)


def test_a_holdout_of_other_class_shares_is_told_which_the_blind_baseline_within_classes_cannot_see():
    rng = np.random.default_rng(0)
    members, nonmembers = image_set(rng, [0] * 90 + [1] * 30), image_set(rng, [0] * 30 + [1] * 40)
    by_shares, by_images = (
        p_value(members, nonmembers, permutations=999),
        blind_baseline(members, nonmembers, seed=0, permutations=199).p_value,
    )
    assert by_shares == 1 / 1000 and by_images > 0.01
    assert voided([(by_images, by_shares), (0.6, 0.4)]) == [True, False]


def test_a_random_split_is_rejected_as_often_as_the_level_says_and_a_stratified_one_never():
    rng = np.random.default_rng(1)
    random = []
    for seed in range(200):
        labels = rng.permutation([0] * 40 + [1] * 30 + [2] * 20)
        random.append(p_value(image_set(rng, labels[:60]), image_set(rng, labels[60:]), seed, 99))
    assert 0.04 <= np.mean(np.array(random) <= 0.1) <= 0.17
    assert p_value(image_set(rng, [0] * 60 + [1] * 30), image_set(rng, [0] * 20 + [1] * 10)) == 1.0


def test_patients_of_one_class_each_change_sides_as_a_whole():
    rng = np.random.default_rng(2)
    found = {"images": [], "patients": []}
    for seed in range(40):
        of_patient = rng.integers(0, 3, 24)
        sides = [np.repeat(part, 8) for part in np.split(rng.permutation(24), [16])]
        members, nonmembers = (image_set(rng, of_patient[groups], groups) for groups in sides)
        found["patients"].append(p_value(members, nonmembers, seed, 99))
        alone = (dataclasses.replace(side, groups=None) for side in (members, nonmembers))
        found["images"].append(p_value(*alone, seed, 99))
    rejected = {by: np.mean(np.array(values) <= 0.1) for by, values in found.items()}
    # Taken for independent images, a clean split of patients would be rejected most of the time.
    assert rejected["patients"] <= 0.25 and rejected["images"] > 0.5


@pytest.mark.parametrize("sites", [1, 3, 10, 11, 21, 30, 100])
def test_so_many_permutations_let_one_test_of_all_sites_be_rejected_even_as_a_hospital_rounds_it(sites):
    least = coarse_p_value(1 / (1 + least_permutations(sites)))
    assert voided([(least, 1.0)] + [(1.0, 1.0)] * (sites - 1))[0]
    assert AuditConfig().permutations_for(sites) == max(2000, least_permutations(sites))
    assert BLIND_LEVEL / (2 * 21) < 1 / (1 + 2000)


def test_a_study_whose_tests_could_never_reject_is_refused_before_it_runs():
    study = Study()
    study.federation.sites, study.audit.permutations = 21, 2000
    with pytest.raises(UserError, match=r"audit.permutations=2000: with federation.sites=21 .*4999 or more"):
        check_study(study)
    study.audit.permutations = 4999
    check_study(study)
