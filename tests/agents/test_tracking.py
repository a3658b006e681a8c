"""Runs shown in other programs: what is refused before a run, and what becomes of its events.

The programs themselves need accounts or browsers: modules of their names stand for them here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from agents.training.tracking import check_tracker, tracked


def _wandb(monkeypatch: pytest.MonkeyPatch, mode: str, account: bool) -> None:
    module = ModuleType("wandb")
    module.setup = lambda: SimpleNamespace(settings=SimpleNamespace(mode=mode))  # type: ignore[attr-defined]
    module.login = lambda prompt: account  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)


def test_wandb_needs_an_account_only_online(monkeypatch: pytest.MonkeyPatch) -> None:
    _wandb(monkeypatch, "online", account=False)
    with pytest.raises(
        ValueError, match="track = 'wandb' knows no account; run `wandb login`, or set WANDB_MODE"
    ):
        check_tracker("wandb")
    for mode, account in (("online", True), ("offline", False), ("disabled", False)):
        _wandb(monkeypatch, mode, account)
        check_tracker("wandb")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(
        ImportError, match=r"track = 'wandb' needs the package wandb .*pip install 'wandb>=0.31'"
    ):
        check_tracker("wandb")
    check_tracker(None)


def test_trackio_gets_a_project_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = {tmp_path.name}

    def import_tf_events(folder: str, project: str) -> None:
        assert folder == str(tmp_path)
        if project in known:
            raise ValueError(
                f"Project '{project}' already exists. Cannot import TF events into existing project."
            )
        known.add(project)

    module = ModuleType("trackio")
    module.import_tf_events = import_tf_events  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", module)
    for number in (2, 3):
        with tracked("trackio", tmp_path, {}):
            assert len(known) == number - 1
        assert f"{tmp_path.name}-{number}" in known


def test_other_errors_of_an_import_are_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def import_tf_events(folder: str, project: str) -> None:
        raise ValueError(f"No TensorFlow events data found in {folder}")

    module = ModuleType("trackio")
    module.import_tf_events = import_tf_events  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", module)
    with pytest.raises(ValueError, match="No TensorFlow events"), tracked("trackio", tmp_path, {}):
        pass
