"""Schedules by rule: more images or budget never mean less training, and numbers set by hand win over the rule."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkr.config import (
    BUDGETS,
    LAWS,
    FactsConfig,
    Study,
    by_rule,
    check_study,
    explained,
    numbers,
    parse_study,
    scheduled,
    set_option,
    site_facts,
    with_options,
)
from fedkr.config.schedule import SiteFacts
from fedkr.errors import UserError

FACTS = st.builds(SiteFacts, st.floats(1, 10**7), st.integers(1, 4096), st.sampled_from([1, 3]), st.integers(1, 1000))
# What each of four sets had been given by hand at three sites: generator, teacher, student, search steps and images.
BY_HAND = {
    "digits": (SiteFacts(1438 / 3, 8, 1, 10), (700, 500, 500, 100, 512)),
    "breastmnist": (SiteFacts(208, 28, 1, 2), (500, 200, 200, 80, 256)),
    "pneumoniamnist": (SiteFacts(1744, 28, 1, 2), (900, 400, 400, 80, 256)),
    "bloodmnist": (SiteFacts(13671 / 3, 28, 3, 8), (3000, 1500, 1500, None, 512)),
}


def composed(**facts):
    """Return the default study with all numbers left to the rule."""
    values = dataclasses.asdict(Study(facts=FactsConfig(**facts)))
    for option in LAWS:
        set_option(values, option, 0)
    groups = {
        name: type(getattr(Study(), name))(**values[name]) for name in ("generator", "teacher", "student", "recycle")
    }
    return Study(facts=FactsConfig(**facts), **groups)


@given(FACTS, FACTS, st.sampled_from(BUDGETS))
def test_more_of_anything_never_means_less(one, other, budget):
    most = SiteFacts(*map(max, dataclasses.astuple(one), dataclasses.astuple(other)))
    for law in LAWS.values():
        assert law.number(most, budget) >= max(law.number(one, budget), law.number(other, budget))


@given(FACTS)
def test_a_larger_budget_never_means_less(facts):
    for law in LAWS.values():
        found = [law.number(facts, budget) for budget in BUDGETS]
        assert found == sorted(found)


@given(FACTS, st.sampled_from(BUDGETS))
def test_every_number_is_within_its_budgets_limits_and_a_round_one(facts, budget):
    for law in LAWS.values():
        limits, number = law.budgets[budget], law.number(facts, budget)
        assert limits.least <= number <= limits.most
        assert number % law.unit == 0


@pytest.mark.parametrize("name", BY_HAND)
def test_the_rule_is_near_what_the_sets_had_that_it_was_fitted_to(name):
    facts, by_hand = BY_HAND[name]
    for law, number in zip(LAWS.values(), by_hand, strict=True):
        assert number is None or law.number(facts, "standard") == pytest.approx(number, rel=0.13)


def test_the_default_study_is_what_the_rule_makes_of_digits_at_three_sites():
    left = composed(images=1438, side=8, channels=1, classes=10)
    assert numbers(scheduled(left)) == by_rule(left) == numbers(Study())
    assert numbers(Study()) == dict(zip(LAWS, BY_HAND["digits"][1], strict=True))


def test_the_rule_writes_out_what_is_left_to_it_and_nothing_else():
    left = composed(images=3000)
    left.teacher.steps = 77
    found = scheduled(left)
    assert numbers(found) == by_rule(left) | {"teacher.steps": 77}
    assert (
        dataclasses.replace(found, **{group: getattr(left, group) for group in ("generator", "student", "recycle")})
        == left
    )
    assert scheduled(found) == found


def test_images_are_counted_only_where_nobody_says_how_many_there_are():
    asked = []

    def count(data):
        asked.append(data)
        return FactsConfig(600, 28, 3, 2)

    assert scheduled(composed(images=3000), count).facts.images == 3000 and not asked
    assert scheduled(composed(), count).facts == FactsConfig(600, 28, 3, 2) and len(asked) == 1
    with pytest.raises(
        UserError, match=r"^facts\.images=0: say about how many images all sites have together"
    ) as caught:
        scheduled(composed())
    assert "\n" not in str(caught.value)


def test_a_part_of_the_images_counts_as_what_it_is():
    left = composed(images=3000)
    left.data.limit = 300
    assert by_rule(left) == by_rule(composed(images=300))


@pytest.mark.parametrize("option", LAWS)
def test_no_study_with_a_number_left_to_the_rule_travels(option):
    values = composed(images=3000)
    with pytest.raises(UserError, match=r"(steps|images)=0: must be at least 1"):
        parse_study(values.to_json())
    with pytest.raises(UserError, match=f"^{option}=0: must be at least 1"):
        with_options(Study(), [f"{option}=0"])


@pytest.mark.parametrize("change", ["budget=thorough", "facts.images=7", "facts={images: 7}"])
def test_a_study_whose_numbers_are_written_out_takes_no_other_budget(change):
    with pytest.raises(UserError, match=r"numbers are written out; set them, as in student\.steps=200"):
        with_options(Study(), [change])


def test_two_studies_of_the_same_numbers_are_the_same_whatever_made_them():
    told = dataclasses.replace(Study(), budget="thorough", facts=FactsConfig(9, 9, 3, 9))
    check_study(told)
    assert told.identity() == Study().identity()


def test_what_nobody_said_of_the_images_is_taken_as_usual():
    assert str(site_facts(composed(images=3000))) == "1000 grey images a site of 28x28 in 10 classes"
    told = composed(images=3000, side=28, channels=1, classes=9)
    told.data.size, told.data.channels, told.data.classes = 64, 3, ["a", "b"]
    assert str(site_facts(told)) == "1000 colour images a site of 64x64 in 2 classes"


def test_a_study_all_of_whose_numbers_are_set_needs_no_facts():
    assert scheduled(Study()) == Study()


def test_a_study_says_of_what_its_numbers_were_made():
    left = composed(images=1500, side=28, channels=3, classes=8)
    left.student.steps = 77
    told = explained(scheduled(left))
    assert told.startswith(
        "by rule from 500 colour images a site of 28x28 in 8 classes, budget standard: generator.steps="
    )
    assert told.endswith("; set: student.steps=77")
    assert explained(Study()).startswith("set: generator.steps=700, teacher.steps=500")
