"""Checks of numbers that a caller gives, with errors that name field, value and fix."""

from __future__ import annotations

import math
import numbers


def check_number(field: str, value: object) -> float:
    """Return ``value`` as a float if it is a number; infinite if it is too large for one.

    Raises:
        ValueError: another type; texts and booleans are no numbers.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{field} = {value!r} must be a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def check_real(field: str, value: object, least: float, most: float, fix: str = "") -> float:
    """Return ``value`` as a float if it is a number from ``least`` to ``most``.

    Raises:
        ValueError: not a number, or out of range.
    """
    found = check_number(field, value)
    if not least <= found <= most:
        raise ValueError(f"{field} = {value} must lie between {least:g} and {most:g}{fix and ', ' + fix}")
    return found


def check_whole(field: str, value: object, least: int, most: int) -> int:
    """Return ``value`` as an int if it is a whole number from ``least`` to ``most``.

    Raises:
        ValueError: another type, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{field} = {value!r} must be a whole number of at least {least}")
    found = int(value)
    if found < least:
        raise ValueError(f"{field} = {found} must be at least {least}")
    if found > most:
        raise ValueError(f"{field} = {found} must be at most {most:,}")
    return found
