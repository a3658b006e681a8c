"""Every table in README.md and docs/ is what the files of results say."""

from __future__ import annotations

import pytest

from benchmarks import report
from benchmarks.tables import README, begin, block


def test_no_table_is_stale(capsys) -> None:
    report.main(report.Args(check=True))
    assert "every table is what the files of results say" in capsys.readouterr().out


def test_a_stale_table_is_named() -> None:
    assert begin("headline") in README.read_text("utf-8")
    with pytest.raises(ValueError, match=r"stale: README.md: headline; run python -m benchmarks.report"):
        report.check({README: {"headline": "another table"}})
    assert block("headline", "another table") not in README.read_text("utf-8")
