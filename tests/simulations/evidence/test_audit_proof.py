"""The audit's proof, small: every part runs, is kept, and says what holds."""

import json

import numpy as np
import pytest

from fedkr.audit.challenge import build_challenge
from fedkr.audit.copies import check_copies
from fedkr.config import ClassifierConfig
from fedkr.data import ImageSet, Source
from fedkr.errors import UserError
from fedkr.learning.runtime import Runtime
from fedkr.progress import SilentProgress
from fedkr.stages import StageStore
from simulations.evidence.audit_proof import SEEDS, add_section, run_part
from simulations.evidence.proof import Bench, dealt, official_train
from simulations.evidence.proof_images import (
    CopySizes,
    blind,
    distinct,
    named,
    prove_blind,
    prove_copies,
    with_copies,
)
from simulations.evidence.proof_models import Null, Overfit, prove_null, prove_overfit
from simulations.evidence.proof_references import ATTACKS, NEAR, FewReferences, prove_few

TINY = ClassifierConfig(arch="resnet8", width=4, steps=6, batch=16, augment="none")


def pictures(count, seed=0, brightness=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 200, (count, 8, 8, 1)).astype(np.uint8) + np.uint8(brightness)
    return ImageSet(images, np.arange(count) % 2, ("a", "b"))


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A bench whose every dataset is noise: 500 images, of which 100 are the official val split, and a bright test."""
    source = Source(pictures(500), pictures(120, 1, brightness=50), val=100)
    monkeypatch.setattr(Bench, "source", lambda self, name: source)
    return Bench(tmp_path, StageStore(tmp_path / "stages"), Runtime.choose("cpu", "float32", 1), SilentProgress())


def test_copied_members_are_named_and_a_clean_set_is_not_flagged(bench):
    found = prove_copies(bench, [0], CopySizes(members=120, holdout=110, released=120, population=50))
    clean, few, half = found["rows"]
    assert (clean["copies"], few["copies"], half["copies"]) == (0, 6, 60)
    assert (few["copies_named"], half["copies_named"]) == (6, 60)
    assert half["headline"]["auc"] > 0.7
    assert found["holds"]["5 %: every copy named"]
    assert found["holds"]["clean: not flagged"]


def test_images_that_repeat_others_are_left_out_once(bench):
    data = pictures(5)
    repeated = data.subset(np.array([0, 1, 0, 2, 1]))
    assert np.array_equal(distinct(repeated).images, data.images[:3])


def test_a_copy_counts_as_named_only_beside_its_own_original():
    challenge = build_challenge(pictures(40), pictures(40, 1))
    release, places, originals = with_copies(pictures(20, 2), challenge.members, 0.2, np.random.default_rng(0))
    check = check_copies([release], challenge, site="here", seed=0)
    assert named(check, challenge, places, originals)["copies_named"] == 4
    assert named(check, challenge, places, originals[::-1])["copies_named"] == 0
    assert named(check, challenge, places[:1], originals[:1])["others_suspected"] == 3


def test_the_blind_baseline_passes_a_random_holdout_and_rejects_a_shifted_test_split(bench):
    found = prove_blind(bench, [0, 1], shifted=1, permutations=200)
    assert [row["rejected"] for row in found["rows"]] == [False, False, True]
    assert all(found["holds"].values())


def test_a_shifted_split_is_compared_with_members_of_the_training_split_only(bench):
    row = blind(pictures(200), pictures(30, 5), 0, 50)
    assert row["nonmembers"] == 30
    assert row["members"] == 110


def test_a_model_of_other_images_gets_an_interval_a_seed_and_bounds_from_fair_coins(bench):
    settings = Null(train=100, candidates=120, population=80, guesses=12, recipe=TINY)
    found = prove_null(bench, [0, 1], settings)
    assert found["seeds_run"] == 2
    for row in found["rows"]:
        assert row["covers"] == (row["auc_low"] <= 0.5 <= row["auc_high"])
        assert row["guesses"] == 12
        assert row["members"] + row["nonmembers"] == row["coins"] == 120
    assert found["rows"][0]["members"] != found["rows"][1]["members"]


def test_an_overfitted_model_is_attacked_by_references_of_its_own_recipe_and_kept(bench):
    settings = Overfit(members=60, nonmembers=60, population=50, references=4, recipe=TINY)
    found = prove_overfit(bench, [0], settings)
    attacks = found["rows"][0]["attacks"]
    assert attacks["rmia"]["references"] == attacks["lira-online"]["references"] == "direct"
    assert attacks["rmia"]["headline"] == 1
    before = {path: path.stat().st_mtime_ns for path in bench.stages.folder.iterdir()}
    assert prove_overfit(bench, [0], settings) == found
    assert {path: path.stat().st_mtime_ns for path in bench.stages.folder.iterdir()} == before


def test_few_references_are_blocks_of_the_many(bench):
    settings = FewReferences(members=50, population=40, counts=(4, 8), recipe=TINY)
    found = prove_few(bench, [0], settings)
    assert set(found["mean_auc"]) == {f"{attack}@{count}" for attack in ATTACKS for count in (4, 8)}
    # With all of them there is one block, so that the figure is that of a plain audit.
    assert found["rows"][0]["auc"] == found["mean_auc"]
    gap = found["mean_auc"]["bavaria@8"] - found["mean_auc"]["rmia@8"]
    assert list(found["holds"].values()) == [gap >= -NEAR]


def test_every_part_has_a_section_with_seeds_command_and_hardware(bench, tmp_path, monkeypatch):
    monkeypatch.setitem(SEEDS, "copies", 1)
    monkeypatch.setattr("simulations.evidence.proof_images.CopySizes", lambda: CopySizes(120, 110, 120, 50))
    section = run_part("copies", bench, [3])
    assert section["seeds"] == [3]
    assert section["command"].endswith("--part copies --seeds 3")
    out = tmp_path / "proof.json"
    add_section(out, "copies", section)
    add_section(out, "blind", {"holds": {}})
    assert set(json.loads(out.read_text())) == {"copies", "blind"}
    assert section["hardware"]["cores"]


def test_a_file_that_holds_something_else_is_not_overwritten(tmp_path):
    out = tmp_path / "proof.json"
    out.write_text("[1]")
    with pytest.raises(UserError, match="holds no sections"):
        add_section(out, "copies", {})
    assert out.read_text() == "[1]"


def test_dealt_parts_are_disjoint_and_the_official_val_split_is_left_out():
    source = Source(pictures(50), pictures(5), val=10)
    train = official_train(source)
    assert np.array_equal(train.images, source.pool.images[:40])
    parts = dealt(train, [10, 20], np.random.default_rng(0))
    together = {image.tobytes() for part in parts for image in part.images}
    assert [len(part) for part in parts] == [10, 20]
    assert len(together) == 30
