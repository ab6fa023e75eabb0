"""A class of few patients at a site: taught to no model, drawn by none, in no soft label, whatever the study plants."""

import numpy as np
import pytest
import yaml

from fedkr import wire
from sites.handlers import train_release
from sites.workspace import open_site

RARE = 2
ROUND = wire.Request("", {"round": 1}, None)


@pytest.fixture
def clinic(tmp_path):
    """Write a site file for images in groups of ten; the third class has 30 images of ``patients`` patients."""

    def write(patients, **policy):
        rng = np.random.default_rng(0)
        labels = np.repeat([0, 1, 2], [80, 80, 30])
        groups = np.concatenate([np.arange(160) // 2, 1000 + np.arange(30) % patients])
        images = rng.integers(0, 256, (190, 8, 8), dtype=np.uint8)
        images[:, 0, 0] = np.where(labels == RARE, 7, 200)
        np.savez(tmp_path / "images.npz", train_images=images, train_labels=labels, train_groups=groups)
        site = {"name": "clinic", "workspace": "work", "data": {"name": "npz", "path": "images.npz"}, "device": "cpu"}
        site |= {"policy": policy, "split": {"canary_kinds": ["mislabelled", "noise", "near-duplicate", "outlier"]}}
        (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
        return {"site-file": str(tmp_path / "site.yaml")}

    return write


def rare_images(images):
    return (images[:, 0, 0, 0] == 7).sum()


def test_a_class_of_many_images_of_few_patients_is_rare(clinic, study):
    site = open_site(clinic(patients=6, min_class_count=10), study)
    assert site.data.rare == (RARE,) and site.pipeline.left_out == ["2"]
    for part in (site.data.train, site.data.val, site.data.holdout):
        assert rare_images(part.images) == 0 and RARE not in part.labels
    assert open_site(clinic(patients=30, min_class_count=10), study).data.rare == ()


def test_no_canary_is_made_of_a_rare_class_or_lifts_it(clinic, study):
    study.audit.canaries, study.audit.canary_kinds = 12, ["mislabelled", "noise", "near-duplicate", "outlier"]
    site = open_site(clinic(patients=6, min_class_count=10), study)
    assert RARE not in site.data.train.labels and RARE not in site.data.canaries.labels
    assert rare_images(site.data.train.images) == rare_images(site.data.canaries.images) == 0


def test_a_rare_class_has_no_share_of_any_soft_label(clinic, study):
    release = wire.read_release(
        train_release(open_site(clinic(6, min_class_count=10), study), wire.Request("", {"round": 1}, None))
    )
    assert (release.soft_labels[:, RARE] == 0).all()


def test_soft_labels_leave_in_three_decimals_unless_the_policy_says_otherwise(clinic, study):
    usual = wire.read_release(train_release(open_site(clinic(30), study), ROUND)).soft_labels.astype(float)
    assert np.abs(usual * 1000 - np.rint(usual * 1000)).max() < 0.3
    first = wire.read_release(train_release(open_site(clinic(30, label_classes=1), study), ROUND)).soft_labels
    assert ((first > 0).sum(1) == 1).all()
