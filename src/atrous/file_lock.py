"""A lock on a file for one process; when the process ends or is killed, the system releases the lock."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def lock_file(path: Path) -> Iterator[bool]:
    """Locks a file for this process during the context, without waiting for other processes.

    Args:
        path: the file, created if missing and never changed; its folder must exist.

    Yields:
        False if another process holds the lock. True if this process holds it, or if the disk does not support locks.

    Raises:
        OSError: the file cannot be opened; the message names it.
    """
    with _locked_by_sqlite(path) if fcntl is None else _locked_by_fcntl(path) as locked:
        yield locked


def wait_until_unlocked(path: Path, waiting: Callable[[], object], seconds: float) -> None:
    """Waits while another process holds the lock of a file: a network disk may keep the lock of a lost machine.

    Args:
        path: the file; its folder must exist.
        waiting: called once if the file is locked.
        seconds: longest time to wait.
    """
    until, told = time.monotonic() + seconds, False
    while time.monotonic() < until:
        with lock_file(path) as free:
            if free:
                return
        if not told:
            waiting()
            told = True
        time.sleep(1.0)


@contextmanager
def _locked_by_fcntl(path: Path) -> Iterator[bool]:
    assert fcntl is not None
    with path.open("ab") as file:  # "wb" would truncate the file
        try:
            # flock is not used, because data workers would inherit its lock
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except (BlockingIOError, PermissionError):
            locked = False
        except OSError:
            locked = True
        yield locked


@contextmanager
def _locked_by_sqlite(path: Path) -> Iterator[bool]:
    """Locks a file with SQLite, which works on every system; an empty file is a valid database, and stays empty."""
    try:
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:  # a folder that is missing or write-protected
        raise OSError(f"{path} cannot be locked: {error}.") from error
    with closing(connection) as database:
        try:
            database.execute("BEGIN EXCLUSIVE")
            locked = True
        except sqlite3.DatabaseError as error:
            locked = error.sqlite_errorcode != sqlite3.SQLITE_BUSY
        yield locked
