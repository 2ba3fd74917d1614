"""Signals wait for the end of a block, and only there."""

import os
import signal
import threading

import pytest

from trunkline.train.signals import held


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request):
    """The signal, with a handler that raises."""

    def handler(number, frame):
        raise KeyboardInterrupt(number)

    before = signal.signal(request.param, handler)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_waits_for_the_end_of_the_block(number):
    done = []

    def work():
        with held():
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            done.append("whole")
        done.append("after")

    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    assert done == ["whole"]
    assert caught.value.args == (number,)


def test_outside_of_the_block_it_comes_at_once(number):
    for _ in range(2):
        with held():
            pass
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_an_error_in_the_block_is_that_error_and_the_handlers_are_back(number):
    before = signal.getsignal(number)
    with pytest.raises(ValueError, match="x"), held():
        raise ValueError("x")
    assert signal.getsignal(number) is before


def test_the_handler_of_the_system_stays(monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with held():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_is_held():
    seen = []

    def work():
        with held():
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
