import threading

import pytest

from atrous.data.prefetch import in_background


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


@pytest.mark.parametrize("live", ["generator", "map", "iterator class"])
def test_an_item_of_a_live_source_is_answered_before_the_next_is_asked_for(live):
    answers = []

    def frames():
        for number in range(4):
            assert len(answers) == number  # a loop that feeds each answer back would wait for ever
            yield number

    class Frames:
        def __init__(self):
            self._frames = frames()

        def __iter__(self):
            return self

        def __next__(self):
            return next(self._frames)

    source = {"generator": frames(), "map": map(int, frames()), "iterator class": Frames()}[live]
    for answer in in_background(lambda number: number + 1, source):
        answers.append(answer)
    assert answers == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", [list, tuple, lambda numbers: iter(list(numbers)), dict.fromkeys])
def test_collections_and_iterators_over_them_are_read_ahead(kind):
    begun = [threading.Event() for _ in range(3)]

    def read(number):
        begun[number].set()
        return number

    results = in_background(read, kind(range(3)))
    assert next(results) == 0
    assert begun[1].wait(5)
    assert list(results) == [1, 2]


def test_an_error_comes_when_its_turn_does():
    results = in_background(lambda item: 1 // item, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_giving_up_comes_before_waiting_for_what_is_read():
    given_up = threading.Event()

    def read(item: int) -> int:
        assert item == 0 or given_up.wait(60)
        return item

    found = in_background(read, [0, 1], given_up.set)
    assert next(found) == 0 and not given_up.is_set()
    found.close()
    assert given_up.is_set()
    assert list(in_background(lambda item: item, [1, 2], pytest.fail)) == [1, 2]
