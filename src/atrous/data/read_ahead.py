"""Reading the next while the present one is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Read = TypeVar("Read")


def in_background(read: Callable[[Given], Read], items: Sequence[Given]) -> Iterator[Read]:
    """What `read` makes of each item, in order; the one after is read in a thread meanwhile.

    Args:
        read: reads one item; what it raises is raised when its turn comes.
        items: at least one.
    """
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(read, items[0])
        for item in items[1:]:
            current, upcoming = upcoming, reader.submit(read, item)
            yield current.result()
        yield upcoming.result()
