import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkr.config import DataConfig, PartitionConfig, Study
from fedkr.data import ImageSet, load_source, partition_sites, split_site
from fedkr.data.partition import left_out
from fedkr.errors import UserError

LABELS = np.random.default_rng(0).integers(0, 5, 600)


def partition(kind, sites=3, seed=0, labels=LABELS, groups=None, min_images=20, single_class="error", **options):
    study = Study(seed=seed, partition=PartitionConfig(kind=kind, **options))
    study.federation.sites, study.split.min_images, study.teacher.single_class = sites, min_images, single_class
    pool = ImageSet(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, tuple("abcde"), groups)
    return partition_sites(pool, study)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "quantity"])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**60), sites=st.integers(1, 5), alpha=st.sampled_from([0.5, 1.0, 100.0]))
def test_every_image_is_dealt_to_exactly_one_site(kind, seed, sites, alpha):
    result = partition(kind, sites, seed, alpha=alpha)
    assert sorted(np.concatenate(result).tolist()) == list(range(len(LABELS)))
    assert len(result) == sites


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "quantity", "pathological"])
def test_the_seed_alone_decides(kind):
    first, again, other = (partition(kind, seed=seed, alpha=1.0) for seed in (4, 4, 5))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_pathological_gives_each_site_its_number_of_classes_and_leaves_out_what_nobody_drew():
    result = partition("pathological", sites=2, classes_per_site=2)
    held = np.concatenate(result)
    assert all(len(np.unique(LABELS[indices])) == 2 for indices in result)
    assert len(set(held.tolist())) == len(held)
    assert len(held) == np.isin(LABELS, LABELS[held]).sum() < len(LABELS)


def test_iid_ignores_the_order_of_the_file():
    result = partition("iid", labels=np.sort(LABELS))
    assert all(len(np.unique(np.sort(LABELS)[indices])) == 5 for indices in result)


def test_a_small_alpha_skews_labels_and_a_large_one_does_not():
    def spread(alpha):
        held = partition("dirichlet", alpha=alpha, redraws=500)
        return np.std([np.bincount(LABELS[indices], minlength=5) for indices in held])

    assert spread(0.3) > 3 * spread(1000.0)


def test_quantity_skew_makes_sizes_uneven_but_keeps_the_label_mix():
    labels = np.tile(np.arange(2), 3000)
    held = partition("quantity", labels=labels, alpha=1.0, min_images=300, seed=3)
    assert max(map(len, held)) > 1.5 * min(map(len, held))
    assert all(abs(labels[indices].mean() - 0.5) < 0.1 for indices in held)


@pytest.mark.parametrize("seed", range(4))
def test_default_digits_sites_can_all_be_split_and_trained_on(seed):
    study = Study(seed=seed)
    pool = load_source(DataConfig()).pool
    for index, indices in enumerate(partition_sites(pool, study)):
        site = split_site(pool.subset(indices), study.split, seed, f"site-{index}")
        assert min(map(len, (site.val, site.test, site.holdout))) >= 1
        assert (site.train.class_counts() >= 2).sum() >= 2


def test_an_invalid_draw_is_drawn_again():
    with pytest.raises(UserError, match=r"after 0 redraws"):
        partition("dirichlet", alpha=0.1, sites=5, redraws=0)
    assert min(map(len, partition("dirichlet", alpha=0.1, sites=5, redraws=1000))) >= 20


def test_without_a_valid_draw_the_error_names_the_site_and_what_helps():
    with pytest.raises(
        UserError, match=r"partition=dirichlet: site \d would get .*partition.alpha.*federation.sites.*"
    ):
        partition("dirichlet", alpha=0.001, sites=5, redraws=2)


def test_one_class_sites_need_the_constant_teacher():
    with pytest.raises(UserError, match=r"set teacher.single_class=constant"):
        partition("pathological", classes_per_site=1)
    result = partition("pathological", classes_per_site=1, single_class="constant")
    assert all(len(np.unique(LABELS[indices])) == 1 for indices in result)


def test_the_study_says_whether_one_class_sites_are_allowed():
    pool = load_source(DataConfig()).pool
    study = Study(partition=PartitionConfig(kind="pathological", classes_per_site=1))
    study.teacher.single_class = "constant"
    assert len(partition_sites(pool, study)) == 3


def test_patients_go_to_one_site_each():
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(150), 4))
    for kind in ("iid", "dirichlet", "quantity"):
        result = partition(kind, groups=groups, alpha=1.0)
        held = [set(groups[indices].tolist()) for indices in result]
        assert sum(map(len, held)) == 150
        assert sum(map(len, result)) == len(LABELS)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("iid", {"sites": 601}, r"federation.sites=601: more than the 600 images"),
        ("iid", {"sites": 40}, r"federation.sites=40: with split.min_images=20 at least 800 images"),
        ("iid", {"sites": 5, "groups": np.arange(600) % 4}, r"federation.sites=5: more than the 4 groups \(patients\)"),
        ("pathological", {"classes_per_site": 9}, r"partition.classes_per_site=9: the pool has 5 classes"),
    ],
)
def test_what_cannot_be_met_is_refused_in_one_line(kind, options, message):
    with pytest.raises(UserError, match=message) as caught:
        partition(kind, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("sites", "each"), [(10, 1), (5, 2), (4, 3), (7, 2), (3, 10)])
@pytest.mark.parametrize("seed", range(5))
def test_pathological_deals_every_class_once_before_any_is_dealt_again(sites, each, seed):
    labels = np.repeat(np.arange(10), 60)
    pool = ImageSet(np.zeros((600, 1, 1, 1), np.uint8), labels, tuple("0123456789"))
    study = Study(seed=seed, partition=PartitionConfig(kind="pathological", classes_per_site=each))
    study.federation.sites, study.split.min_images, study.teacher.single_class = sites, 4, "constant"
    dealt = partition_sites(pool, study)
    assert all(len(np.unique(labels[held])) == each for held in dealt)
    assert left_out(pool, dealt) == [] and len(np.unique(np.concatenate(dealt))) == 600


def test_classes_that_no_site_has_are_named_and_those_without_images_are_not():
    labels = np.repeat([0, 1, 2, 3], 100)
    pool = ImageSet(np.zeros((400, 1, 1, 1), np.uint8), labels, ("a", "b", "c", "d", "no images"))
    study = Study(partition=PartitionConfig(kind="pathological", classes_per_site=2))
    study.federation.sites = 1
    (held,) = partition_sites(pool, study)
    missing = left_out(pool, [held])
    assert len(missing) == 2 and set(missing) == set("abcd") - {pool.classes[label] for label in labels[held]}
    study.partition.kind = "iid"
    assert left_out(pool, partition_sites(pool, study)) == []
