"""Which audit rows belong together."""

import pytest

from fedkr.report.selection import (
    audited_targets,
    headline_by_target,
    headline_rows,
    plane_points,
    site_totals,
    verdict_counts,
)


def test_targets_come_by_adversary(full_results):
    outsider, server = ["student", "fedavg", "centralised"], ["site-student", "fedavg-update", "release"]
    full_results["audit"].reverse()
    assert list(audited_targets(full_results)) == [*outsider, *server, "teacher", "local"]


def test_headline_takes_pipeline_references_before_direct_ones_and_one_row_a_site(full_results):
    rows = [row for row in headline_rows(full_results) if row["target"] == "student"]
    assert [(row["site"], row["attack"], row["references"]) for row in rows] == [
        (site, "rmia", "pipeline") for site in ("site-0", "site-1", "site-2")
    ]


def test_pooled_row_comes_last_and_has_the_references_of_its_sites(full_results):
    by_target = headline_by_target(full_results)
    assert [row["site"] for row in by_target["student"]] == ["site-0", "site-1", "site-2", "all sites"]
    assert by_target["student"][-1]["references"] == "pipeline"
    assert by_target["fedavg"][-1]["references"] == "direct"


def test_a_run_that_did_not_pool_is_pooled(results):
    pooled = headline_by_target(results)["student"][-1]
    assert (pooled["site"], pooled["members"]) == ("all sites", 440)
    assert pooled["auc"] == pytest.approx(0.51)


def test_every_strategy_stands_in_the_plane_with_each_kind_of_references(full_results):
    points = {(p.strategy, p.row["target"], p.row["references"]) for p in plane_points(full_results)}
    assert points == {
        *(("fedkr", "student", kind) for kind in ("direct", "pipeline")),
        *(("fedkr", "site-student", kind) for kind in ("direct", "pipeline")),
        ("fedkr", "release", "none"),
        *((name, name, "direct") for name in ("fedavg", "centralised", "local")),
        ("fedavg", "fedavg-update", "direct"),
    }


def test_accuracy_over_privacy_pays_for_what_leaks(full_results):
    points = {p.row["target"]: p for p in plane_points(full_results)}
    area = points["local"].row["auc"]
    assert points["local"].aop == pytest.approx(79.0 / (2 * area) ** 2)


def test_verdicts_are_counted_over_sites(full_results):
    assert verdict_counts(full_results)["student"] == {"no leakage found": 2, "cannot tell": 1}


def test_site_totals_are_over_all_splits():
    assert site_totals({"name": "s", "counts": {"train": [1, 2], "val": [3, 4]}}) == [4, 6]
    assert site_totals({"name": "s", "counts": None}) == []


def test_headline_rows_are_the_flagged_ones_else_those_of_the_configured_attack(results):
    assert {row["attack"] for row in headline_rows(results)} == {"modified-entropy"}
    for row in results["audit"]:
        del row["headline"]
    assert {row["attack"] for row in headline_rows(results)} == {"modified-entropy"}
