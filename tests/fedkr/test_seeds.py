"""Seeds: a function of their parts and of nothing else."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkr.seeds import derive_seed, numpy_rng, torch_rng

PARTS = st.lists(st.one_of(st.integers(), st.text(st.characters(exclude_characters="\x1f"))), min_size=1, max_size=4)


@given(PARTS, PARTS)
def test_other_parts_give_another_seed_that_every_generator_takes(first, second):
    one, two = derive_seed(*first), derive_seed(*second)
    assert 0 <= one < 2**63
    assert (one == two) == ([str(p) for p in first] == [str(p) for p in second])


def test_a_part_is_not_glued_to_its_neighbour():
    assert len({derive_seed("ab", "c"), derive_seed("a", "bc"), derive_seed("abc"), derive_seed("abc", "")}) == 4


def test_a_seed_is_the_same_in_every_process_and_version():
    assert derive_seed(0, "site-1", 2, "teacher") == 8050500443256543288


def test_generators_repeat_and_leave_the_global_state_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, second = (torch.rand(4, generator=torch_rng(1, "a")) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(numpy_rng(1, "a").random(4), numpy_rng(1, "a").random(4))
    assert not np.array_equal(numpy_rng(1, "a").random(4), numpy_rng(1, "b").random(4))


def test_a_name_that_is_no_whole_text_has_a_seed_too():
    assert derive_seed("\ud800") != derive_seed("\ud801")
