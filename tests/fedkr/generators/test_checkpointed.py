"""When checkpoints are kept."""

import pytest

from fedkr.generators.checkpointed import checkpoint_steps


@pytest.mark.parametrize(
    ("steps", "checkpoints", "expected"), [(700, 3, [234, 467, 700]), (90, 1, [90]), (2, 5, [1, 2]), (1, 3, [1])]
)
def test_checkpoints_are_spread_over_the_last_two_thirds_and_end_with_the_last_step(steps, checkpoints, expected):
    assert checkpoint_steps(steps, checkpoints) == expected
