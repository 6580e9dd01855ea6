"""Reading the next while the present one is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Read = TypeVar("Read")


def in_background(read: Callable[[Given], Read], items: Iterable[Given]) -> Iterator[Read]:
    """What `read` makes of each item, in order; the one after is read in a thread meanwhile.

    Args:
        read: reads one item; what it raises is raised when its turn comes.
        items: any number.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(1) as reader:
        upcoming = [reader.submit(read, item) for item in islice(waiting, 1)]
        for item in waiting:
            current, upcoming = upcoming[0], [reader.submit(read, item)]
            yield current.result()
        for last in upcoming:
            yield last.result()
