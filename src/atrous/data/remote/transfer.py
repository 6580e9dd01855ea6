"""Copies pictures from URLs and masks to URLs as whole files, so that all other code uses only local files.

`file://` is a local path. `https://` and `http://` are read by the standard library and cannot be written. All other
kinds (`s3://`, `gs://`, `hf://`, `memory://` …) use fsspec.
"""

from __future__ import annotations

import mimetypes
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from atrous.atomic_write import atomic_path
from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.data.rasters.open_raster import VRT_SUFFIX
from atrous.data.remote.filesystems import WEB, errors_named, filesystem_of, open_web, put, scheme_of
from atrous.errors import AtrousError, counted
from atrous.paths import Place, is_url, shown_place

#: Disk space that stays free, in bytes.
RESERVE = 64 * 2**20
#: Number of bytes that are copied at once.
CHUNK = 2**20
#: First bytes of web pages and error messages that servers send instead of pictures.
PAGES = (b"<!doctype html", b"<html", b"<?xml")


def local_path(place: Place) -> Path | None:
    """Returns the local path of a place; None for a URL that is not `file://`.

    Args:
        place: a path or a URL.

    Raises:
        AtrousError: a `file://` URL contains the name of another machine, or no path.
    """
    if not is_url(place):
        return Path(place)
    parts = urlsplit(str(place))
    if parts.scheme.lower() != "file":
        return None
    if parts.netloc not in ("", "localhost") or parts.path in ("", "/"):
        raise AtrousError(
            f"{shown_place(place)} is not a file on this machine: write file:///PATH, with three slashes."
        )
    return Path(url2pathname(parts.path))


def as_path(place: Place) -> Path:
    """Returns the path from which names of outputs are derived.

    A URL becomes host/folders/file; a local path is returned unchanged.

    Args:
        place: a path or a URL; escapes such as `%20` are decoded in web addresses.
    """
    if not is_url(place):
        return Path(place)
    is_web = scheme_of(str(place)) in WEB
    text = shown_place(place).removesuffix("?…").partition("://")[2]
    return Path(*(_portable_name(unquote(part) if is_web else part) for part in text.split("/") if part))


def below(folder: Place, name: str) -> Place:
    """Returns the path or URL of a file in a folder.

    Args:
        folder: path or URL of the folder.
        name: name of the file.
    """
    if not is_url(folder):
        return Path(folder) / name
    kind, _, rest = str(folder).partition("://")
    return f"{kind}://{rest.rstrip('/')}/{name}"


def identity(place: Place) -> str:
    """Returns a string that is equal for different spellings of the same path or URL.

    Args:
        place: a path or a URL.
    """
    if (path := local_path(place)) is not None:
        return os.path.realpath(path)
    url = str(place)
    if scheme_of(url) in WEB:
        return url
    with errors_named(url):
        system, path = filesystem_of(url)
    host = urlsplit(url).netloc.rpartition("@")[2]
    return f"{system.protocol}:{path if path.lstrip('/').startswith(host) else f'{host}:{path}'}"


@contextmanager
def fetched(place: Place, stopped: Callable[[], bool] = lambda: False) -> Iterator[Path]:
    """Provides a local path of a file: its own path, or a copy that is deleted at the end of the context.

    Errors name the place instead of the copy.

    Args:
        place: path or URL of the file.
        stopped: function that is called before each chunk is copied; the copy is cancelled if it returns True.

    Raises:
        AtrousError: for the same reasons as in `fetch`.
    """
    if (path := local_path(place)) is not None:
        yield path
        return
    with TemporaryDirectory(prefix="atrous-", ignore_cleanup_errors=True) as folder:
        copy = fetch(str(place), Path(folder), stopped)
        with _errors_name_place(copy, place):
            yield copy


@contextmanager
def stored(place: Place) -> Iterator[Path]:
    """Provides a local path for writing a file; the file is copied to a URL when the context ends without an error.

    Args:
        place: path or URL of the file.

    Raises:
        AtrousError: for the same reasons as in `store`.
    """
    if (path := local_path(place)) is not None:
        yield path
        return
    with TemporaryDirectory(prefix="atrous-", ignore_cleanup_errors=True) as folder:
        draft = Path(folder) / _name_of(str(place))
        with _errors_name_place(draft, place):
            yield draft
        store(draft, str(place))


def fetch(url: str, folder: Path, stopped: Callable[[], bool] = lambda: False) -> Path:
    """Copies a picture from a URL into a folder; after an error, no incomplete file remains.

    Args:
        url: URL of one file, as `listing_of` returns it.
        folder: target folder, created if missing; the file is named after the last part of the URL.
        stopped: function that is called before each chunk is copied; the copy is cancelled if it returns True.

    Returns:
        The path of the copy.

    Raises:
        AtrousError: the file does not exist, cannot be accessed, is a web page or another text, ends too early or is
            larger than the free disk space; it is a VRT; an extra is not installed; or ``stopped`` returned True.
    """
    kind = ""
    with errors_named(url):
        target = folder / _name_of(url)
    if target.suffix.lower() == VRT_SUFFIX:
        raise AtrousError(
            f"{shown_place(url)}: a VRT takes its pixels from other files, and only single files are fetched. Download "
            "the VRT and its files, or give the URL of a GeoTIFF."
        )
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free - RESERVE
    with atomic_path(target) as part, part.open("wb") as file, errors_named(url):
        if scheme_of(url) in WEB:
            with open_web(url) as answer:
                kind = answer.headers.get_content_type()
                length = answer.headers.get("Content-Length", "")
                size = int(length) if length.isdecimal() else None
                _copy(answer.read1, file, size, free, url, stopped)
        else:
            system, path = filesystem_of(url)
            with system.open(path, "rb") as source:
                _copy(source.read, file, system.size(path), free, url, stopped)
        file.flush()
        with part.open("rb") as written:
            if kind == "text/html" or written.read(512).lstrip().lower().startswith(PAGES):
                raise AtrousError(
                    f"{shown_place(url)} is a page of text and not a picture: give the address of the picture itself, "
                    "and check in a browser whether the address requires a login."
                )
    ending = mimetypes.guess_extension(kind) if kind.startswith("image/") else None
    if target.suffix.lower() not in PICTURE_SUFFIXES and ending in PICTURE_SUFFIXES:
        target = target.replace(target.with_name(target.name + ending))
    return target


def store(file: Path, url: str) -> None:
    """Copies a whole file to a URL; an existing file is replaced only when the new file is complete.

    Args:
        file: a file on this machine.
        url: URL of the new file; an existing file is replaced.

    Raises:
        AtrousError: the URL cannot be written, there is no access, or an extra is not installed.
    """
    check_storable(url)
    put(file, url)


def check_storable(url: str) -> None:
    """Checks that a URL is of a kind that can be written, before any work is done.

    Args:
        url: URL of a file or a folder.

    Raises:
        AtrousError: the URL is a web address or of an unknown kind, or an extra is not installed.
    """
    if scheme_of(url) in WEB:
        raise AtrousError(
            f"{shown_place(url)}: nothing can be stored at a web address; give a folder or s3://, gs:// …"
        )
    with errors_named(url):
        filesystem_of(url)


def _copy(
    read: Callable[[int], bytes],
    target: BinaryIO,
    size: int | None,
    free: int,
    url: str,
    stopped: Callable[[], bool],
) -> None:
    """Copies a file of `size` bytes (None if unknown) in chunks; at most `free` bytes are allowed.

    Raises:
        AtrousError: the file is larger than `free` or ends before `size`, or the copy was cancelled.
    """
    copied = 0
    while True:
        least = max(copied, size or 0)
        if least > free:
            raise AtrousError(
                f"{shown_place(url)} has {counted(least, 'byte')}{'' if size else ' or more'}, and the disk has "
                f"{counted(max(free, 0), 'byte')} free for it."
            )
        if stopped():
            raise AtrousError(f"{shown_place(url)} is not fetched, because the work was stopped.")
        chunk = read(CHUNK)
        if not chunk:
            break
        target.write(chunk)
        copied += len(chunk)
    if size is not None and copied < size:
        raise AtrousError(f"{shown_place(url)} ended after {copied:,} of {counted(size, 'byte')}; try again.")


@contextmanager
def _errors_name_place(copy: Path, place: Place) -> Iterator[None]:
    """Replaces the path of the temporary copy in errors by the place."""
    try:
        yield
    except Exception as error:
        error.args = tuple(
            one.replace(str(copy), shown_place(place)) if isinstance(one, str) else one for one in error.args
        )
        if isinstance(error, OSError) and str(error.filename) == str(copy):
            error.filename = shown_place(place)
        raise


def _portable_name(name: str) -> str:
    """Returns the name with `_` instead of characters that some systems do not allow in file names."""
    return re.sub(r'[:*?"<>|/\\\0-\x1f]', "_", name)


def _name_of(url: str) -> str:
    """Returns the name of the local copy: the last part of the URL's path.

    Raises:
        AtrousError: the URL ends in no file name, or in a name that could be outside the folder.
    """
    is_web = scheme_of(url) in WEB
    path = urlsplit(url).path if is_web else url.partition("://")[2]
    last = path.rstrip("/").rpartition("/")[2]
    name = unquote(last) if is_web else last
    if name in ("", ".", "..") or re.search(r"[/\\\0-\x1f]", name):
        raise AtrousError(f"{shown_place(url)} names no file: the last part of the URL must be the name of a file.")
    return _portable_name(name)
