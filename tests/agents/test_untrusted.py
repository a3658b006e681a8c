"""Files from others run no code: agents, run folders and their models, unless this very call trusts them."""

from __future__ import annotations

import base64
import json
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import evaluate
import train
from agents.checkpoint import load_agent, read_settings

TINY = ["--problem", "gaussian-1d", "--num-steps", "3", "--num-envs", "16", "--total-timesteps", "480"]


class Payload:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture
def planted(tmp_path, mark) -> Path:
    """A zip as stable-baselines3 writes them, each of whose parts is a payload."""
    data = base64.b64encode(pickle.dumps(Payload(mark))).decode()
    text = json.dumps({"art_settings": {":type:": "x", ":serialized:": data}})
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", text)
        for name in ("policy.pth", "pytorch_variables.pth"):
            file.writestr(name, pickle.dumps(Payload(mark), protocol=2))
    return path


@pytest.fixture
def call(monkeypatch, capsys):
    """A command in this process."""

    def run(module, *args: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, args)])
        code = module.main()
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def unfinished(call, tmp_path, monkeypatch) -> Path:
    """A run folder with a checkpoint and no result."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(train, "report", lambda result: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(train, *TINY, "--no-oracle", "--no-progress", "--run-dir", folder)
    assert (folder / "checkpoints" / "checkpoint.safetensors").is_file()
    return folder


def test_the_payload_works(planted, mark) -> None:
    with pytest.raises(ValueError, match="not a zip that train"):
        read_settings(planted, trust_pickle=True)
    assert mark.exists()


def test_agents_of_others(planted, mark, call) -> None:
    for read in (read_settings, load_agent):
        with pytest.raises(ValueError, match="give --trust-pickle"):
            read(planted)
    renamed = planted.rename(planted.with_name("agent.safetensors"))
    with pytest.raises(ValueError, match="give --trust-pickle"):
        load_agent(renamed)
    code, err = call(evaluate, "--problem", "gaussian-1d", "--steps", 3, "--agents", renamed)
    assert (code, err.count("\n")) == (2, 1)
    assert "agent.safetensors is a zip of an earlier version" in err
    assert not mark.exists()


@pytest.mark.parametrize("trust", [(), ("--trust-pickle",)])
def test_a_checkpoint_of_others(planted, mark, unfinished, call, trust) -> None:
    checkpoints = unfinished / "checkpoints"
    planted.rename(checkpoints / "checkpoint.safetensors")
    (checkpoints / "replay.pkl").write_bytes(pickle.dumps(Payload(mark)))
    code, err = call(train, "--resume", unfinished, *trust)
    assert code == 2
    assert "checkpoint.safetensors is no checkpoint file" in err
    assert not mark.exists()


@pytest.mark.parametrize("trust", [(), ("--trust-pickle",)])
def test_a_checkpoint_of_an_earlier_version(planted, mark, unfinished, call, trust) -> None:
    checkpoints = unfinished / "checkpoints"
    for path in checkpoints.iterdir():
        path.unlink()
    planted.rename(checkpoints / "model.zip")
    (checkpoints / "progress.json").write_text('{"env_steps": 48, "seconds": 1, "denoiser_evals": 1}')
    (checkpoints / "replay.pkl").write_bytes(pickle.dumps(Payload(mark)))
    code, err = call(train, "--resume", unfinished, *trust)
    assert code == 2
    assert "model.zip is a checkpoint of an earlier version" in err
    assert not mark.exists()


def test_a_replay_buffer_of_others(mark, unfinished, call) -> None:
    (unfinished / "checkpoints" / "replay.pkl").write_bytes(pickle.dumps(Payload(mark)))
    code, err = call(train, "--resume", unfinished)
    assert code == 0, err
    assert not mark.exists()


def test_a_config_that_trusts_for_the_user(mark, unfinished, call, tmp_path) -> None:
    (tmp_path / "net.pkl").write_bytes(pickle.dumps({"ema": Payload(mark)}))
    body = json.loads((unfinished / "config.json").read_text())
    body["settings"] |= {"problem": "digits", "model": str(tmp_path / "net.pkl"), "trust_pickle": True}
    (unfinished / "config.json").write_text(json.dumps(body))
    for kept in (True, False):  # alone, and beside the other files of the run
        code, err = call(train, "--resume", unfinished)
        assert code == 2
        assert ("trust_pickle" if not kept else "model = ") in err
        assert not mark.exists()
        for path in (unfinished / "checkpoints").iterdir():
            path.unlink()
    call(train, "--resume", unfinished, "--trust-pickle")
    assert mark.exists()  # the payload would have worked


def test_our_own_agent_is_not_unpickled(unfinished, monkeypatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    policy, _ = load_agent(unfinished / "agent.safetensors")
    assert policy.table.values.shape == (3, 2)
