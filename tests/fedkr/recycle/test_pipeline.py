"""One site's pipeline: every stage once, again only when something it depends on changed, the holdout never."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedkr.data import SiteData
from fedkr.data.images import Shape
from fedkr.data.split import without_rare_classes
from fedkr.errors import UserError
from fedkr.learning.runtime import Runtime
from fedkr.progress import SilentProgress
from fedkr.recycle import SitePipeline
from fedkr.recycle import pipeline as pipeline_module
from fedkr.recycle.pipeline import content_digest, site_job
from fedkr.recycle.search import LEAST_FOR_RECALL
from fedkr.recycle.terms import NO_TERMS
from fedkr.release import check_release
from fedkr.stages import Artifact, StageStore, read_artifact

RARE = 2


@pytest.fixture
def build(site_data, tiny_study, runtime, tmp_path):
    """Return a function that makes the pipeline of a small site, as a new process would."""

    def make(data=site_data, study=tiny_study, runtime=runtime, site="site-0", **settings):
        job = site_job(study, site, runtime, SilentProgress())
        return SitePipeline(site, data, study, StageStore(tmp_path / "stages"), job, **settings)

    return make


class FakeGenerator:
    """Draws images whose every pixel is their label; remembers what was asked of it."""

    def __init__(self, calls):
        self.calls, self.loaded = calls, None

    def fit(self, data, job, save, state):
        self.calls.append(("fit", data, None if state is None else state.info["step"]))
        for step in (3, 6):
            if state is None or step > state.info["step"]:
                save(
                    step, Artifact({"average.w": torch.tensor(float(step)), "momentum": torch.zeros(5)}, {"step": step})
                )

    def load(self, artifact):
        self.loaded = artifact
        self.calls.append(("load", int(artifact.tensors["average.w"])))

    def prune(self, artifact):
        return Artifact({"average.w": artifact.tensors["average.w"]}, artifact.info)

    def sample(self, labels, knobs, *seed):
        self.calls.append(("sample", tuple(labels.tolist()), dict(knobs), seed))
        for start in range(0, len(labels), 7):
            chunk = labels[start : start + 7].astype(np.uint8)
            yield np.broadcast_to(chunk[:, None, None, None], (len(chunk), 8, 8, 1)).copy()

    def default_knobs(self):
        return {"steps": 1, "guidance": 1.0}

    def knob_candidates(self):
        return [{"steps": 1, "guidance": g} for g in (1.0, 2.0, 3.0)]


@pytest.fixture
def calls(monkeypatch):
    """Put fakes in the place of the slow steps and return what was called."""
    calls = []

    def train_teacher(config, data, job):
        calls.append(("teacher", job.seed))
        return Artifact({}, {"temperature": 1.0, "step": 1, "accuracy": 1.0})

    class FakeLabeller:
        def __init__(self, teacher, temperature, *settings):
            self.teacher = teacher

        def __call__(self, images, *seed):
            # Real images are labelled too: any class will do for them.
            return np.eye(4, dtype=np.float32)[images[:, 0, 0, 0] % 4] * 0.9 + 0.025

    monkeypatch.setattr(pipeline_module, "train_teacher", train_teacher)
    monkeypatch.setattr(pipeline_module, "load_teacher", lambda *settings: None)
    monkeypatch.setattr(pipeline_module, "SoftLabeller", FakeLabeller)
    monkeypatch.setattr(pipeline_module, "build_generator", lambda *args, **settings: FakeGenerator(calls))
    return calls


def trained(calls):
    return [call[0] for call in calls if call[0] in ("teacher", "fit")]


def scored_by(monkeypatch, scores, leakage=None, weight=0.0):
    """Score candidates by a table (checkpoint or guidance), instead of training students; leakage likewise."""

    class FakeScorer:
        def __init__(self, *settings):
            pass

        def trial(self, generator, knobs, stage):
            value = scores.get(int(generator.loaded.tensors["average.w"]), 0) + scores.get(knobs["guidance"], 0)
            of = None if leakage is None else leakage.get(int(generator.loaded.tensors["average.w"]), 0.5)
            return SimpleNamespace(advance=lambda until: pipeline_module.Score(value, 0.0, leakage=of, weight=weight))

        def of_real_images(self):
            return pipeline_module.Score(0.95, 0.0)

    monkeypatch.setattr(pipeline_module, "CandidateScorer", FakeScorer)


def test_a_whole_pipeline_makes_a_release_and_never_looks_at_test_or_holdout(build, tiny_study):
    pipeline = build()
    pipeline.own_model()
    release = pipeline.release(1)
    check_release(release, Shape(1, 8, 4))
    assert len(release) == tiny_study.recycle.rounds * len(pipeline.data.train)
    assert release.manifest["site"] == "site-0"
    assert release.manifest["checkpoint"] in (2, 6)
    few = pipeline.data.val.class_counts() < LEAST_FOR_RECALL
    assert [recall is None for recall in release.manifest["recalls"]] == few.tolist()
    assert len(release.manifest["scores"]["checkpoints"]) == 2


def test_a_release_is_compared_with_the_real_images_that_it_stands_for(build):
    pipeline = build()
    quality = pipeline.quality(1, None)
    assert 0 <= quality["precision"] <= 1 and 0 <= quality["recall"] <= 1
    assert len(quality["recognised"]) == len(pipeline.data.train.classes)
    assert quality["real"] == pipeline.choose()["real"] and quality["real"].keys() == {"score", "less", "clear"}
    assert build().quality(1, None) == quality


@pytest.mark.parametrize(("score", "clear"), [(0.5, 1), (0.94, 0), (1.0, 0)])
def test_what_teaches_clearly_less_than_real_images_is_told(build, calls, monkeypatch, score, clear):
    scored_by(monkeypatch, {3: score, 6: score})
    real = build().choose()["real"]
    assert real == {"score": 0.95, "less": pytest.approx(0.95 - score), "clear": clear}


def test_a_second_process_computes_nothing_again_and_answers_the_same(build, calls):
    first = build().release(1)
    build().own_model()
    calls.clear()
    again = build().release(1)
    build().own_model()
    assert calls == []
    assert np.array_equal(first.images, again.images)
    assert first.manifest == again.manifest


def test_too_few_val_images_choose_neither_checkpoint_nor_sampler(build, calls, monkeypatch, too_few_images):
    scored_by(monkeypatch, {3: 0.9, 6: 0.1, 2.0: 0.5})
    choice = build().choose()
    assert (choice["checkpoint"], choice["knobs"], choice["by_val"]) == (6, {"steps": 1, "guidance": 1.0}, False)
    # The last checkpoint is scored all the same: a generator that learned nothing must be found.
    assert [row["step"] for row in choice["checkpoints"]] == [6] and choice["tuning"] == [] and "real" not in choice


@pytest.fixture
def asked(calls, monkeypatch):
    """Doubt class 2, and return by which checkpoint and seed that was found, each time."""
    asked = []

    def doubted_classes(generator, counts, recycle, labeller, job):
        asked.append((int(generator.loaded.tensors["average.w"]), job.seed))
        return frozenset({2})

    monkeypatch.setattr(pipeline_module, "doubted_classes", doubted_classes)
    monkeypatch.setattr(FakeGenerator, "firmer_knobs", lambda _, knobs: knobs | {"guidance": 9.0}, raising=False)
    monkeypatch.setattr(FakeGenerator, "knob_candidates", lambda _: [])
    return asked


def test_classes_are_doubted_once_by_the_last_checkpoint_and_every_set_draws_them_nearer(
    build, calls, tiny_study, asked
):
    pipeline = build(study=other(tiny_study, recycle__doubt=0.5))
    pipeline.release(1)
    assert pipeline.drawn_nearer() == [pipeline.data.train.classes[2]] and asked == [(6, (0, "site-0"))]
    sets = {(call[2]["guidance"], 2 in call[1]) for call in calls if call[0] == "sample"}
    # Search and release alike.
    assert sets == {(9.0, True), (1.0, False)}
    assert build().drawn_nearer() == [] and len(asked) == 1


@pytest.mark.parametrize(
    ("changes", "times"),
    [
        ({"recycle__doubt": 0.6}, 2),
        ({"teacher__lr": 0.2}, 2),
        ({"generator__steps": 7}, 2),
        ({"seed": 1}, 2),
        ({"recycle__rounds": 2}, 1),
        ({"audit__enabled": False}, 1),
    ],
)
def test_a_teacher_is_asked_again_where_it_might_answer_otherwise(build, tiny_study, asked, changes, times):
    study = other(tiny_study, recycle__doubt=0.5)
    for again in (study, study, other(study, **changes)):
        assert build(study=again).doubted() == {2}
    assert len(asked) == times


def test_another_round_asks_the_same_generator_for_other_images(build, calls):
    first = build().release(1)
    calls.clear()
    second = build().release(2)
    assert trained(calls) == []
    seeds = {call[3] for call in calls if call[0] == "sample"}
    assert seeds == {(0, "site-0", "regenerate", 2)}
    assert (first.manifest["round"], second.manifest["round"]) == (1, 2)


def other(study, **settings):
    """Return a copy of a study with dotted settings changed."""
    for name, value in settings.items():
        group, _, field = name.partition("__")
        change = {field: value} if field else None
        study = dataclasses.replace(
            study, **{group: dataclasses.replace(getattr(study, group), **change) if change else value}
        )
    return study


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"seed": 1}, ["teacher", "fit"]),
        ({"threads": 2}, ["teacher", "fit"]),
        ({"data__flip": "both"}, ["teacher", "fit"]),
        ({"teacher__lr": 0.2}, ["teacher"]),
        ({"generator__steps": 7}, ["fit"]),
        ({"generator__options": {"width": 16}}, ["fit"]),
        ({"recycle__min_class_count": 3}, ["fit"]),
        ({"student__lr": 0.2}, []),
        ({"recycle__search_steps": 3}, []),
        ({"recycle__ratio": 2.0}, []),
        ({"audit__enabled": False}, []),
        ({"backend__kind": "inline"}, []),
    ],
)
def test_a_stage_is_computed_again_exactly_when_something_it_depends_on_changed(
    build, calls, tiny_study, changes, again
):
    build().release(1)
    calls.clear()
    build(study=other(tiny_study, **changes)).release(1)
    assert sorted(trained(calls)) == sorted(again)


@pytest.mark.parametrize(
    "changes",
    [
        {"student__lr": 0.2},
        {"recycle__search_steps": 3},
        {"recycle__ratio": 2.0},
        {"recycle__balance": "balanced"},
        {"recycle__views": 3},
        {"recycle__temperature": 2.0},
        {"recycle__rounds": 3},
        {"recycle__exchange": "each"},
    ],
)
def test_a_release_is_made_anew_when_a_setting_of_it_changed(build, calls, tiny_study, changes):
    build().release(1)
    calls.clear()
    build(study=other(tiny_study, **changes)).release(1)
    assert [call for call in calls if call[0] == "sample"]


def test_another_site_device_precision_or_cap_shares_no_stage(build, calls):
    build().release(1)
    for settings in ({"site": "site-1"}, {"runtime": Runtime(torch.device("cpu"), torch.bfloat16)}):
        calls.clear()
        build(**settings).release(1)
        assert sorted(trained(calls)) == ["fit", "teacher"]
    calls.clear()
    capped = build().release(1, max_images=10)
    assert len(capped) == 10
    assert trained(calls) == []


@pytest.mark.parametrize("split", ["train", "val"])
def test_one_changed_pixel_or_label_or_class_name_is_other_data(site_data, split):
    data = getattr(site_data, split)
    pixel, label = data.images.copy(), data.labels.copy()
    pixel[3, 2, 1, 0] ^= 1
    label[5] = (label[5] + 1) % 3
    renamed = dataclasses.replace(data, classes=("light", *data.classes[1:]))
    fewer = dataclasses.replace(data, classes=data.classes[:3])
    reshaped = dataclasses.replace(data, images=data.images.reshape(-1, 4, 16, 1))
    variants = [
        dataclasses.replace(data, images=pixel),
        dataclasses.replace(data, labels=label),
        renamed,
        fewer,
        reshaped,
        dataclasses.replace(data, groups=np.arange(len(data))),
        dataclasses.replace(data, groups=np.arange(len(data)) // 2),
    ]
    digests = {content_digest(variant) for variant in (data, *variants)}
    assert len(digests) == 8
    assert content_digest(data.subset(np.arange(len(data)))) == content_digest(data)


def test_other_data_is_trained_on_again(build, calls, site_data, pictures):
    build().release(1)
    calls.clear()
    build(data=dataclasses.replace(site_data, train=pictures((20, 16, 12), seed=5))).release(1)
    assert sorted(trained(calls)) == ["fit", "teacher"]


def test_generator_training_goes_on_behind_the_last_checkpoint_of_a_killed_process(build, calls, monkeypatch):
    write = pipeline_module.write_artifact

    def dies(path, artifact):
        write(path, artifact)
        if path.name.startswith("generator-state"):
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline_module, "write_artifact", dies)
    with pytest.raises(KeyboardInterrupt):
        build().generator_checkpoints()
    monkeypatch.setattr(pipeline_module, "write_artifact", write)
    pipeline = build()
    assert pipeline.generator_checkpoints() == [3, 6]
    assert [call[2] for call in calls if call[0] == "fit"] == [None, 3]
    assert [int(pipeline.checkpoint(step).tensors["average.w"]) for step in (3, 6)] == [3, 6]
    assert not list(pipeline.stages.folder.glob("generator-state*"))


def test_a_kept_checkpoint_holds_the_weights_of_its_own_step(build):
    pipeline = build()
    first, last = pipeline.generator_checkpoints()
    early, late = pipeline.checkpoint(first).tensors, pipeline.checkpoint(last).tensors
    assert early.keys() == late.keys()
    assert not all(torch.equal(early[name], late[name]) for name in early)


def test_a_kept_checkpoint_has_no_state_of_the_optimiser(build, calls):
    pipeline = build()
    assert [set(pipeline.checkpoint(s).tensors) for s in pipeline.generator_checkpoints()] == [{"average.w"}] * 2


def test_the_checkpoint_and_then_the_knobs_with_the_best_score_are_chosen(build, calls, monkeypatch):
    scored_by(monkeypatch, {3: 0.5, 6: 0.2, 2.0: 0.1})
    choice = build().choose()
    assert (choice["checkpoint"], choice["knobs"]["guidance"]) == (3, 2.0)
    assert [row["step"] for row in choice["checkpoints"]] == [3, 6]
    assert [row["knobs"]["guidance"] for row in choice["tuning"]] == [1.0, 2.0]


def test_with_a_weight_the_checkpoint_is_chosen_that_gives_less_away(build, calls, monkeypatch, tiny_study):
    for weight, step in ((0.0, 6), (1.0, 6), (4.0, 3)):
        scored_by(monkeypatch, {3: 0.4, 6: 0.6, 2.0: 0.1}, {3: 0.55, 6: 0.65}, weight)
        choice = build(study=other(tiny_study, recycle__leakage_weight=weight)).choose()
        assert (choice["checkpoint"], choice["knobs"]["guidance"]) == (step, 2.0)
        assert [row["leakage"] for row in choice["checkpoints"]] == [0.55, 0.65]


def test_with_a_tolerance_the_last_checkpoint_is_chosen_unless_it_is_clearly_worse(
    build, calls, monkeypatch, tiny_study
):
    scored_by(monkeypatch, {3: 0.52, 6: 0.5})
    assert build().choose()["checkpoint"] == 3
    assert build(study=other(tiny_study, recycle__search_tolerance=1.0)).choose()["checkpoint"] == 6
    scored_by(monkeypatch, {3: 0.9, 6: 0.2})
    assert build(study=other(tiny_study, recycle__search_tolerance=1.5)).choose()["checkpoint"] == 3


def test_what_is_released_comes_of_the_chosen_checkpoint_and_knobs(build, calls, monkeypatch):
    scored_by(monkeypatch, {3: 0.5, 2.0: 0.1})
    build().choose()
    calls.clear()
    build().release(1)
    assert [call[1] for call in calls if call[0] == "load"] == [3]
    assert {call[2]["guidance"] for call in calls if call[0] == "sample"} == {2.0}


def test_without_a_tuning_budget_the_default_knobs_are_kept(build, calls, monkeypatch, tiny_study):
    scored_by(monkeypatch, {6: 0.5, 2.0: 0.1})
    choice = build(study=other(tiny_study, recycle__tuning_budget=0)).choose()
    assert (choice["checkpoint"], choice["knobs"], choice["tuning"]) == (6, {"steps": 1, "guidance": 1.0}, [])


@pytest.mark.parametrize("balance", ["histogram", "balanced", "tempered"])
@pytest.mark.parametrize("by", ["study", "policy"])
def test_a_class_that_is_left_out_is_neither_shown_to_the_generator_nor_asked_of_it(
    build, calls, site_data, tiny_study, by, balance
):
    study = other(tiny_study, recycle__balance=balance, recycle__min_class_count=13 if by == "study" else 1)
    if by == "policy":
        site_data = without_rare_classes(dataclasses.replace(site_data, holdout=site_data.val), 13, "site-0")
    pipeline = build(data=site_data, study=study)
    release = pipeline.release(1)
    assert release.manifest["left_out"] == ["striped"]
    (shown,) = (call[1] for call in calls if call[0] == "fit")
    assert RARE not in shown.labels
    asked = {label for call in calls if call[0] == "sample" for label in call[1]}
    assert asked == {0, 1}
    assert RARE not in release.soft_labels.argmax(axis=1)


def test_a_class_without_training_images_is_drawn_of_none_either(build, site_data, tiny_study):
    without = site_data.train.subset(np.flatnonzero(site_data.train.labels != RARE))
    pipeline = build(data=dataclasses.replace(site_data, train=without), study=tiny_study)
    assert pipeline.undrawn().tolist() == [RARE, without.classes.index("absent")] and pipeline.left_out == []


def test_the_policy_may_only_raise_the_studys_least_count(build, calls, site_data, tiny_study):
    study = other(tiny_study, recycle__min_class_count=13)
    unchanged = without_rare_classes(dataclasses.replace(site_data, holdout=site_data.val), 2, "site-0")
    assert build(data=unchanged, study=study).left_out == ["striped"]


def test_a_site_whose_every_class_is_too_small_says_which_setting_stops_it(build, tiny_study):
    with pytest.raises(UserError, match=r"no class has 99 training images; lower recycle\.min_class_count=99"):
        build(study=other(tiny_study, recycle__min_class_count=99)).release(1)


def test_a_release_is_cut_into_equal_slices_and_a_cap_holds_over_all_of_them(build, calls, tiny_study):
    release = build(study=other(tiny_study, recycle__rounds=4)).release(1, max_images=30)
    assert (len(release), release.manifest["slices"]) == (28, 4)
    check_release(release, Shape(1, 8, 4), max_images=30)


def test_every_slice_has_the_same_classes(build, calls, tiny_study):
    release = build(study=other(tiny_study, recycle__rounds=3)).release(1)
    labels = release.soft_labels.argmax(axis=1).reshape(3, -1)
    assert [np.bincount(part, minlength=4).tolist() for part in labels] == [[20, 16, 12, 0]] * 3


def test_an_exchange_each_round_is_one_slice(build, calls, tiny_study):
    release = build(study=other(tiny_study, recycle__exchange="each")).release(1)
    assert (len(release), release.manifest["slices"]) == (48, 1)


def test_a_cap_below_one_image_a_slice_is_an_error_that_names_it(build, calls):
    with pytest.raises(UserError, match=r"max_images=1 is less than one image a slice \(2 slices\)"):
        build().release(1, max_images=1)


def test_a_site_of_one_class_releases_that_class(build, tiny_study, pictures, site_data):
    data = SiteData(pictures((0, 30)), pictures((0, 9), seed=1), site_data.test, site_data.holdout)
    study = other(tiny_study, teacher__single_class="constant")
    pipeline = build(data=data, study=study)
    release = pipeline.release(1)
    assert set(release.soft_labels.argmax(axis=1)) == {1} and pipeline.quality(1, None) == {}
    assert release.manifest["scores"] == {"checkpoints": [], "tuning": []}


def keys(pipeline):
    return {
        "teacher": pipeline._teacher_key(),
        "generator": pipeline._generator_key(),
        "choice": pipeline.choice_key(),
        "all": pipeline.key(),
    }


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({"threads": 2}, {"teacher", "generator", "choice", "all"}),
        ({"teacher__steps": 9}, {"teacher", "choice", "all"}),
        ({"generator__batch": 9}, {"generator", "choice", "all"}),
        ({"student__lr": 0.2}, {"choice", "all"}),
        ({"recycle__views": 7}, {"choice", "all"}),
        ({"recycle__min_class_count": 3}, {"generator", "choice", "all"}),
        ({"recycle__rounds": 9}, {"all"}),
        ({"audit__bootstrap": 9}, set()),
        ({"federation__deadline": 9.0}, set()),
        ({"strategy__rounds": 9}, set()),
    ],
)
def test_a_stage_depends_on_every_option_that_is_not_known_to_be_irrelevant(build, tiny_study, change, moved):
    before, after = keys(build()), keys(build(study=other(tiny_study, **change)))
    assert {name for name in before if before[name] != after[name]} == moved


def test_candidates_of_two_sites_and_of_two_seeds_are_asked_for_in_other_orders(build, calls, tiny_study):
    asked = []
    for site, study in (("site-0", tiny_study), ("site-1", tiny_study), ("site-0", other(tiny_study, seed=1))):
        calls.clear()
        build(site=site, study=study).choose()
        asked.append(next(call[1] for call in calls if call[0] == "sample"))
    assert len(set(asked)) == 3 and len({tuple(sorted(labels)) for labels in asked}) == 1


def test_the_same_site_and_study_give_the_same_release_in_another_folder(build, tmp_path):
    first = build().release(1)
    (tmp_path / "stages").rename(tmp_path / "elsewhere")
    second = build().release(1)
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.soft_labels, second.soft_labels)


def test_a_stage_file_that_was_spoilt_is_named_and_not_trusted(build, calls):
    pipeline = build()
    pipeline.release(1)
    (path,) = pipeline.stages.folder.glob("release-*")
    path.write_bytes(b"spoilt")
    with pytest.raises(UserError, match="not a readable stage file"):
        build().release(1)
    path.unlink()
    assert len(build().release(1))
    assert read_artifact(path).info["site"] == "site-0"


def test_rows_of_float16_sum_to_one():
    soft = np.random.default_rng(0).gamma(0.3, size=(100, 9)).astype(np.float32)
    rows = NO_TERMS.labels(soft)
    assert rows.dtype == np.float16
    assert np.abs(rows.astype(np.float64).sum(axis=1) - 1).max() < 0.005


def teacher_that_knows(monkeypatch, auc):
    monkeypatch.setattr(
        pipeline_module,
        "train_teacher",
        lambda *_, **__: Artifact({}, {"temperature": 1.0, "step": 1, "accuracy": 1.0, "auc": auc}),
    )


def students_reach(monkeypatch, *aucs):
    left = iter(aucs)

    class FakeScorer:
        def __init__(self, *settings):
            pass

        def trial(self, generator, knobs, stage):
            score = pipeline_module.Score(0.5, 0.0, next(left))
            return SimpleNamespace(advance=lambda until: score)

        def of_real_images(self):
            return pipeline_module.Score(0.5, 0.0)

    monkeypatch.setattr(pipeline_module, "CandidateScorer", FakeScorer)


def test_a_generator_whose_every_checkpoint_teaches_nothing_is_never_released(build, calls, monkeypatch, tiny_study):
    teacher_that_knows(monkeypatch, 1.0)
    study = other(tiny_study, recycle__refuse_collapsed=True, recycle__tuning_budget=0)
    for _ in range(2):
        students_reach(monkeypatch, 0.52, 0.55)
        with pytest.raises(UserError, match=r"edm generator collapsed: .* 0\.55 at best .* teacher 1\.00; nothing is"):
            build(study=study).release(1)
    students_reach(monkeypatch, 0.52, 0.55)
    assert len(build(study=other(study, recycle__refuse_collapsed=False)).release(1))


@pytest.mark.parametrize(("teacher", "best"), [(1.0, 0.95), (0.6, 0.55)])
def test_one_good_checkpoint_or_data_that_cannot_be_learned_is_no_collapse(
    build, calls, monkeypatch, tiny_study, teacher, best
):
    teacher_that_knows(monkeypatch, teacher)
    students_reach(monkeypatch, 0.5, best)
    study = other(tiny_study, recycle__refuse_collapsed=True, recycle__tuning_budget=0)
    assert len(build(study=study).release(1))
