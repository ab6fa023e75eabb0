"""The attack of a study that has a site's generator learn its images by heart, and asks for what it draws."""

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_digits

from fedkr import wire
from fedkr.audit.near_copies import NearCopies
from fedkr.data.images import image_digests
from fedkr.errors import UserError
from fedkr.recycle import pipeline as pipeline_module
from fedkr.stages import Artifact
from sites.handlers import train_release
from sites.terms import everything
from sites.workspace import load_source, open_site, read_site_file

ROUND = wire.Request("", {"round": 1}, None)


@pytest.fixture
def ward(tmp_path):
    """Write the site file of a ward with real pictures; return a function that does, with another policy."""
    data = load_digits(n_class=3)
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))[:150]
    np.savez(tmp_path / "ward.npz", train_images=images[order[:120]], train_labels=data.target[order[:120]],
             test_images=images[order[120:]], test_labels=data.target[order[120:]])  # fmt: skip

    def write(**policy):
        site = {"name": "ward", "workspace": "work", "data": {"name": "npz", "path": "ward.npz"}, "device": "cpu"}
        (tmp_path / "ward.yaml").write_text(yaml.safe_dump(site | {"policy": policy}))
        return tmp_path / "ward.yaml"

    return write


def opened(path, study):
    source = load_source(read_site_file(path).data)
    return open_site({"site-file": str(path)}, study), everything(source.pool, source.test)


class Copying:
    """A generator that returns real images, a part of them, those of ``stolen`` (all splits), else noise."""

    stolen, share = np.zeros((0, 8, 8, 1), np.uint8), 1.0

    def __init__(self, *settings):
        pass

    def fit(self, data, job, save, state):
        save(1, Artifact({}, {"step": 1}))

    def load(self, artifact):
        pass

    def prune(self, artifact):
        return artifact

    def default_knobs(self):
        return {}

    def knob_candidates(self):
        return []

    def sample(self, labels, knobs, *seed):
        rng = np.random.default_rng(abs(hash(seed)) % 2**32)
        images = rng.integers(0, 256, (len(labels), 8, 8, 1), dtype=np.uint8)
        copies = rng.random(len(labels)) < self.share
        images[copies] = self.stolen[rng.integers(0, len(self.stolen), int(copies.sum()))]
        yield images


@pytest.fixture
def copying(monkeypatch):
    """Put the copying generator in the place of every other; return its class."""
    monkeypatch.setattr(pipeline_module, "build_generator", Copying)
    return Copying


@pytest.mark.parametrize("split", ["train", "val", "test", "holdout", "global"])
def test_a_generator_that_returns_the_sites_images_of_any_split_releases_nothing(split, ward, study, copying):
    site, _ = opened(ward(), study)
    copying.stolen = (site.global_test if split == "global" else getattr(site.data, split)).images
    copying.share = 1.0
    with pytest.raises(UserError, match="are near-copies of real ones after 4 redraws: nothing is released"):
        train_release(site, ROUND)


def test_copies_among_other_images_are_drawn_again_and_none_leaves(ward, study, copying):
    site, real = opened(ward(), study)
    copying.stolen, copying.share = real.images, 0.5
    release = wire.read_release(train_release(site, ROUND))
    assert not set(image_digests(release.images)) & set(image_digests(real.images))
    assert site.pipeline.near_copies(1, site.most_images).redrawn > len(release) / 4
    slices, count = site.pipeline.slices(site.most_images)
    assert len(release) == slices * count, "as many as agreed, whatever was drawn again"


def test_a_policy_of_refuse_stops_a_release_that_redraws_do_not_clean(ward, study, copying):
    site, real = opened(ward(near_copies="refuse"), study)
    copying.stolen, copying.share = real.images, 0.9
    with pytest.raises(UserError, match="near_copies: refuse"):
        train_release(site, ROUND)


def test_copies_leave_only_where_the_sites_own_policy_allows_them(ward, study, copying):
    site, real = opened(ward(near_copies="allow"), study)
    copying.stolen, copying.share = real.images, 1.0
    release = wire.read_release(train_release(site, ROUND))
    assert set(image_digests(release.images)) <= set(image_digests(real.images))


def test_an_overfitted_generator_sends_no_near_copy(ward, study, tmp_path):
    """The study of the attack: few training images, many steps, and no refusal of what teaches nothing."""
    few = {name: values[:22] for name, values in np.load(tmp_path / "ward.npz").items()}
    np.savez(tmp_path / "ward.npz", **few)
    study.generator.steps, study.generator.batch = 500, 16
    study.generator.options = {"width": 8, "steps_sample": 8, "lr": 0.01}
    study.recycle.refuse_collapsed, study.recycle.ratio, study.recycle.rounds = False, 4.0, 1
    released = {}
    for rule in ("allow", "redraw"):
        path = ward(near_copies=rule, min_class_count=1)
        site, real = opened(path, study)
        released[rule] = NearCopies(real)(wire.read_release(train_release(site, ROUND)).images).mean()
    assert released["allow"] > 0.3
    assert released["redraw"] == 0
