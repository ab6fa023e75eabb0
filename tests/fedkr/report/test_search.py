"""Which candidates a site scored, and which of them it chose."""

from fedkr.report.search import Candidate, checkpoints, pareto_front, settings


def test_equal_checkpoints_are_told_apart_by_their_loss_and_shown_by_step(tried):
    assert [(c.step, c.chosen) for c in checkpoints(tried)] == [(10, True), (20, False)]


def test_what_the_site_says_that_it_chose_counts_before_the_best_score(tried):
    tried = tried | {"checkpoint": 20, "knobs": {"steps": 9, "guidance": 1.0}}
    assert [c.step for c in checkpoints(tried) if c.chosen] == [20]
    assert [c.name for c in settings(tried) if c.chosen] == ["steps 9, guidance 1"]


def test_a_setting_that_met_the_next_ones_stands_once_and_one_without_a_score_is_never_chosen(tried):
    assert [(c.name, c.chosen) for c in settings(tried)] == [
        ("steps 9, guidance 1", False),
        ("steps 9, guidance 1.5", True),
        ("steps 9, guidance 1.5, filter 0.5", False),
    ]


def test_the_front_has_those_that_none_beats_without_giving_more_away():
    found = [("a", 0.9, 0.7), ("b", 0.8, 0.6), ("c", 0.8, 0.65), ("d", 0.7, 0.6), ("e", 0.9, 0.8), ("f", None, 0.5)]
    candidates = [Candidate(name, None, score, None, leakage) for name, score, leakage in found]
    assert [c.name for c in pareto_front([*candidates, Candidate("g", None, 0.95, None)])] == ["b", "a"]


def test_what_a_candidate_gives_away_is_read_with_its_score(tried):
    tried["checkpoints"][0]["leakage"] = 0.6
    assert [c.leakage for c in checkpoints(tried)] == [None, 0.6]
    tried["tuning"][0]["leakage"] = 0.55
    assert settings(tried)[0].leakage == 0.55
