"""Property tests with odd values: few examples in every run, 2,000 under ``slow``; the same ones each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HOW_MANY = pytest.mark.parametrize("examples", [60, pytest.param(2000, marks=pytest.mark.slow)])

NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 10**9, 10**400, 1e-300, 1e308, float("nan"), float("inf"), -float("inf")]),
    st.integers(-10, 100),
    st.floats(),
)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.text(max_size=5),
    st.lists(NUMBERS, max_size=3),
    st.dictionaries(st.text(max_size=2), NUMBERS, max_size=2),
)


def run(check: Callable[[Any], None], values: st.SearchStrategy[Any], examples: int) -> None:
    """Call ``check`` with that many values."""
    chosen = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    chosen(given(values)(check))()


def one_line(error: Exception) -> str:
    """The text of an error, which must be a line that somebody can read."""
    text = str(error)
    assert text.strip()
    assert "Traceback" not in text
    assert len(text) < 2000
    return text
