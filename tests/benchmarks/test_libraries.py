"""The benchmark of RL libraries: what it reads from an example, and its table."""

from __future__ import annotations

from pathlib import Path

import pytest

from art_env._util.names import unknown_name
from benchmarks import libraries
from benchmarks.libraries import LIBRARIES, Run, parse, read, table, write

PRINTED = """\
[skrl:INFO] Seed: 0
skrl PPO: 61440 steps in 5.2 s of processor time, 12000 a second
skrl PPO: mean return -0.05, RMSE 0.3
action 0: mean return -0.71, RMSE 0.366
EDM: mean return -2.191, RMSE 0.8553
near the oracle: mean return None
"""
ORACLE = Run("oracle", "-", "oracle", 0, 0, 0.0, -0.3, 0.15)


def test_it_reads_what_an_example_prints() -> None:
    run = parse("skrl", "2.1.1", 3, PRINTED)
    assert run == Run("skrl", "2.1.1", "skrl PPO", 3, 61440, 5.2, -0.05, 0.3)


@pytest.mark.parametrize("line", [1, 2])
def test_a_missing_line_is_named(line: int) -> None:
    text = "\n".join(row for i, row in enumerate(PRINTED.splitlines()) if i != line)
    with pytest.raises(ValueError, match=r"train_skrl.py printed no"):
        parse("skrl", "2.1.1", 3, text)


def test_results_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "libraries.csv"
    assert read(path) == []
    runs = [ORACLE, parse("skrl", "2.1.1", 1, PRINTED), parse("skrl", "2.1.1", 0, PRINTED)]
    write(path, runs)
    assert read(path) == [runs[2], runs[1], runs[0]]


def test_the_table_has_medians_and_ranges() -> None:
    runs = [
        Run("skrl", "2.1.1", "skrl PPO", i, 1000, 10.0, value, 0.15 * r)
        for i, (value, r) in enumerate([(-0.1, 2), (-0.2, 3), (-0.4, 4)])
    ]
    row = table([*runs, ORACLE]).splitlines()[2]
    assert "-0.200 (-0.400 to -0.100) | 3.00 (2.00 to 4.00) | 3 | 1,000 | 100 |" in row
    assert LIBRARIES["skrl"].line in row


def test_every_library_has_an_example() -> None:
    examples = {path.stem.removeprefix("train_") for path in (libraries.ROOT / "examples").glob("train_*.py")}
    assert set(LIBRARIES) == examples - {"art_rl_on_my_model"}


def test_an_unknown_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        libraries.main(libraries.Args(names=("skrll",), results=tmp_path / "none.csv"))
    assert str(error.value) == unknown_name("names", "skrll", LIBRARIES)
    assert not (tmp_path / "none.csv").exists()


def test_a_failing_example_says_why(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named skrl' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(RuntimeError, match="No module named skrl"):
        libraries.run_example("skrl", 0, python)
