"""Forked processes: a child has its parent's memory, but of its threads only the one that forked.

What computes with several threads would wait in the child for threads that are not there. So torch computes with one
thread there, compiled loops run without threads, and a lock that a lost thread held says so.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import Any
from weakref import WeakSet

from atrous.errors import AtrousError


class ForkLock:
    """A lock for threads that is never taken in a forked child by a thread that is not there.

    Args:
        lost: what to say in a child where a lost thread held the lock, as the state that it guards is then unknown;
            "" where the lock is simply free there.
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

    def __exit__(self, *error: object) -> None:
        self._owner = None
        self._lock.release()

    def after_fork(self) -> None:
        """In a child: a free lock, one that is lost, or one that its owner, the thread that forked, still holds."""
        locked, self._lock = self._lock.locked(), threading.Lock()
        if locked and self._owner == threading.get_ident():
            self._lock.acquire()
            return
        self._lost |= bool(self._message) and locked


_locks: WeakSet[ForkLock] = WeakSet()
_runtimes: WeakSet[Any] = WeakSet()
_numba_lost = False


def leave_to_parent(runtime: Any) -> None:
    """Has a forked child never destroy an object: its end would wait for threads that are not there.

    Args:
        runtime: what has threads of its own.
    """
    _runtimes.add(runtime)


def numba_lost() -> bool:
    """Whether this process was forked when numba's or torch's threads could have started: both may share OpenMP.

    OpenMP ends a child that calls threads of its parent, or the child waits for them.
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
    """Ends this process, once Python has finished, before the runtimes' global objects wait for their threads."""
    libc = ctypes.CDLL(None)
    on_exit = getattr(libc, "on_exit", None)  # glibc's alone
    if on_exit is not None:
        on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
