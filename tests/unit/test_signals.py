"""Signals that arrive where an exception would be lost, or leave a file behind."""

from __future__ import annotations

import signal
import time

import pytest

from cifm_cli.errors import StopRequested, deferring_signals, raising_on_stop_signals

SIGNALS = pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGTERM, StopRequested), (signal.SIGINT, KeyboardInterrupt)]
)


class SignalledDestructor:
    """An object during whose deletion a signal arrives; Python ignores what a destructor raises."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        """Send the signal."""
        signal.raise_signal(self.number)


@SIGNALS
def test_a_signal_that_a_destructor_swallows_is_repeated(number: int, expected: type[BaseException]) -> None:
    def work() -> None:
        with raising_on_stop_signals():
            SignalledDestructor(number)
            time.sleep(10)

    with pytest.raises(expected):
        work()


@SIGNALS
def test_a_deferred_signal_is_raised_at_the_end_of_the_block(number: int, expected: type[BaseException]) -> None:
    done = []

    def work() -> None:
        with raising_on_stop_signals(), deferring_signals():
            signal.raise_signal(number)
            done.append(True)

    with pytest.raises(expected):
        work()
    assert done == [True]
