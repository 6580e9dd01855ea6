"""Access to the filesystems and servers of URLs; errors name the URL without passwords or tokens."""

from __future__ import annotations

import base64
import difflib
import errno
import http.client
import secrets
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import Request, build_opener

from atrous.atomic_write import SUFFIX
from atrous.errors import AtrousError, missing_extra
from atrous.paths import shown_place

#: The package that each kind of URL needs; the extra `remote` installs all of them.
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
#: Kinds of URL at which a new file replaces an existing file in one step, so that no temporary name is needed.
OBJECT_STORES = frozenset({*PACKAGES, "abfs", "abfss", "az", "oss"})
#: Seconds to wait for a response of a server.
TIMEOUT = 60
#: Largest number of characters of a server's message that are shown.
MOST_SHOWN = 200
#: Kinds of URL that name one file on a server.
WEB = ("http", "https")


def scheme_of(url: str) -> str:
    """Returns the scheme of a URL in lower case, such as "s3" for s3://bucket/a.png.

    Args:
        url: a URL of any kind.
    """
    return url.partition(":")[0].lower()


def put(file: Path, url: str) -> None:
    """Copies a file to a URL; except on object stores, the copy has a temporary name until it is complete.

    Args:
        file: a file on this machine.
        url: URL of the new file, on a filesystem; not a web address.

    Raises:
        AtrousError: there is no access, or an extra is not installed.
    """
    with errors_named(url):
        system, path = filesystem_of(url)
        if scheme_of(url) in OBJECT_STORES:
            system.put_file(str(file), path)
            return
        parent = path.rpartition("/")[0]
        if parent:
            system.makedirs(parent, exist_ok=True)
        part = f"{parent}/.{secrets.token_hex(8)}{SUFFIX}"
        try:
            system.put_file(str(file), part)
            _rename(system, part, path)
        finally:
            with suppress(Exception):  # without an error, the temporary file was renamed, so this file no longer exists
                system.rm_file(part)


def _rename(system: Any, part: str, path: str) -> None:
    """Renames a file to its final name; renames an existing file first if the system cannot replace it."""
    from fsspec.spec import AbstractFileSystem

    if type(system).mv is AbstractFileSystem.mv:  # fsspec's default mv copies, and interprets names as patterns
        system.cp_file(part, path)
        return
    size = system.info(part)["size"]
    with suppress(Exception):  # some systems refuse to replace a file, with or without an error
        system.mv(part, path)
    if not _exists(system, part):
        if system.info(path)["size"] != size:
            raise OSError(f"the file that was written as {part} is not at {path}")
        return
    aside = f"{part.removesuffix(SUFFIX)}.before{SUFFIX}"
    had = system.exists(path)
    if had:
        system.mv(path, aside)
    try:
        system.mv(part, path)
    except Exception:
        if had:
            system.mv(aside, path)
        raise
    if had:
        system.rm_file(aside)


def _exists(system: Any, path: str) -> bool:
    """Returns whether a file exists; unlike `exists` of fsspec, raises an error if the server cannot be reached."""
    try:
        system.info(path)
    except FileNotFoundError:
        return False
    return True


def filesystem_of(url: str) -> tuple[Any, str]:
    """Returns the fsspec filesystem of a URL, and the path of the URL in this filesystem.

    Args:
        url: URL of any kind except `http` and `https`.

    Raises:
        AtrousError: the kind of URL is unknown, or needs a package that is not installed.
    """
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations, registry

    scheme = scheme_of(url)
    if scheme not in known_implementations and scheme not in registry:
        near = difflib.get_close_matches(scheme, [*PACKAGES, *WEB, "file", "memory"], n=1)
        hint = f" Did you mean {near[0]}://?" if near else ""
        raise AtrousError(
            f"{shown_place(url)}: unknown kind of URL.{hint} Known kinds are https, file, s3, gs, hf and others."
        )
    try:
        return url_to_fs(scheme + url[len(scheme) :])
    except ImportError as error:
        if scheme in PACKAGES:
            raise AtrousError(f"{shown_place(url)}: {missing_extra(PACKAGES[scheme], 'remote')}") from error
        raise AtrousError(f"{shown_place(url)} needs a package that is not installed: {error}.") from error


@contextmanager
def errors_named(url: str) -> Iterator[None]:
    """Converts errors of a filesystem or a server into an AtrousError that names the URL without secrets.

    Args:
        url: the URL that is read or written in this context.
    """
    try:
        yield
    except AtrousError:
        raise
    except urllib.error.HTTPError as error:
        reason = _first_line(error.reason)
        raise AtrousError(f"{shown_place(url)}: the server returned {error.code} {reason}.") from None
    except FileNotFoundError:
        raise AtrousError(f"{shown_place(url)}: no such file.") from None
    except MemoryError:
        raise
    except Exception as error:  # each filesystem raises errors of its own types
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        words = _first_line(shown_place(str(reason).replace(url, shown_place(url))))
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
        what = "cannot be copied" if full else "cannot be reached"
        raise AtrousError(f"{shown_place(url)} {what}: {words or type(reason).__name__}.") from None


def _first_line(text: object) -> str:
    """Returns the first line of a server's message, cut to ``MOST_SHOWN`` characters, without control characters."""
    return "".join(letter for letter in str(text).partition("\n")[0] if letter.isprintable())[:MOST_SHOWN]


def open_web(url: str) -> Any:
    """Opens a web address; the user name and password in the URL are sent only to the URL's own host.

    Args:
        url: URL of kind `http` or `https`.

    Returns:
        The response, open for reading.

    Raises:
        AtrousError: the URL is not a valid web address.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        raise AtrousError(f"{shown_place(url)} contains no host name.")
    host = parts.netloc.rpartition("@")[2]
    path, query = quote(parts.path, safe="/%:@!$&'()*+,;=~"), quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    request = Request(urlunsplit((parts.scheme, host, path, query, "")), headers={"User-Agent": "atrous"})
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
    try:
        return build_opener().open(request, timeout=TIMEOUT)
    except http.client.InvalidURL as error:
        raise AtrousError(f"{shown_place(url)} is not a valid web address.") from error
