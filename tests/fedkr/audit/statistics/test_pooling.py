import numpy as np
import pytest

from fedkr.audit.claims import auc_claim, tpr_claim
from fedkr.audit.statistics.membership import membership_figures
from fedkr.audit.statistics.pooling import outweighing, pooled_rows, within_reason, worst_site
from fedkr.site_name import ALL_SITES


def row(site, **changes):
    plain = {
        "target": "student", "site": site, "attack": "rmia", "references": "direct", "adversary": "outsider",
        "others": True, "auc": 0.6, "auc_low": 0.5, "auc_high": 0.7, "tpr_at_fpr_0.01": None,
        "tpr_at_fpr_0.01_low": None, "tpr_at_fpr_0.01_high": None, "unresolved_tpr_at_fpr_0.01": 0.1,
        "unresolved_tpr_at_fpr_0.01_low": 0.0, "unresolved_tpr_at_fpr_0.01_high": 0.3, "members": 100,
        "nonmembers": 60, "duplicates": 2, "headline": 1,
    }  # fmt: skip
    return plain | changes


def test_pairs_ranked_right_at_each_site_are_added_and_so_are_the_variances():
    (pooled,) = pooled_rows([row("a"), row("b", auc=0.9, auc_low=0.8, auc_high=0.95, members=200, nonmembers=30)])
    # Both sites have 6000 pairs, so each counts half.
    assert pooled["auc"] == pytest.approx(0.75)
    assert pooled["auc_low"] == pytest.approx(0.75 - np.hypot(0.05, 0.05))
    assert pooled["auc_high"] == pytest.approx(0.75 + np.hypot(0.05, 0.025))
    assert (pooled["site"], pooled["members"], pooled["nonmembers"]) == (ALL_SITES, 300, 90)
    assert (pooled["sites"], pooled["duplicates"], pooled["headline"], pooled["roc"]) == (2, 4, 1, None)


def test_what_is_resampled_is_named_and_mixed_where_only_some_sites_have_patients():
    assert pooled_rows([row("a", unit="patient"), row("b", unit="patient")])[0]["unit"] == "patient"
    assert pooled_rows([row("a", unit="patient"), row("b", unit="image")])[0]["unit"] == "mixed"
    assert "unit" not in pooled_rows([row("a"), row("b")])[0]


def test_images_that_another_site_trains_on_are_added_up_and_not_named_where_there_are_none():
    assert pooled_rows([row("a", elsewhere=3), row("b")])[0]["elsewhere"] == 3
    assert "elsewhere" not in pooled_rows([row("a"), row("b")])[0]


def test_members_found_at_each_sites_own_threshold_are_added_where_all_sites_together_resolve_the_fpr():
    resolved = {"tpr_at_fpr_0.01": 0.4, "tpr_at_fpr_0.01_low": 0.3, "tpr_at_fpr_0.01_high": 0.5}
    (pooled,) = pooled_rows([row("a"), row("b", members=300, nonmembers=150, **resolved)])
    assert pooled["tpr_at_fpr_0.01"] == pytest.approx((0.1 * 100 + 0.4 * 300) / 400)
    assert pooled["tpr_at_fpr_0.01_low"] == pytest.approx(0.325 - np.hypot(0.25 * 0.1, 0.75 * 0.1))


def test_a_tpr_that_all_nonmembers_together_cannot_resolve_is_none():
    (pooled,) = pooled_rows([row("a", nonmembers=49), row("b", nonmembers=50)])
    assert [pooled[f"tpr_at_fpr_0.01{end}"] for end in ("", "_low", "_high")] == [None] * 3
    (pooled,) = pooled_rows([row("a", nonmembers=50), row("b", nonmembers=50)])
    assert pooled["tpr_at_fpr_0.01"] == pytest.approx(0.1)


LOUD = {"members": 10_000_000, "nonmembers": 10_000_000}


NONE_FOUND = {f"tpr_at_fpr_0.01{end}": 0.0 for end in ("", "_low", "_high")}


def test_a_site_that_says_it_has_ever_so_many_images_counts_for_as_much_as_all_others_together():
    resolved = {"tpr_at_fpr_0.01": 0.4, "tpr_at_fpr_0.01_low": 0.3, "tpr_at_fpr_0.01_high": 0.5, "nonmembers": 100}
    honest = [row(site, auc=0.8, auc_low=0.75, auc_high=0.85, **resolved) for site in "abc"]
    silent = row("d", auc=0.5, auc_low=0.499, auc_high=0.501, **(LOUD | NONE_FOUND))
    (pooled,) = pooled_rows([*honest, silent])
    assert pooled["auc"] == pytest.approx((0.8 + 0.5) / 2)
    assert pooled["tpr_at_fpr_0.01"] == pytest.approx((0.4 + 0.0) / 2)
    assert outweighing([*honest, silent]) == ["d"] and outweighing(honest) == []
    for claim in (auc_claim, tpr_claim):
        assert claim(pooled, [*honest, silent]).p_value < 1e-3, "what the others found is not hidden"


def test_no_number_of_non_members_of_one_site_resolves_an_fpr_for_all():
    (pooled,) = pooled_rows([row("a", nonmembers=10), row("b", nonmembers=10), row("c", **LOUD)])
    assert pooled["tpr_at_fpr_0.01"] is None


def test_counts_of_two_sites_and_those_below_the_others_stay():
    assert within_reason([10, 1000]) == [10, 1000]
    assert within_reason([10, 20, 30]) == [10, 20, 30]
    assert within_reason([10, 20, 31]) == [10, 20, 30]


def test_targets_attacks_and_kinds_of_references_are_pooled_apart_and_pooled_rows_not_again():
    rows = [row("a"), row("a", references="pipeline"), row("a", attack="loss", references="none", others=None)]
    rows += [row("a", target="teacher"), row(ALL_SITES), row("b", auc=None)]
    pooled = pooled_rows(rows)
    assert len(pooled) == 4 and {entry["sites"] for entry in pooled} == {1}
    assert [entry["others"] for entry in pooled] == [True, True, None, True]


def site_row(site, rng, shift):
    members, nonmembers = rng.normal(shift, 1, 60), rng.normal(0, 1, 40)
    names = {"target": "student", "site": site, "attack": "rmia", "references": "direct"}
    return names | membership_figures(members, nonmembers, fprs=[0.1], bootstrap=150, seed=0)


@pytest.mark.parametrize(("shift", "truth"), [(0.0, 0.5), (1.0, 0.76025)])
def test_the_pooled_auc_interval_covers_the_truth_about_95_times_in_100(shift, truth):
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(100):
        (pooled,) = pooled_rows([site_row(site, rng, shift) for site in ("a", "b", "c")])
        covered.append(pooled["auc_low"] <= truth <= pooled["auc_high"])
    assert 0.88 <= np.mean(covered) <= 1.0


def test_the_worst_site_is_the_one_with_the_highest_auc():
    rows = [row("a"), row("b", auc=0.8), row("c", auc=None), row(ALL_SITES, auc=0.9), row("a", attack="loss")]
    assert worst_site(rows) == [rows[1], rows[4]]
