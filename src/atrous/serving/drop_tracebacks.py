"""Frees the memory of a refused picture at once, without waiting for Python's garbage collector."""

from __future__ import annotations


def drop_tracebacks(error: BaseException) -> None:
    """Removes the tracebacks of an error and of its causes. Only the message of the error can be used afterwards.

    A traceback refers to the stack frames through which the error passed, and so to the picture in their local
    variables. One of these frames refers to a future, and the future refers to the error. Only the garbage collector
    frees such a cycle. The collector starts after a certain number of new objects, regardless of their size. Until the
    collector started, a dozen truncated pictures of 25 megapixels occupied 0.6 GB of resident memory.

    Args:
        error: error to change.
    """
    pending: list[BaseException | None] = [error]
    done = set[int]()
    while pending:
        one = pending.pop()
        if one is not None and id(one) not in done:
            done.add(id(one))
            one.__traceback__ = None
            pending += [one.__cause__, one.__context__]
