"""Pipeline references: each repeats the site's pipeline on its half, with what was chosen for the site itself."""

import dataclasses

import numpy as np
import pytest

from fedkr.audit.references import shadows as pipeline_shadows
from fedkr.audit.references.direct import balanced_membership
from fedkr.audit.references.shadows import PipelineShadows, scaled_steps, shadow_study
from fedkr.config import GeneratorConfig, PrivacyConfig
from fedkr.data import ImageSet, SiteData
from fedkr.errors import UserError
from fedkr.progress import SilentProgress
from fedkr.recycle import SitePipeline, pipeline_class
from fedkr.recycle.pipeline import site_job
from fedkr.recycle.terms import Terms
from fedkr.release import ReleasedSets
from fedkr.stages import StageStore

CLASSES = ("dark", "bright")


def draws(*sizes, mark=0):
    count = sum(sizes)
    images = (mark + np.arange(count, dtype=np.uint8))[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    return ReleasedSets.of_arrays(images, np.full((count, 2), 0.5, np.float16), sizes)


@pytest.fixture
def candidates():
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    pixels = np.where(labels, 210, 40)[:, None, None, None] + rng.normal(0, 12, (48, 8, 8, 1))
    return ImageSet(np.clip(pixels, 0, 255).astype(np.uint8), labels.astype(np.int64), CLASSES)


@pytest.fixture
def target(candidates, tiny_study, runtime, tmp_path):
    """The pipeline under audit: it trained on the first 32 of the candidates."""
    train, val = candidates.subset(np.arange(32)), candidates.subset(np.arange(12))
    data = SiteData(train, val, val, candidates.subset(np.arange(32, 48)))
    return SitePipeline(
        "site-0",
        data,
        tiny_study,
        StageStore(tmp_path / "stages"),
        site_job(tiny_study, "site-0", runtime, SilentProgress()),
    )


@pytest.fixture
def shadows(target, candidates):
    membership = balanced_membership(2, len(candidates), np.random.default_rng(1))
    return PipelineShadows(target, candidates, membership, max_images=1000)


@pytest.mark.parametrize(("images", "steps"), [(50, 50), (51, 51), (25, 25), (100, 100), (0, 1)])
def test_references_get_as_many_epochs_as_the_target_and_at_least_one_step(images, steps):
    assert scaled_steps(100, images, 100) == steps
    assert scaled_steps(10, 1, 3) == 4


def test_a_shadow_trains_longer_and_keeps_rarer_classes_with_fewer_images(tiny_study):
    tiny_study.recycle.min_class_count = 5
    half = shadow_study(tiny_study, 50, 100)
    assert (half.generator.steps, half.teacher.steps, half.recycle.min_class_count) == (3, 3, 2)
    assert shadow_study(tiny_study, 200, 100).recycle.min_class_count == 5
    assert half.student == tiny_study.student


@pytest.fixture
def guaranteed(target, candidates, tiny_study):
    """Return a function that makes the shadows of a pipeline with a guarantee, and the least count of its site."""
    generator = GeneratorConfig("moments", options={"components": 8})
    privacy = PrivacyConfig("dp", 50.0, 1e-5)
    study = dataclasses.replace(tiny_study, generator=generator, privacy=privacy)
    membership = balanced_membership(2, len(candidates), np.random.default_rng(1))

    def make(least):
        own = pipeline_class(study)("site-0", target.data, study, target.stages, target.job, Terms(least=least))
        return PipelineShadows(own, candidates, membership, max_images=1000)

    return make


def test_a_shadow_of_a_guarantee_keeps_to_the_sites_least_count_in_its_share(guaranteed):
    strict, lenient = guaranteed(8), guaranteed(1)
    half, usual = int(strict.membership[0].sum()), len(strict.target.data.train)
    assert strict._pipeline(0, strict.target.stages).terms.least == 8 * half // usual > 1
    assert lenient._pipeline(0, strict.target.stages).terms.least == 1
    assert strict._key(0) != lenient._key(0)
    assert len(lenient.release(0)(0).images)


def test_a_half_that_is_too_small_for_the_noise_is_told_as_a_references(guaranteed):
    with pytest.raises(UserError, match=r"reference pipeline 1 of 2, on 21 images: by the noisy counts no class has"):
        guaranteed(1000).release(0)


def test_each_shadow_learns_from_its_half_alone(shadows, target, candidates, monkeypatch):
    seen = []
    release = SitePipeline.release

    def watched(self, *args):
        seen.append((self.site, self.data.train.images))
        return release(self, *args)

    monkeypatch.setattr(SitePipeline, "release", watched)
    shadows.students(None)
    assert [site for site, _ in seen] == ["site-0/shadow-0", "site-0/shadow-1"]
    for (_, images), half in zip(seen, shadows.membership, strict=True):
        assert np.array_equal(images, candidates.images[half])


def test_nothing_is_searched_again_the_shadows_take_the_targets_choice(shadows, target, monkeypatch):
    choice = target.choose()
    monkeypatch.setattr("fedkr.recycle.pipeline.CandidateScorer", lambda *a, **k: pytest.fail("searched"))
    shadow = shadows._pipeline(0, StageStore(target.stages.folder / "here"))
    chosen = shadow.choose()
    assert chosen["knobs"] == choice["knobs"]
    share = chosen["checkpoint"] / shadow.study.generator.steps
    assert share == pytest.approx(choice["checkpoint"] / target.study.generator.steps, abs=0.25)


def test_students_answer_for_every_shadow_and_are_trained_once(shadows, target, candidates, monkeypatch):
    students = shadows.students(draws(6, 6))
    assert students.logits(candidates.images[:5]).shape == (2, 5, 2)
    monkeypatch.setattr("fedkr.audit.references.shadows.distill_student", lambda *a, **k: pytest.fail("trained again"))
    again = shadows.students(draws(6, 6))
    assert np.array_equal(again.logits(candidates.images), students.logits(candidates.images))


@pytest.mark.parametrize("others", [0, 2])
def test_where_the_policy_cuts_all_releases_alike_a_shadows_student_takes_the_targets_steps(
    target, candidates, monkeypatch, others
):
    trained, train = [], pipeline_shadows.distill_student

    def watched(config, *args, **settings):
        trained.append(config.steps)
        return train(config, *args, **settings)

    monkeypatch.setattr(pipeline_shadows, "distill_student", watched)
    membership = balanced_membership(2, len(candidates), np.random.default_rng(1))
    sent = ReleasedSets(draws(16, 16), 2, others) if others else None
    PipelineShadows(target, candidates, membership, max_images=16).students(sent)
    assert trained == [(1 + others) * target.study.student.steps] * 2


def test_students_with_other_sites_releases_are_other_students_of_the_same_shadows(shadows, candidates, monkeypatch):
    alone = shadows.students(None)
    monkeypatch.setattr("fedkr.audit.references.shadows.ShadowPipeline", lambda *a, **k: pytest.fail("repeated"))
    pooled = shadows.students(draws(6, 6))
    assert not np.array_equal(alone.logits(candidates.images), pooled.logits(candidates.images))


def test_other_halves_are_other_shadows(shadows, target, candidates):
    keys = {target.stages.path("s", shadows._key(m)) for m in range(2)}
    changed = dataclasses.replace(target.study.recycle, ratio=2.0)
    target.study = dataclasses.replace(target.study, recycle=changed)
    assert len(keys | {target.stages.path("s", shadows._key(0))}) == 3
