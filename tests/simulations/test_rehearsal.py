"""`fedkr privacy RUN`: a run's own sites, images and stages, with the audit and the changes of a rehearsal."""

import numpy as np
import pytest

from fedkr.errors import UserError
from server.composition import compose_study
from simulations import rehearsal
from simulations.run_folder import RunFolder
from simulations.study.run import run_study
from sites.rehearsal import AS_IS

QUICK = [
    "backend=inline", "audit=off", "strategy.compare=[local]", "dataset=npz", "partition=iid", "federation.sites=2",
    "device=cpu", "student.arch=resnet8", "student.width=4", "student.steps=2", "strategy.steps=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short run on an npz file."""
    tmp_path = tmp_path_factory.mktemp("rehearsal")
    images = np.random.default_rng(0).integers(0, 256, (160, 8, 8), np.uint8)
    np.savez(tmp_path / "own.npz", train_images=images, train_labels=np.arange(160) % 2)
    return run_study(compose_study([*QUICK, f"data.path={tmp_path}/own.npz", f"run_dir={tmp_path}/run"]))


def test_a_runs_site_is_rehearsed_as_it_is_and_with_each_change_alone(run, monkeypatch):
    monkeypatch.setattr(rehearsal, "rehearse", lambda site, change: (site, change))
    found = dict(reversed(pair) for pair in rehearsal.rehearse_run(run, "site-1", 4, None))
    usual = found[AS_IS]
    quarter = usual.study.generator.steps // 4
    augment, shorter = "generator.options.augment=0.12", f"generator.steps={quarter}"
    assert list(found) == [AS_IS, augment, shorter, f"{augment} {shorter}"]
    before = RunFolder.of_run(run)
    np.testing.assert_array_equal(usual.data.train.images, before.sites["site-1"].train.images)
    assert usual.pipeline.stages.folder == run / "sites" / "site-1" / "stages"
    assert usual.study.audit.enabled and usual.study.audit.pipeline_references == 4
    # What the run left is found again: none of its stages is named by the audit.
    assert usual.pipeline.choice_key() == type(usual.pipeline).choice_key(_unaudited(usual, before.study))
    both = found[f"{augment} {shorter}"].study.generator
    assert (both.steps, both.options["augment"]) == (quarter, 0.12)
    assert found[augment].study.generator.steps == usual.study.generator.steps
    assert found[shorter].study.generator.options == usual.study.generator.options


def _unaudited(site, study):
    """The pipeline of a run's own study at a site."""
    own = site.pipeline
    return type(own)(own.site, own.data, study, own.stages, own.job, own.terms)


@pytest.mark.parametrize(
    ("site", "changes", "line"),
    [
        ("site-2", [], "SITE='site-2': unknown site; did you mean"),
        ("site-0", ["recycle.rounds=0"], "recycle.rounds=0: must be at least 1"),
        ("site-0", ["data.limit=10"], "are not those that the study began with"),
    ],
)
def test_another_site_a_wrong_change_and_other_images_are_refused(run, site, changes, line, monkeypatch):
    monkeypatch.setattr(rehearsal, "rehearse", lambda site, change: (site, change))
    with pytest.raises(UserError, match=line):
        list(rehearsal.rehearse_run(run, site, 4, changes))
