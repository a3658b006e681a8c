"""SIGTERM: at once, or at a boundary."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from art_env._util.cli import run_command
from art_env._util.termination import Terminated, at_a_boundary, handled, held_back, stop_if_asked


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_at_once_outside_of_boundaries(capsys) -> None:
    assert run_command("x", _terminate, "stopped") == 143
    assert capsys.readouterr().err == "x: stopped\n"


def test_waits_for_the_boundary_and_saves_first() -> None:
    done: list[str] = []

    def work() -> None:
        with at_a_boundary():
            _terminate()
            done.append("on")
            stop_if_asked(lambda: done.append("saved"))
            done.append("too far")

    assert run_command("x", work) == 143
    assert done == ["on", "saved"]


def test_waits_for_the_end_of_the_block_at_most() -> None:
    done: list[str] = []
    with handled(), pytest.raises(Terminated):
        _end_late(done)
    assert done == ["on"]


def _end_late(done: list[str]) -> None:
    with at_a_boundary():
        _terminate()
        done.append("on")


def test_nothing_is_left_for_the_next_command() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    test_waits_for_the_boundary_and_saves_first()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with at_a_boundary():
        stop_if_asked(pytest.fail)


def test_ctrl_c() -> None:
    assert run_command("x", lambda: os.kill(os.getpid(), signal.SIGINT)) == 130


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_what_is_held_back_comes_at_the_end(number: int, code: int) -> None:
    done: list[str] = []

    def work() -> None:
        with held_back():
            for _ in range(2):
                os.kill(os.getpid(), number)
                done.append("on")
        done.append("too far")

    assert run_command("x", work) == code
    assert done == ["on", "on"]


def test_what_is_held_back_waits_for_a_boundary_too() -> None:
    done: list[str] = []

    def work() -> None:
        with at_a_boundary():
            with held_back():
                _terminate()
            done.append("on")
            stop_if_asked(lambda: done.append("saved"))

    assert run_command("x", work) == 143
    assert done == ["on", "saved"]


def test_another_thread_holds_nothing_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(_handler_within).result() == before
    assert _handler_within() != before
    assert signal.getsignal(signal.SIGTERM) == before


def _handler_within() -> object:
    with held_back():
        return signal.getsignal(signal.SIGTERM)
