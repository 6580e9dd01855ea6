"""Places: pictures are fetched from URLs and masks stored at URLs as whole files, so that one reader and writer do.

`file://` is a local path. `https://` and `http://` are read by the standard library; nothing is stored there. All else
(`s3://`, `gs://`, `hf://`, `memory://` …) goes through fsspec.
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
from atrous.data.remote.filesystems import WEB, errors_named, filesystem_of, open_web, put, scheme_of
from atrous.errors import AtrousError, counted
from atrous.paths import Place, is_url, shown_place

#: Bytes of the disk that stay free.
RESERVE = 64 * 2**20
#: Bytes copied at once.
CHUNK = 2**20
#: How files begin that are pages or error messages and no pictures.
PAGES = (b"<!doctype html", b"<html", b"<?xml")


def local_path(place: Place) -> Path | None:
    """The path of a place on this machine; None of a URL of elsewhere.

    Args:
        place: a path or a URL, also `file://`.

    Raises:
        AtrousError: a `file://` URL that names another machine or no file.
    """
    if not is_url(place):
        return Path(place)
    parts = urlsplit(str(place))
    if parts.scheme.lower() != "file":
        return None
    if parts.netloc not in ("", "localhost") or parts.path in ("", "/"):
        raise AtrousError(
            f"{shown_place(place)} names no file of this machine: write file:///PATH, with three slashes."
        )
    return Path(url2pathname(parts.path))


def as_path(place: Place) -> Path:
    """A path that ends as a place does, for the names of what belongs to it: of a URL its host, folders and file.

    Args:
        place: a path, or a URL, whose `%20` are decoded on the web.
    """
    if not is_url(place):
        return Path(place)
    is_web = scheme_of(str(place)) in WEB
    text = shown_place(place).removesuffix("?…").partition("://")[2]
    return Path(*(_for_any_system(unquote(part) if is_web else part) for part in text.split("/") if part))


def below(folder: Place, name: str) -> Place:
    """A file in a folder.

    Args:
        folder: a path or a URL.
        name: of the file.
    """
    if not is_url(folder):
        return Path(folder) / name
    kind, _, rest = str(folder).partition("://")
    return f"{kind}://{rest.rstrip('/')}/{name}"


def identity(place: Place) -> str:
    """A text that is the same for two spellings of one place.

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
    """The file of a place on this machine: itself, or a copy for as long as the context lasts; errors name the place.

    Args:
        place: a path or a URL of a file.
        stopped: as of `fetch`.

    Raises:
        AtrousError: as `fetch`.
    """
    if (path := local_path(place)) is not None:
        yield path
        return
    with TemporaryDirectory(prefix="atrous-", ignore_cleanup_errors=True) as folder:
        copy = fetch(str(place), Path(folder), stopped)
        with _named(copy, place):
            yield copy


@contextmanager
def stored(place: Place) -> Iterator[Path]:
    """A path to write a file to; where the place is a URL, it is stored there when the context ends without an error.

    Args:
        place: a path or a URL of a file.

    Raises:
        AtrousError: as `store`.
    """
    if (path := local_path(place)) is not None:
        yield path
        return
    with TemporaryDirectory(prefix="atrous-", ignore_cleanup_errors=True) as folder:
        draft = Path(folder) / _name_of(str(place))
        with _named(draft, place):
            yield draft
        store(draft, str(place))


def fetch(url: str, folder: Path, stopped: Callable[[], bool] = lambda: False) -> Path:
    """Copies a picture from a URL into a folder, whole or not at all.

    Args:
        url: of one file, as `listing_of` gives it.
        folder: where the file goes, under the last part of the URL; its folders are made.
        stopped: asked again and again whether to give up.

    Returns:
        The file.

    Raises:
        AtrousError: no such file, no access, a page instead of a picture, a file that ends too early or is larger than
            what the disk has free, or an extra that is not installed.
    """
    kind = ""
    with errors_named(url):
        target = folder / _name_of(url)
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
                    f"{shown_place(url)} gives a page of text and no picture: give the picture's own address, and look "
                    "in a browser whether it asks to log in."
                )
    ending = mimetypes.guess_extension(kind) if kind.startswith("image/") else None
    if target.suffix.lower() not in PICTURE_SUFFIXES and ending in PICTURE_SUFFIXES:
        target = target.replace(target.with_name(target.name + ending))
    return target


def store(file: Path, url: str) -> None:
    """Copies a file to a URL, whole; what is there before is lost only when the new file is there.

    Args:
        file: on this machine.
        url: of the file that it becomes; one that is there is replaced.

    Raises:
        AtrousError: nothing can be stored there, no access, or an extra that is not installed.
    """
    check_storable(url)
    put(file, url)


def check_storable(url: str) -> None:
    """Refuses, before the work, a URL at which nothing can be stored.

    Args:
        url: of a file or a folder.

    Raises:
        AtrousError: a web address, an unknown kind of URL, or an extra that is not installed.
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
    """Copies a file of `size` bytes, where that is known, and of at most `free`.

    Raises:
        AtrousError: it is larger, or ends before its size; or it is not to be fetched any more.
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
def _named(copy: Path, place: Place) -> Iterator[None]:
    """Puts the place for the path of its temporary copy in what is raised."""
    try:
        yield
    except Exception as error:
        error.args = tuple(
            one.replace(str(copy), shown_place(place)) if isinstance(one, str) else one for one in error.args
        )
        if isinstance(error, OSError) and str(error.filename) == str(copy):
            error.filename = shown_place(place)
        raise


def _for_any_system(name: str) -> str:
    """A file's name without the characters that some system has in no name."""
    return re.sub(r'[:*?"<>|/\\\0-\x1f]', "_", name)


def _name_of(url: str) -> str:
    """The name of the local copy: the last part of the URL's path.

    Raises:
        AtrousError: it has none, or one that would lead out of the folder.
    """
    is_web = scheme_of(url) in WEB
    path = urlsplit(url).path if is_web else url.partition("://")[2]
    last = path.rstrip("/").rpartition("/")[2]
    name = unquote(last) if is_web else last
    if name in ("", ".", "..") or re.search(r"[/\\\0-\x1f]", name):
        raise AtrousError(f"{shown_place(url)} names no file: its last part must be a file's name.")
    return _for_any_system(name)
