import signal
import threading

import pytest

from atrous.learning.stop_signals import stop_on_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_asks_a_second_stops(number, capsys):
    before = signal.getsignal(number)
    with stop_on_signal() as stopped:
        assert not stopped()
        signal.raise_signal(number)
        assert stopped()
        assert "once more to stop at once" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


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
