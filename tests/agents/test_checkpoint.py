"""model.zip: what it remembers, and what is said of files that are not one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from agents.art_rl import ARTRL
from agents.baselines import make_ppo, make_sac
from agents.checkpoint import ALGORITHMS, load_agent, read_settings, save_agent
from agents.distill import distill
from art_env.envs.sb3 import to_sb3
from art_env.envs.vector_env import ARTVectorEnv
from art_env.problems.library import make_problem
from art_env.schedules.optimal import closed_form

SETTINGS: dict[str, Any] = {
    "problem": "gaussian-1d",
    "solver": "euler",
    "num_steps": 3,
    "reward": "euler",
    "control": "log_speed",
    "features": ["rms"],
    "base_schedule": 7.0,
    "action_range": 2.5,
    "final_sigmas_type": None,
    "sigma_min": None,
    "sigma_max": None,
    "num_noises": None,
    "device": "cpu",
}


def _train(algorithm: str):
    env = to_sb3(ARTVectorEnv(16, autoreset_mode="SAME_STEP", **SETTINGS))
    if algorithm == "art":
        return ARTRL("ARTPolicy", env, seed=0).learn(5 * 48)
    make = make_sac if algorithm == "sac" else make_ppo
    return make(VecNormalize(env, norm_obs=False, gamma=1.0), 480, 0).learn(480)


@pytest.fixture(scope="module")
def zips(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    out = {}
    for name in ("art", "ppo", "sac"):
        out[name] = folder / f"{name}.zip"
        save_agent(_train(name), out[name], name, SETTINGS)
    return out


@pytest.mark.parametrize("name", ["art", "ppo", "sac"])
def test_round_trip(name: str, tmp_path) -> None:
    model = _train(name)
    path = tmp_path / "model.zip"
    save_agent(model, path, name, SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["model.zip"]
    assert read_settings(path) == {"algorithm": name, "env": SETTINGS}
    loaded, dynamics = load_agent(path, name)
    assert type(loaded) is ALGORITHMS[name]
    assert (dynamics.problem.name, dynamics.solver.name, dynamics.num_steps) == ("gaussian-1d", "euler", 3)
    assert (dynamics.reward_name, dynamics.features, dynamics.config.action_range) == (
        "euler",
        ("rms",),
        2.5,
    )
    obs = np.random.default_rng(0).random((9, 3), dtype=np.float32)
    ours, theirs = (m.predict(obs, deterministic=True)[0] for m in (model, loaded))
    assert (ours == theirs).all()
    assert np.abs(ours).max() > 0
    own = distill(model, dynamics, 16)
    assert (distill(loaded, dynamics, 16).sigmas == own.sigmas).all()


def test_replaces_an_older_file(zips, tmp_path) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(b"old")
    model, _ = load_agent(zips["art"])
    save_agent(model, path, "art", SETTINGS)
    assert load_agent(path)[0].num_timesteps == model.num_timesteps
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_save_leaves_the_old_file(zips, tmp_path) -> None:
    class Broken:
        def save(self, path) -> None:
            Path(path).write_bytes(b"half")
            raise OSError("disk full")

    path = tmp_path / "model.zip"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        save_agent(Broken(), path, "art", SETTINGS)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_wrong_algorithm(zips) -> None:
    with pytest.raises(ValueError, match=r"ppo\.zip: holds a model of 'ppo', not of 'sac'.*train\.py ppo"):
        load_agent(zips["ppo"], "sac")


def test_unknown_algorithm(zips, tmp_path) -> None:
    model, _ = load_agent(zips["art"])
    save_agent(model, tmp_path / "m.zip", "artt", SETTINGS)
    with pytest.raises(ValueError, match=r"unknown algorithm 'artt'. Did you mean 'art'"):
        load_agent(tmp_path / "m.zip")


def test_missing_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model file at .*nothing.zip"):
        load_agent(tmp_path / "nothing.zip")
    with pytest.raises(FileNotFoundError, match="no model file at"):
        load_agent(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 nearly"])
def test_not_a_zip(content: bytes, tmp_path) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.zip: not a model file .*finished run"):
        load_agent(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated(part: float, zips, tmp_path) -> None:
    data = zips["art"].read_bytes()
    path = tmp_path / "model.zip"
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=r"model\.zip: not a model file"):
        load_agent(path)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_flipped_bytes(place: float, zips, tmp_path) -> None:
    data = bytearray(zips["art"].read_bytes())
    at = int(place * len(data))
    for i in range(at, at + 64):
        data[i] ^= 0xFF
    path = tmp_path / "model.zip"
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"model\.zip: "):
        load_agent(path)


def test_another_zip(tmp_path) -> None:
    import zipfile

    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("hello.txt", "hello")
    with pytest.raises(ValueError, match=r"model\.zip: "):
        load_agent(path)


def test_a_model_without_our_settings(tmp_path) -> None:
    PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8).save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"a model, but not one that train.py wrote"):
        load_agent(tmp_path / "model.zip")


@pytest.mark.parametrize(("features", "have"), [([], "(2,)"), (["rms", "log_velocity"], "(4,)")])
def test_another_observation(zips, features, have: str, tmp_path) -> None:
    model, _ = load_agent(zips["art"])
    save_agent(model, tmp_path / "m.zip", "art", {**SETTINGS, "features": features})
    with pytest.raises(ValueError, match="train it again") as caught:
        load_agent(tmp_path / "m.zip")
    assert f"observes (3,), its environment offers {have}" in str(caught.value)


def test_acts_on_another_problem_in_its_clock(tmp_path) -> None:
    """Even spending is even spending anywhere: the closed form of whatever problem it acts on."""
    settings = {**SETTINGS, "features": [], "base_schedule": "closed_form", "num_noises": 512}
    model = ARTRL("ARTPolicy", to_sb3(ARTVectorEnv(16, autoreset_mode="SAME_STEP", **settings)), seed=0)
    path = tmp_path / "model.zip"
    save_agent(model, path, "art", settings)
    for name in ("mixture-1d", "digits-small"):
        problem = make_problem(name)
        policy, dynamics = load_agent(path, problem=problem)
        assert dynamics.problem is problem
        assert (dynamics.solver.name, dynamics.num_steps) == ("euler", 3)
        want = closed_form(problem.reference(256), 3).sigmas
        assert distill(policy, dynamics, 16).sigmas == pytest.approx(want, rel=1e-2, abs=1e-12)
    assert load_agent(path, problem=make_problem("gaussian-1d"))[1].pool_size == 512


def test_another_problem_must_fit_what_it_observes(tmp_path) -> None:
    settings = {**SETTINGS, "features": ["x"]}
    model = ARTRL("ARTPolicy", to_sb3(ARTVectorEnv(16, autoreset_mode="SAME_STEP", **settings)), seed=0)
    save_agent(model, tmp_path / "model.zip", "art", settings)
    with pytest.raises(ValueError, match="observes"):
        load_agent(tmp_path / "model.zip", problem=make_problem("mixture-2d"))
