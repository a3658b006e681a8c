"""agent.safetensors: what it remembers, what is said of files that are not one, and that none of them runs code."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from agents.art_rl import ARTRL
from agents.baselines import make_ppo, make_sac
from agents.checkpoint import POLICIES, load_agent, read_settings, save_agent
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
def models() -> dict[str, Any]:
    return {name: _train(name) for name in ("art", "ppo", "sac")}


@pytest.fixture(scope="module")
def files(models, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    out = {}
    for name, model in models.items():
        out[name] = folder / f"{name}.safetensors"
        save_agent(model, out[name], name, SETTINGS)
    return out


@pytest.mark.parametrize("name", ["art", "ppo", "sac"])
def test_round_trip(name: str, models, tmp_path) -> None:
    model = models[name]
    path = tmp_path / "agent.safetensors"
    save_agent(model, path, name, SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["agent.safetensors"]
    assert read_settings(path) == {"algorithm": name, "env": SETTINGS, "num_timesteps": model.num_timesteps}
    loaded, dynamics = load_agent(path, name)
    assert type(loaded) is POLICIES[name]
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


def test_replaces_an_older_file(models, tmp_path) -> None:
    path = tmp_path / "agent.safetensors"
    path.write_bytes(b"old")
    save_agent(models["art"], path, "art", SETTINGS)
    assert read_settings(path)["num_timesteps"] == models["art"].num_timesteps
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_save_leaves_the_old_file(models, tmp_path, monkeypatch) -> None:
    path = tmp_path / "agent.safetensors"
    path.write_bytes(b"old")

    def full(self, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"cannot write '.*agent\.safetensors' \(No space left on device\)"):
        save_agent(models["art"], path, "art", SETTINGS)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_settings_that_are_no_plain_values_are_refused(models, tmp_path) -> None:
    with pytest.raises(TypeError, match=r"env/base_schedule = .* cannot be kept"):
        save_agent(
            models["art"], tmp_path / "agent.safetensors", "art", {**SETTINGS, "base_schedule": {1, 2}}
        )
    assert not list(tmp_path.iterdir())


def test_wrong_algorithm(files) -> None:
    with pytest.raises(
        ValueError, match=r"ppo\.safetensors: holds a model of 'ppo', not of 'sac'.*train\.py ppo"
    ):
        load_agent(files["ppo"], "sac")


def test_unknown_algorithm(models, tmp_path) -> None:
    save_agent(models["art"], tmp_path / "m.safetensors", "artt", SETTINGS)
    with pytest.raises(ValueError, match=r"unknown algorithm 'artt'. Did you mean 'art'"):
        load_agent(tmp_path / "m.safetensors")


def test_missing_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no agent file at .*nothing.safetensors"):
        load_agent(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError, match="no agent file at"):
        load_agent(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 nearly"])
def test_not_an_agent(content: bytes, tmp_path) -> None:
    path = tmp_path / "agent.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"agent\.safetensors is no agent file, or truncated .*finished run"):
        load_agent(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated(part: float, files, tmp_path) -> None:
    data = files["art"].read_bytes()
    path = tmp_path / "agent.safetensors"
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=r"agent\.safetensors is no agent file, or truncated"):
        load_agent(path)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_flipped_bytes(place: float, files, tmp_path) -> None:
    data = bytearray(files["art"].read_bytes())
    at = int(place * len(data))
    for i in range(at, at + 64):
        data[i] ^= 0xFF
    path = tmp_path / "agent.safetensors"
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"agent\.safetensors (is|has|holds)"):
        load_agent(path)


def test_another_zip(tmp_path) -> None:
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("hello.txt", "hello")
    with pytest.raises(
        ValueError, match=r"model\.zip is a zip of an earlier version: .* give --trust-pickle"
    ):
        load_agent(path)
    with pytest.raises(ValueError, match=r"model\.zip: not a zip that train\.py wrote"):
        load_agent(path, trust_pickle=True)


def test_another_safetensors_file(tmp_path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"holds no agent .*use the agent\.safetensors of a finished run"):
        load_agent(path)


def test_an_agent_of_an_earlier_version_that_is_trusted(models, tmp_path) -> None:
    for name, model in models.items():
        model.art_settings = {"algorithm": name, "env": SETTINGS}
        model.save(tmp_path / "model.zip")
        del model.art_settings
        with pytest.raises(ValueError, match="runs whatever code it contains"):
            read_settings(tmp_path / "model.zip")
        policy, _ = load_agent(tmp_path / "model.zip", trust_pickle=True)
        obs = np.random.default_rng(0).random((9, 3), dtype=np.float32)
        ours, theirs = (m.predict(obs, deterministic=True)[0] for m in (model, policy))
        assert (ours == theirs).all()


def test_a_model_without_our_settings(tmp_path) -> None:
    PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8).save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"not a zip that train.py wrote"):
        load_agent(tmp_path / "model.zip", trust_pickle=True)


@pytest.mark.parametrize(("features", "have"), [([], "(2,)"), (["rms", "log_velocity"], "(4,)")])
def test_another_observation(models, features, have: str, tmp_path) -> None:
    save_agent(models["art"], tmp_path / "m.safetensors", "art", {**SETTINGS, "features": features})
    with pytest.raises(ValueError, match="train it again") as caught:
        load_agent(tmp_path / "m.safetensors")
    assert f"observes (3,), its environment offers {have}" in str(caught.value)


def test_acts_on_another_problem_in_its_clock(tmp_path) -> None:
    """Even spending is even spending anywhere: the closed form of whatever problem it acts on."""
    settings = {**SETTINGS, "features": [], "base_schedule": "closed_form", "num_noises": 512}
    model = ARTRL("ARTPolicy", to_sb3(ARTVectorEnv(16, autoreset_mode="SAME_STEP", **settings)), seed=0)
    path = tmp_path / "agent.safetensors"
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
    save_agent(model, tmp_path / "agent.safetensors", "art", settings)
    with pytest.raises(ValueError, match="observes"):
        load_agent(tmp_path / "agent.safetensors", problem=make_problem("mixture-2d"))
