"""What a report says of planted canaries: each channel apart, by the figures that count in the verdicts."""

import pytest

from fedkr.report.canaries import planted, planted_findings, planted_in_words
from fedkr.report.pages.report import render_statement


def test_each_channel_has_a_line_with_the_headline_attack(full_results):
    assert planted(full_results) == {"label": [200, 200, 200], "image": [200, 200, 200]}
    lines = planted_findings(full_results)
    assert [line.split(",")[0] for line in lines] == ["Label channel", "Image channel"]
    assert all("FedKR student (RMIA, pipeline references): AUC 0.560 to 0.560 at 3 sites" in line for line in lines)


def test_of_outliers_in_a_release_the_nearest_image_is_quoted_and_not_the_headline(full_results):
    seen = {"site": "site-0", "target": "release", "channel": "image", "included": 9, "excluded": 8}
    by_attack = [("distance-pixels", 0.91), ("distance-features", 0.55)]
    full_results["audit_extras"]["canaries"] = [
        {**seen, "attack": attack, "references": "none", "auc": auc, "auc_low": auc - 0.1, "auc_high": auc + 0.05}
        for attack, auc in by_attack
    ]
    (line,) = planted_findings(full_results)
    assert line == "Image channel, Released images (distance in pixels): AUC 0.910 [0.81, 0.96] at 1 site."


def test_the_privacy_statement_tells_both_channels(full_results):
    page = render_statement(full_results)
    assert "Label channel, FedKR student" in page and "Image channel, FedKR student" in page
    assert "label channel, 200 a site" in page and "what a generator draws again" in page


@pytest.mark.parametrize("channel", ["label", "image"])
def test_a_channel_without_canaries_is_not_tested(full_results, channel):
    rows = full_results["audit_extras"]["canaries"]
    full_results["audit_extras"]["canaries"] = [row for row in rows if row["channel"] != channel]
    assert f"canaries of the {channel} channel" in render_statement(full_results)


def test_a_run_that_knew_no_channels_had_those_of_labels(full_results):
    for row in full_results["audit_extras"]["canaries"]:
        row.pop("channel")
    assert list(planted(full_results)) == ["label"] and "label channel, 200 a site" in planted_in_words(
        planted(full_results)
    )
