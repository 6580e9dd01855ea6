"""What every decoder's failure becomes: one error that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from atrous.errors import AtrousError


class TooLarge(AtrousError):
    """A picture of more pixels, or more bytes, than are allowed or fit into memory."""


@contextmanager
def in_words(name: object) -> Iterator[None]:
    """Turn everything that a decoder raises into an AtrousError.

    Decoders raise any type on damaged files, and one damaged file must not end the work on all others.

    Args:
        name: of the file, for the message.

    Raises:
        TooLarge: memory ran out.
        AtrousError: anything else that was raised.
    """
    try:
        yield
    except AtrousError:
        raise
    except FileNotFoundError:
        raise AtrousError(f"{name}: no such file.") from None
    except MemoryError as error:
        raise TooLarge(f"{name}: cannot be read; it takes more memory than there is.") from error
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise AtrousError(f"{name}: cannot be read ({reason}); the file may be damaged or cut short.") from error
