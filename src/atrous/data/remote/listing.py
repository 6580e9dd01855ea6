"""Lists the pictures and files at a URL, and opens a file at a URL to read a part of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.data.remote.filesystems import WEB, errors_named, filesystem_of, scheme_of
from atrous.data.remote.transfer import below

#: Number of bytes of a file that are fetched at once.
AT_ONCE = 4 * 2**20


@dataclass(frozen=True)
class Listing:
    """The pictures and folders at a URL.

    Attributes:
        pictures: the URLs of the picture files, in order.
        is_folder: whether the URL is a folder.
        folders: the URLs of the folder's subfolders, without hidden subfolders; empty if the URL is not a folder.
    """

    pictures: list[str]
    is_folder: bool = False
    folders: list[str] = field(default_factory=list)


def listing_of(url: str) -> Listing:
    """Returns the pictures at a URL: the file itself, the pictures in the folder, or the matches of the pattern.

    Args:
        url: URL of a file or a folder, or a pattern with `*`, `?` or `[…]`. An `http` or `https` URL is always one
            file.

    Raises:
        AtrousError: the URL cannot be listed.
    """
    if scheme_of(url) in WEB:
        return Listing([url])
    with errors_named(url):
        system, path = filesystem_of(url)
        system.invalidate_cache()
        if system.isfile(path):
            return Listing([url])
        if re.search(r"[*?[]", path):
            names = [name for name in system.glob(path) if Path(name).suffix.lower() in PICTURE_SUFFIXES]
            return Listing([_url_of(name, url, path) for name in sorted(names)])
        if not system.isdir(path):
            return Listing([url])
        entries = sorted(system.ls(path, detail=True), key=lambda entry: entry["name"])
    pictures = [_last_part(entry["name"]) for entry in entries if _is_picture(entry)]
    folders = [
        _last_part(entry["name"])
        for entry in entries
        if entry["type"] == "directory" and not _is_folder_itself(entry, path)
    ]
    return Listing(
        [str(below(url, name)) for name in pictures],
        True,
        [str(below(url, name)) for name in folders if not name.startswith(".")],
    )


def files_in(url: str) -> set[str] | None:
    """Returns the names of the files in a folder, or None if there is no folder.

    In an object store, a folder exists only if it contains a file, so a missing folder is no error.

    Args:
        url: URL of the folder, of a kind that `check_storable` accepts.

    Raises:
        AtrousError: the URL cannot be listed.
    """
    with errors_named(url):
        system, path = filesystem_of(url)
        system.invalidate_cache()
        if not system.isdir(path):
            return None
        return {_last_part(entry["name"]) for entry in system.ls(path, detail=True) if entry["type"] == "file"}


@contextmanager
def opened(url: str, at_once: int = AT_ONCE) -> Iterator[BinaryIO]:
    """Opens a file at a URL for reading; only the parts that are read are fetched, if the filesystem supports this.

    Args:
        url: URL of a file, not a web address.
        at_once: number of bytes that are fetched at once.

    Raises:
        AtrousError: the file does not exist or cannot be accessed.
    """
    with errors_named(url):
        system, path = filesystem_of(url)
        with system.open(path, "rb", block_size=at_once) as file:
            yield file


def _url_of(name: str, url: str, path: str) -> str:
    """Returns the URL of a path that a filesystem returned, with the user name and host of ``url``."""
    begin = url.removesuffix(path) if url.endswith(path) else url.partition("://")[0] + "://"
    return begin + name


def _is_folder_itself(entry: Any, path: str) -> bool:
    """Returns whether an entry is the folder itself: an object store may list an empty object of the folder's name."""
    return entry["name"].strip("/") == path.strip("/")


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _is_picture(entry: Any) -> bool:
    name = _last_part(entry["name"])
    return entry["type"] == "file" and not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES
