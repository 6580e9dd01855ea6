import threading

import pytest

from atrous.data.read_ahead import in_background


def test_in_order_each_once():
    assert list(in_background(lambda item: item * 2, [3, 1, 2])) == [6, 2, 4]
    assert list(in_background(str, [5])) == ["5"]


def test_the_next_is_read_while_the_present_one_is_worked_on():
    begun = {number: threading.Event() for number in range(3)}

    def read(number):
        begun[number].set()
        return number

    for number in in_background(read, list(begun)):
        assert all(begun[later].wait(5) for later in range(min(number + 2, 3)))


def test_an_error_comes_when_its_turn_does():
    results = in_background(lambda item: 1 // item, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
