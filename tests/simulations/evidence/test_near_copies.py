"""The near-copy check's evidence: copies of each kind are made, counted, and told from other images."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fedkr.config import Study
from fedkr.data import Source
from fedkr.data.images import ImageSet, SiteData
from fedkr.release import Release
from simulations.evidence import near_copies
from simulations.evidence.near_copies import ALTERED, class_means, main, measure, redrawn, table


def pictures(count, seed, classes=2):
    """Random pictures, each far from all others."""
    rng = np.random.default_rng(seed)
    images = rng.integers(40, 200, (count, 12, 12, 1), dtype=np.uint8)
    return ImageSet(images, np.arange(count) % classes, ("a", "b"))


@pytest.fixture
def measured():
    """Of 40 images a quarter is in the test split as well."""
    pool, other = pictures(40, 0), pictures(30, 1)
    images = np.concatenate([pool.images[:10], other.images])
    return measure("any", Source(pool, ImageSet(images, np.arange(40) % 2, pool.classes)))


def test_repeated_images_of_the_test_split_are_flagged_and_are_alike_and_others_are_not(measured):
    assert measured["held_out_flagged"] == pytest.approx(10 / 40)
    assert measured["flagged_alike"] == pytest.approx(1.0) and measured["others_alike"] < 0.5


def test_each_alteration_changes_images_and_keeps_their_shape():
    real = pictures(12, 0)
    for kind, alter in ALTERED.items():
        copies = alter(real.images, class_means(real))
        assert copies.shape == real.images.shape and copies.dtype == np.uint8, kind
        assert (copies != real.images).mean() > 0.1, kind


def test_what_the_rule_undoes_is_found_and_every_alteration_has_a_row(measured):
    assert measured["found"].keys() == ALTERED.keys()
    undone = ("mirrored", "upside down", "half turn", "quarter turn", "transposed", "inverted", "x 0.6")
    assert all(measured["found"][kind] == 1.0 for kind in undone)
    lines = table([measured, measured]).splitlines()
    assert len(lines) == 5 + len(ALTERED) and {line.count("|") for line in lines} == {4}
    assert "| mirrored | 1.000 | 1.000 |" in lines


def test_of_a_finished_run_each_sites_release_is_held_against_its_own_images(tmp_path, monkeypatch):
    own = SiteData(*(pictures(20, seed) for seed in range(4)))
    run = SimpleNamespace(sites={"site-0": own, "site-1": own}, files=SimpleNamespace(folder=tmp_path), study=Study())
    monkeypatch.setattr(near_copies.RunFolder, "of_run", lambda folder: run)
    drawn = np.concatenate([own.holdout.images[:3], pictures(9, 5).images])
    Release(drawn, np.full((12, 2), 0.5, np.float16), {}).save(
        tmp_path / "server/stages/release-r1-site-0-00.safetensors"
    )
    (row,) = redrawn(tmp_path)
    assert (row["site"], row["real"], row["released"], row["redrawn"]) == ("site-0", 80, 12, 3 / 12)


def test_the_command_writes_figures_and_their_table(tmp_path, monkeypatch):
    monkeypatch.setattr(near_copies, "load_source", lambda config: Source(pictures(30, 0), pictures(10, 1)))
    main([f"out={tmp_path / 'near.json'}", "sets=digits,breastmnist"])
    results = json.loads((tmp_path / "near.json").read_text())
    assert [row["set"] for row in results["sets"]] == ["digits", "breastmnist"] and results["runs"] == []
    assert (tmp_path / "near.md").read_text() == table(results["sets"])


def test_the_page_shows_the_table_of_the_figures_beside_it():
    results = Path(near_copies.__file__).parents[1] / "results"
    measured = json.loads((results / "near_copies.json").read_text())["sets"]
    assert [row["set"] for row in measured] == list(near_copies.SETS)
    assert table(measured) in (results / "security.md").read_text()
