"""Looking a name up in a table, with an error that helps."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def unknown_name(field: str, value: object, known: Iterable[str]) -> str:
    """The error text for an unknown name: field, value, the nearest known name, and all of them."""
    names = list(known)
    near = [name for name in names if name.lower() == str(value).lower()]
    near = near or difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {field} {value!r}.{hint} Known: {', '.join(names)}"


def check_name(field: str, value: str, known: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``known``; else a ValueError with "did you mean"."""
    names = list(known)
    if value not in names:
        raise ValueError(unknown_name(field, value, names))
    return value


def look_up(field: str, value: str, table: Mapping[str, T]) -> T:
    """Return ``table[value]``; a ValueError with "did you mean" if it is not there."""
    return table[check_name(field, value, table)]
