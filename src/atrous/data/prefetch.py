"""Reads the next item in a thread while the current item is processed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Read = TypeVar("Read")


def in_background(
    read: Callable[[Given], Read], items: Iterable[Given], give_up: Callable[[], object] = lambda: None
) -> Iterator[Read]:
    """Yields `read(item)` for each item, in order; a thread reads the next item of a collection in advance.

    If the items come from a generator, the next item is requested only after the current result was processed: a
    generator may be a live source such as a camera, or its next item may depend on the current result.

    Args:
        read: function that reads one item. An error in it is raised at the position of that item.
        items: the items: a list or another collection, an iterator over a collection, or a generator.
        give_up: function that is called if the loop ends early, for example by Ctrl-C; it is called before
            `in_background` waits for the read that is still running.
    """
    if not isinstance(items, Sized) and not hasattr(items, "__length_hint__"):  # list iterators have a length hint
        yield from map(read, items)
        return
    waiting = iter(items)
    with ThreadPoolExecutor(1) as reader:
        try:
            upcoming = [reader.submit(read, item) for item in islice(waiting, 1)]
            for item in waiting:
                current, upcoming = upcoming[0], [reader.submit(read, item)]
                yield current.result()
            for last in upcoming:
                yield last.result()
        except BaseException:
            give_up()
            raise
