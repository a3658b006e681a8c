"""The benchmark that kills trainings, with one kill."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.kills import Args, finish, measure, rmse, same, train


@pytest.mark.slow
def test_one_kill(tmp_path: Path) -> None:
    line = measure(Args(kills=1, others=1), "art", tmp_path)
    assert line.startswith("art: 1 killed, 1 finished, 1 identical (all within 0), ")
    assert ", 0 dead ends, 0 strays, 0 orphans; RMSE 0." in line
    assert line.endswith("(2 seeds)")


@pytest.mark.slow
def test_what_counts_as_the_same(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert finish(train("art", one, "--no-oracle")) == ""
    shutil.copytree(one, two)
    assert same(one, two)
    results = two / "results.csv"
    results.write_text(results.read_text().replace("1", "2"))
    assert not same(one, two)
    assert rmse(one) > 0
    assert "already exists" in finish(train("art", one, ""))
