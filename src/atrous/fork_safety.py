"""Safety of forked processes: a child has its parent's memory, but only the thread that forked.

All other threads of the parent are missing in the child. Code that computes with several threads would wait for them
forever. So in the child torch computes with one thread, compiled loops run without threads, and a lock that a missing
thread held raises an error.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from atrous.errors import AtrousError


class ForkLock:
    """A lock for threads that no missing thread can hold in a forked child.

    Args:
        lost: message of the error that the lock raises in a child if a missing thread held it at the fork. The state
            that the lock protects is then unknown. With "", the lock raises no error and is free in the child.
    """

    def __init__(self, lost: str = "") -> None:
        self._lock, self._message, self._lost = threading.Lock(), lost, False
        self._owner: int | None = None
        _locks.add(self)

    def __enter__(self) -> None:
        if self._lost:
            raise AtrousError(self._message)
        self._lock.acquire()
        self._owner = threading.get_ident()

    @contextmanager
    def if_free(self) -> Iterator[bool]:
        """Takes the lock for a `with` block if it is free and was not lost at a fork; yields whether it was taken."""
        if self._lost or not self._lock.acquire(blocking=False):
            yield False
            return
        self._owner = threading.get_ident()
        try:
            yield True
        finally:
            self.__exit__()

    def __exit__(self, *error: object) -> None:
        self._owner = None
        self._lock.release()

    def after_fork(self) -> None:
        """Replaces the lock in a child. It stays held if this thread held it; if another thread held it, see `lost`."""
        locked, self._lock = self._lock.locked(), threading.Lock()
        if locked and self._owner == threading.get_ident():
            self._lock.acquire()
            return
        self._lost |= bool(self._message) and locked


_locks: WeakSet[ForkLock] = WeakSet()
_runtimes: WeakSet[Any] = WeakSet()
_numba_lost = False


def leave_to_parent(runtime: Any) -> None:
    """Prevents a forked child from destroying an object, because its destructor would wait for missing threads.

    Args:
        runtime: an object with its own threads.
    """
    _runtimes.add(runtime)


def numba_lost() -> bool:
    """Returns whether this process was forked after numba or torch was imported; both may use OpenMP threads.

    A child that uses the OpenMP threads of its parent is killed by OpenMP, or waits for them forever.
    """
    return _numba_lost


def _in_child() -> None:
    global _numba_lost
    for lock in _locks:
        lock.after_fork()
    _numba_lost |= not {"torch", "numba.np.ufunc.parallel"}.isdisjoint(sys.modules)
    set_threads = getattr(sys.modules.get("torch"), "set_num_threads", None)
    if set_threads is not None:
        set_threads(1)
    for runtime in _runtimes:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime))
    if not {"openvino", "onnxruntime"}.isdisjoint(sys.modules):
        _leave_without_destructors()


def _leave_without_destructors() -> None:
    """Makes this process exit after Python has finished, before global destructors of the runtimes wait for threads."""
    libc = ctypes.CDLL(None)
    on_exit = getattr(libc, "on_exit", None)  # only in glibc
    if on_exit is not None:
        on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
