"""Turns the failure of any decoder into one error that names the file."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from atrous.errors import AtrousError


class TooLarge(AtrousError):
    """Error for a picture with more pixels or bytes than are allowed or fit into memory."""


@contextmanager
def in_words(name: object) -> Iterator[None]:
    """Turns every exception of a decoder into an AtrousError.

    For a damaged file, a decoder may raise an exception of any type. One damaged file must not stop the work on all
    other files.

    Args:
        name: name of the file, for the message.

    Raises:
        TooLarge: memory ran out.
        AtrousError: the decoder raised another exception.
    """
    try:
        yield
    except AtrousError:
        raise
    except FileNotFoundError:
        raise AtrousError(f"{name}: no such file.") from None
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise AtrousError(
                f"{name}: cannot be opened, because this process has too many files open. Allow more: ulimit -n 4096"
            ) from error
        raise _unreadable(name, error.strerror or str(error)) from error
    except MemoryError as error:
        raise TooLarge(f"{name}: cannot be read; it needs more memory than is available.") from error
    except Exception as error:
        raise _unreadable(name, str(error)) from error


def _unreadable(name: object, reason: str) -> AtrousError:
    return AtrousError(f"{name}: cannot be read ({reason}); the file may be damaged or cut short.")
