"""The shape of results.json."""

import json

import numpy as np
import pytest

from fedkr.errors import UserError
from fedkr.report.results import check_results, load_results, plain


def test_a_whole_document_is_accepted_and_returned(results):
    assert check_results(results) is results


def test_a_document_with_only_strategies_is_accepted():
    assert check_results({"strategies": []}) == {"strategies": []}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r.pop("strategies"), "strategies"),
        (lambda r: r["strategies"][1].pop("name"), r"strategies\[1\]"),
        (lambda r: r["strategies"][0].update(accuracy=97), r"strategies\[0\]\.accuracy=97"),
        (lambda r: r["strategies"][0].update(seconds="long"), r"strategies\[0\]\.seconds"),
        (lambda r: r["audit"][2].update(auc="0.5"), r"audit\[2\]\.auc"),
        (lambda r: r["audit"][2].update({"tpr_at_fpr_0.001": "0.5"}), r"audit\[2\]\.tpr_at_fpr_0\.001='0\.5'"),
        (lambda r: r["audit"][2].update({"tpr_at_fpr_0.01": 1.5}), r"audit\[2\]\.tpr_at_fpr_0\.01=1\.5"),
        (lambda r: r["sites"][0]["counts"].update(train=[1]), r"sites\[0\]\.counts\.train"),
        (lambda r: r.update(classes="cat"), "classes"),
    ],
)
def test_a_field_that_does_not_fit_is_named_in_one_line(results, change, named):
    change(results)
    with pytest.raises(UserError, match=named) as error:
        check_results(results)
    assert "\n" not in str(error.value)


def test_missing_and_corrupt_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"results\.json: no such file"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text('{"strategies": [')
    with pytest.raises(UserError, match=r"results\.json: not readable as JSON"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text('{"strategies": 3}')
    with pytest.raises(UserError, match=r"results\.json: results\.strategies"):
        load_results(tmp_path)


def test_results_are_read_from_a_run_folder_or_the_file(tmp_path, results):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    assert load_results(tmp_path) == load_results(path) == results


def test_numbers_that_json_does_not_know_become_null():
    value = {"a": float("nan"), "b": np.float32("inf"), "c": np.arange(2), "d": [np.int64(3), (1.5, np.bool_(True))]}
    assert plain(value) == {"a": None, "b": None, "c": [0, 1], "d": [3, [1.5, True]]}
