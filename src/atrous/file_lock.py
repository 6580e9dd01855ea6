"""A lock on a file that one process holds for a while, and that ends with the process, however it ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def lock_file(path: Path) -> Iterator[bool]:
    """Locks a file for this process as long as the context lasts, without waiting for others.

    Args:
        path: the file, made where there is none and never changed; its folder exists.

    Yields:
        False where another process holds the lock. True where this one holds it now, or the disk has no locks.

    Raises:
        OSError: the file cannot be opened; names it.
    """
    with _locked_by_sqlite(path) if fcntl is None else _locked_by_fcntl(path) as locked:
        yield locked


@contextmanager
def _locked_by_fcntl(path: Path) -> Iterator[bool]:
    assert fcntl is not None
    with path.open("ab") as file:  # not "wb", which would empty a file
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, whose locks outlive us in the data workers
            locked = True
        except (BlockingIOError, PermissionError):
            locked = False
        except OSError:
            locked = True
        yield locked


@contextmanager
def _locked_by_sqlite(path: Path) -> Iterator[bool]:
    """SQLite has a lock of every system; a file of no bytes is a database to it, in which nothing is written."""
    try:
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:  # a folder that may not be written, or no folder
        raise OSError(f"{path} cannot be locked: {error}.") from error
    with closing(connection) as database:
        try:
            database.execute("BEGIN EXCLUSIVE")
            locked = True
        except sqlite3.DatabaseError as error:
            locked = error.sqlite_errorcode != sqlite3.SQLITE_BUSY
        yield locked
