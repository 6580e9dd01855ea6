"""Reading the next while the present one is worked on."""

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
    """What `read` makes of each item, in order; of a collection, the one after is read in a thread meanwhile.

    A generator may be live, as a camera is, or wait for the answer to its last item. So its next item is asked for only
    after the present one was answered, and nothing is read ahead.

    Args:
        read: reads one item; what it raises is raised when its turn comes.
        items: any number; a list, another collection, an iterator over one, or a generator.
        give_up: called when the work ends early, as by Ctrl-C, before what is being read is waited for.
    """
    if not isinstance(items, Sized) and not hasattr(items, "__length_hint__"):  # which iterators over lists have
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
