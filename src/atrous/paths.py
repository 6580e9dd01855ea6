"""Paths on this machine and URLs, as they are given, checked and named in messages."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, TypeAlias

from atrous.errors import SHOWN, AtrousError, no_encoding

#: A path, or a URL as text.
Place: TypeAlias = Path | str


def is_url(place: Place) -> bool:
    """Whether a place is a URL, such as https://…, s3://… or file://…; a drive of Windows, C:/…, is none.

    Args:
        place: a path, or a text that is one or the other.
    """
    chain = r"(?:[A-Za-z][A-Za-z0-9+.-]+::)*[A-Za-z][A-Za-z0-9+.-]+://"  # fsspec's, such as simplecache::https://
    return isinstance(place, str) and re.match(chain, place) is not None


def shown_place(place: Place) -> str:
    """A place for messages and records; of a URL without what may be secret: the user, the password and the query.

    Args:
        place: a path or a URL; or a text in which URLs stand.
    """
    if isinstance(place, Path):
        return str(place)
    text = re.sub(r"(?<=://)[^/?#\s]*@", "", place)
    # a password with an unquoted slash: a colon that no port follows
    text = re.sub(r"(?<=://)(?!\[)[^/?#\s@]*:(?!\d*(?:[/?#]|$))\S*@", "", text)
    text = re.sub(r"(https?://[^?#\s]*)[?#]\S*", r"\1?…", text, flags=re.IGNORECASE)
    return re.sub(r"(://[^?#\s]*)[?#][^\s=]*=\S*", r"\1?…", text)  # elsewhere ? is a pattern, without "="


def place_of(value: str | os.PathLike[Any], name: str) -> Place:
    """A path on this machine, or a URL.

    Args:
        value: the path or the URL.
        name: of the argument, for messages.

    Raises:
        AtrousError: as `path_of`; or a URL that became a path.
    """
    if isinstance(value, str) and is_url(value):
        return value
    if isinstance(value, os.PathLike) and (url := _url_in(os.fspath(value))):
        raise AtrousError(f"{name} is {shown_place(url)} as a Path, which keeps one slash of two: give it as text.")
    return path_of(value, name)


def _url_in(text: Any) -> str | None:
    """The URL that a text is, or that it was before it became a path, which keeps one slash of two."""
    if not isinstance(text, str) or is_url(text):
        return text if isinstance(text, str) else None
    begin = re.match(r"([A-Za-z][A-Za-z0-9+.-]{1,30}:)[/\\]", text)
    return f"{begin[1]}//{text[begin.end() :]}" if begin and not Path(begin[1]).exists() else None


def path_of(value: str | os.PathLike[Any], name: str) -> Path:
    """A path on this machine.

    Args:
        value: the path.
        name: of the argument, for messages.

    Raises:
        AtrousError: it is empty, or a URL.
        TypeError: it is no text.
    """
    text = os.fspath(value)
    if not isinstance(text, str):
        raise TypeError(f"{name} is no text")  # bytes, which are no path on every system
    if url := _url_in(text):
        cure = "leave file:// out" if url.lower().startswith("file:") else "copy it to this machine first"
        raise AtrousError(f"{name} is a URL, {shown_place(url)}, and only paths are taken here: {cure}.")
    if not text:
        raise AtrousError(f"{name} is empty; the current folder is '.'.")
    if "\0" in text:
        raise AtrousError(f"{name} holds a zero character, which no path has: {text[:SHOWN]!r}.")
    try:
        os.fsencode(text)
    except UnicodeError as error:
        raise no_encoding(error) from error
    return Path(text)
