"""An environment whose state was saved in the middle of an episode goes on alike, noises to come included."""

from __future__ import annotations

import numpy as np
import pytest

from art_env.envs.vector_env import ARTVectorEnv


@pytest.mark.parametrize("solver", ["heun", "ipndm", "euler_maruyama"])
def test_goes_on_from_a_saved_state(solver: str) -> None:
    settings = {"problem": "mixture-1d", "solver": solver, "num_steps": 3, "num_noises": 64}
    first, second = (
        ARTVectorEnv(
            32, autoreset_mode="SAME_STEP", noise_groups=2, features=("rms", "turn"), history=1, **settings
        )
        for _ in range(2)
    )
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 32, 1))
    first.reset(seed=3)
    for action in actions[:2]:
        first.step(action)
    second.reset(seed=4)
    second.load_state(first.save_state())
    for action in actions[2:]:
        for ours, theirs in zip(first.step(action)[:3], second.step(action)[:3], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert second.denoiser_evals == first.denoiser_evals


def test_a_state_of_other_rows_is_refused() -> None:
    first, second = (ARTVectorEnv(rows, problem="gaussian-1d", reward="euler") for rows in (2, 3))
    for env in (first, second):
        env.reset(seed=0)
    with pytest.raises(ValueError, match="the state is of 2 rows, the environment has 3"):
        second.load_state(first.save_state())
