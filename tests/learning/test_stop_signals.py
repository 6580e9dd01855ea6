import signal
import threading

import pytest

from atrous.learning.stop_signals import request_stop, stop_on_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_asks_and_a_second_ctrl_c_stops(number, capsys):
    before = signal.getsignal(number)
    with stop_on_signal() as stopped:
        assert not stopped()
        for _ in range(1 if number == signal.SIGINT else 3):  # torchrun passes on what a scheduler sends to all
            signal.raise_signal(number)
            assert stopped()
        assert capsys.readouterr().err.count("once more to stop at once") == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) == before


def test_a_request_of_another_thread_stops_one_training():
    answers = []

    def work():
        for _ in range(2):
            with stop_on_signal() as stopped:
                answers.append(stopped())

    request_stop()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [True, False]


def test_outside_the_main_thread_signals_are_left_alone():
    answers = []

    def work():
        with stop_on_signal() as stopped:
            answers.append(stopped())

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]
    assert signal.getsignal(signal.SIGINT) == before
