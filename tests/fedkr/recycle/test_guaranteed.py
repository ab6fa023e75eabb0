"""The pipeline with a guarantee: a release follows from noisy answers about training images, and from nothing else."""

import dataclasses

import numpy as np
import pytest

from fedkr.config import GeneratorConfig, PrivacyConfig, check_study
from fedkr.data.images import ImageSet
from fedkr.documents import check_document
from fedkr.errors import UserError
from fedkr.progress import SilentProgress
from fedkr.recycle import SitePipeline, pipeline_class
from fedkr.recycle.pipeline import site_job
from fedkr.recycle.terms import NO_TERMS, Terms
from fedkr.release import check_release
from fedkr.stages import StageStore
from tests.fedkr.conftest import pictures


@pytest.fixture
def dp_study(tiny_study):
    generator = GeneratorConfig("moments", options={"components": 8})
    return dataclasses.replace(tiny_study, generator=generator, privacy=PrivacyConfig("dp", 8.0, 1e-5))


@pytest.fixture
def build(site_data, dp_study, runtime, tmp_path):
    """Return a function that makes a site's pipeline with a guarantee, as a new process would."""

    def make(data=site_data, study=dp_study, terms=NO_TERMS, folder="stages"):
        job = site_job(study, "site-0", runtime, SilentProgress())
        return pipeline_class(study)("site-0", data, study, StageStore(tmp_path / folder), job, terms)

    return make


def secret_of(text):
    asked = []

    def secret(name):
        asked.append(name)
        return f"{text} {name}"

    return secret, asked


def same(one, other):
    return np.array_equal(one.images, other.images) and np.array_equal(one.soft_labels, other.soft_labels)


def test_a_release_holds_images_of_the_classes_asked_for_and_says_what_is_promised(build):
    pipeline = build()
    release = pipeline.release(1)
    check_release(release, pipeline.build_generator().task.shape)
    check_document("manifest", release.manifest)
    assert set(np.unique(release.soft_labels)) == {0.0, 1.0}, "the class that each was drawn for"
    promised = {"epsilon": 8.0, "delta": 1e-5, "unit": "image", "mechanism": "gaussian"}
    assert release.manifest["privacy"] == promised
    known = {"site", "left_out", "checkpoint", "privacy", "round", "slices", "count"}
    assert set(release.manifest) == known, "no score, no figure of a teacher, no recall"


def test_a_diffusion_model_by_dp_sgd_is_released_in_the_same_way(build, dp_study, site_data):
    options = {"width": 8, "class_power": 1, "private_draws": 1, "steps_sample": 1}
    diffusion = dataclasses.replace(
        dp_study, generator=GeneratorConfig("edm", 2, 1000, 2, options), privacy=PrivacyConfig("dp", 40.0, 1e-5)
    )
    pipeline = build(study=diffusion)
    release, kept = pipeline.release(1), pipeline.checkpoint(2)
    assert release.manifest["checkpoint"] == 2 and release.manifest["privacy"]["mechanism"] == "dp-sgd"
    noisy, least = kept.tensors["counts"].numpy(), 2 + 2 * float(kept.tensors["count_noise"])
    assert np.array_equal(pipeline.class_counts(), np.where(noisy >= least, noisy.round(), 0))
    assert {name for name in kept.tensors if "average." not in name} == {"counts", "count_noise"}
    other = dataclasses.replace(site_data, val=pictures((1, 2, 9), seed=7))
    assert same(release, build(other, diffusion, folder="other").release(1))


def test_nothing_but_the_training_split_makes_a_difference(build, site_data, tmp_path):
    release = build().release(1)
    other = dataclasses.replace(site_data, val=pictures((1, 2, 9), seed=7))
    assert same(release, build(other, folder="other").release(1)), "val chooses, stops, scores and refuses nothing"
    assert not list((tmp_path / "other").glob("teacher-*")), "and no teacher of real images labels anything"


def test_size_and_classes_follow_the_noisy_counts_alone(build):
    pipeline = build()
    counts, kept = pipeline.class_counts(), pipeline.checkpoint(1)
    noisy, least = kept.tensors["counts"].numpy(), 2 + 2 * float(kept.tensors["count_noise"])
    assert np.array_equal(counts, np.where(noisy >= least, noisy.round(), 0))
    assert len(pipeline.release(1)) == pipeline.slices(None)[0] * max(1, counts.sum())
    assert counts.sum() != len(pipeline.data.train), "or the noise happens to be nought: take another seed"


def test_a_class_is_left_out_by_its_noisy_count(build):
    pipeline = build(terms=Terms(least=12))
    release, kept = pipeline.release(1), pipeline.checkpoint(1)
    least, counts = 12 + 2 * float(kept.tensors["count_noise"]), kept.tensors["counts"].numpy()
    few = [name for name, count in zip(pipeline.data.train.classes, counts, strict=True) if count < least]
    assert release.manifest["left_out"] == few and "absent" in few
    assert [pipeline.data.train.classes[k] for k in pipeline.undrawn()] == few
    drawn = {pipeline.data.train.classes[k] for k in release.soft_labels.argmax(axis=1)}
    assert drawn == set(pipeline.data.train.classes) - set(few)


def test_a_stricter_least_count_is_not_answered_from_an_earlier_release(build):
    lenient = build()
    usual, kept = lenient.release(1), lenient.checkpoint(1)
    above = np.sort(kept.tensors["counts"].numpy())[-2] - 2 * float(kept.tensors["count_noise"])
    stricter = build(terms=Terms(least=int(above) + 1)).release(1)
    assert len(stricter.manifest["left_out"]) > len(usual.manifest["left_out"])
    assert len(stricter.manifest["left_out"]) == len(kept.tensors["counts"]) - 1, "the largest class alone is left"
    assert len(np.unique(stricter.soft_labels.argmax(axis=1))) == 1


def test_where_no_class_has_enough_nothing_is_released(build):
    with pytest.raises(UserError, match="by the noisy counts no class has 10006"):
        build(terms=Terms(least=10_000)).release(1)


def test_all_exchanges_are_drawn_from_one_answer(build, dp_study):
    each = dataclasses.replace(dp_study, recycle=dataclasses.replace(dp_study.recycle, exchange="each"))
    pipeline = build(study=each)
    first, second = pipeline.releases(None)
    assert not same(first, second)
    assert len(list(pipeline.stages.folder.glob("generator-1-*"))) == 1


def test_the_noise_of_a_hospital_is_its_secrets_and_not_the_studys(build, dp_study):
    secret, asked = secret_of("a")
    release = build(terms=Terms(secret=secret)).release(1)
    assert same(release, build(terms=Terms(secret=secret), folder="again").release(1)), "a lost workspace costs nothing"
    other = build(terms=Terms(secret=secret_of("b")[0]), folder="other")
    assert not same(release, other.release(1))
    reseeded = build(study=dataclasses.replace(dp_study, seed=9), terms=Terms(secret=secret), folder="seed")
    reseeded.release(1)
    assert len(set(asked)) == 1, "a new seed of the study asks for no other noise: the answer is the one before"
    means = [p.checkpoint(1).tensors["means"] for p in (reseeded, other)]
    assert not np.array_equal(means[0], means[1])


DIFFUSION = GeneratorConfig("edm", 2, 1000, 1, {"width": 8, "class_power": 1, "private_draws": 1, "steps_sample": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 9},
        {"threads": 2},
        {"student": {"steps": 7, "components": 3}},
        {"recycle": {"rounds": 2, "min_class_count": 3}},
        {"data": {"flip": "both"}},
        {"federation": {"sites": 5}},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "generator", [GeneratorConfig("moments", options={"components": 8}), DIFFUSION], ids=["m", "d"]
)
def test_what_costs_nothing_again_is_the_same_answer_to_the_last_bit(build, dp_study, change, generator):
    asked, (secret, names) = [], secret_of("a")
    study = dataclasses.replace(dp_study, generator=generator, privacy=PrivacyConfig("dp", 40.0, 1e-5))
    for number, changes in enumerate(({}, change)):
        values = {
            name: dataclasses.replace(getattr(study, name), **value) if isinstance(value, dict) else value
            for name, value in changes.items()
        }
        # Sums in a workspace of their own, so that they are made again; a training is made again nowhere.
        folder = str(number) if generator.kind == "moments" else "one"
        pipeline = build(study=dataclasses.replace(study, **values), terms=Terms(secret=secret), folder=folder)
        asked.append(pipeline.checkpoint(pipeline.last_checkpoint()).tensors)
        where = pipeline.stages.path("generator", pipeline._generator_key()).name
        asked.append(where)
    assert len(set(names)) == 1 and asked[1] == asked[3], "in one workspace it would not be made again"
    assert all(np.array_equal(value, asked[2][name]) for name, value in asked[0].items())


def test_a_training_whose_workspace_is_lost_is_another_answer_that_is_paid_for(build, dp_study):
    study = dataclasses.replace(dp_study, generator=DIFFUSION, privacy=PrivacyConfig("dp", 40.0, 1e-5))
    secret, names = secret_of("a")
    kept = [build(study=study, terms=Terms(secret=secret), folder=folder) for folder in ("one", "one", "two")]
    counts = [pipeline.checkpoint(pipeline.last_checkpoint()).tensors["counts"] for pipeline in kept]
    assert np.array_equal(counts[0], counts[1]) and not np.array_equal(counts[0], counts[2])
    assert len(set(names)) == 2


def test_other_images_and_another_mechanism_have_other_noise(build, site_data, dp_study):
    secret, asked = secret_of("a")
    terms, train = Terms(secret=secret), site_data.train
    build(terms=terms).generator_job()
    fewer = dataclasses.replace(site_data, train=train.subset(np.arange(len(train) - 1)))
    build(fewer, terms=terms).generator_job()
    relabelled = ImageSet(train.images, np.roll(train.labels, 1), train.classes)
    build(dataclasses.replace(site_data, train=relabelled), terms=terms).generator_job()
    build(study=dataclasses.replace(dp_study, privacy=PrivacyConfig("dp", 4.0, 1e-5)), terms=terms).generator_job()
    components = GeneratorConfig("moments", options={"components": 9})
    build(study=dataclasses.replace(dp_study, generator=components), terms=terms).generator_job()
    assert len(set(asked)) == 5


def test_patients_are_the_unit_where_there_are_groups(build, site_data):
    train = site_data.train
    grouped = ImageSet(train.images, train.labels, train.classes, np.arange(len(train), dtype=np.int64) // 2)
    pipeline = build(dataclasses.replace(site_data, train=grouped))
    assert pipeline.release(1).manifest["privacy"]["unit"] == "patient"
    assert pipeline.class_counts().sum() < 0.8 * len(train), "counts are of patients"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"generator": GeneratorConfig("mixture")}, "privacy.mode=dp: generator.kind='mixture' has no guarantee"),
        ({"generator": GeneratorConfig("mine.moments")}, "generator.kind='mine.moments' has no guarantee"),
        ({"privacy": PrivacyConfig("dp", 0.0)}, "privacy.epsilon=0.0"),
        ({"privacy": PrivacyConfig("dp", 1e9)}, "privacy.epsilon=1000000000.0"),
        ({"privacy": PrivacyConfig("dp", float("nan"))}, "privacy.epsilon=nan"),
        ({"privacy": PrivacyConfig("dp", 8.0, 0.5)}, "privacy.delta=0.5"),
        ({"privacy": PrivacyConfig("dp", 8.0, 0.0)}, "privacy.delta=0.0"),
        ({"privacy": PrivacyConfig("dq")}, "privacy.mode='dq'"),
    ],
)
def test_a_study_that_promises_what_it_cannot_keep_is_refused(dp_study, change, line):
    with pytest.raises(UserError) as refused:
        check_study(dataclasses.replace(dp_study, **change))
    assert line in str(refused.value)


@pytest.mark.parametrize("option", ["doubt", "filter"])
def test_a_filter_or_doubt_would_ask_a_teacher(dp_study, option):
    setattr(dp_study.recycle, option, 0.5)
    with pytest.raises(UserError, match=rf"recycle.{option}=0.5: privacy.mode=dp has no teacher"):
        check_study(dp_study)


def test_without_a_guarantee_the_pipeline_is_the_usual_one(tiny_study):
    assert pipeline_class(tiny_study) is SitePipeline
