"""Places: pictures are fetched from URLs and masks stored at URLs as whole files, so that one reader and writer do.

`file://` is a local path. `https://` and `http://` are read by the standard library; nothing is stored there. All else
(`s3://`, `gs://`, `hf://`, `memory://` …) goes through fsspec.
"""

from __future__ import annotations

import base64
import difflib
import http.client
import mimetypes
import re
import secrets
import shutil
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import Request, build_opener, url2pathname

from atrous.arguments import Place, is_url
from atrous.atomic_write import SUFFIX, atomic_path
from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.errors import AtrousError, counted, missing_extra

#: The package that each of these kinds of URL needs, all of the extra `remote`.
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
#: Where storing a file replaces it in one step, so that no temporary name is needed.
OBJECT_STORES = frozenset({*PACKAGES, "abfs", "abfss", "az", "oss"})
#: Seconds without an answer after which a server is given up.
TIMEOUT = 60
#: Bytes of the disk that stay free.
RESERVE = 64 * 2**20
#: Bytes copied at once.
CHUNK = 2**20
#: How files begin that are pages or error messages and no pictures.
PAGES = (b"<!doctype html", b"<html", b"<?xml")

_WEB = ("http", "https")


def shown_url(url: str) -> str:
    """A URL for messages, without what may be secret: the user, the password and the query.

    Args:
        url: of any kind.
    """
    url = re.sub(r"(?<=://)[^/?#]*@", "", url)
    if url.partition(":")[0].lower() in _WEB:
        head = re.split(r"[?#]", url, maxsplit=1)[0]
        return head if head == url else f"{head}?…"
    return url


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
        raise AtrousError(f"{place} names no file of this machine: write file:///PATH, with three slashes.")
    return Path(url2pathname(parts.path))


def below(url: str, name: str) -> str:
    """The URL of a file in a folder.

    Args:
        url: of the folder.
        name: of the file.
    """
    return f"{url.rstrip('/')}/{name}"


def pictures_at(url: str) -> list[str]:
    """The pictures that a URL names: itself, those in its folder, or those that match its pattern, in order.

    Args:
        url: of a file, of a folder, or with `*`, `?` or `[…]`; `http` and `https` name one file.

    Raises:
        AtrousError: the place cannot be listed, or no picture is there.
    """
    if url.partition(":")[0].lower() in _WEB:
        return [url]
    with _told(url):
        system, path = _filesystem(url)
        if re.search(r"[*?[]", path):
            names = [name for name in system.glob(path) if Path(name).suffix.lower() in PICTURE_SUFFIXES]
        elif system.isdir(path):
            names = [entry["name"] for entry in system.ls(path, detail=True) if _is_picture(entry)]
        else:
            return [url]
    if not names:
        raise AtrousError(f"{shown_url(url)}: no pictures there; known are {', '.join(sorted(PICTURE_SUFFIXES))}.")
    return [system.unstrip_protocol(name) for name in sorted(names)]


def fetch(url: str, folder: Path) -> Path:
    """Copies a picture from a URL into a folder, whole or not at all.

    Args:
        url: of one file, as `pictures_at` gives it.
        folder: where the file goes, under the last part of the URL; its folders are made.

    Returns:
        The file.

    Raises:
        AtrousError: no such file, no access, a page instead of a picture, a file that ends too early or is larger than
            what the disk has free, or an extra that is not installed.
    """
    kind = ""
    with _told(url):
        target = folder / _name_of(url)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free - RESERVE
    with atomic_path(target) as part, part.open("wb") as file, _told(url):
        if url.partition(":")[0].lower() in _WEB:
            with _opened(url) as answer:
                kind = answer.headers.get_content_type()
                length = answer.headers.get("Content-Length", "")
                _copy(answer, file, int(length) if length.isdecimal() else None, free, url)
        else:
            system, path = _filesystem(url)
            with system.open(path, "rb") as source:
                _copy(source, file, system.size(path), free, url)
        file.flush()
        with part.open("rb") as written:
            if kind == "text/html" or written.read(512).lstrip().lower().startswith(PAGES):
                raise AtrousError(
                    f"{shown_url(url)} gives a page of text and no picture: give the picture's own address, and look "
                    "in a browser whether it asks to log in."
                )
    ending = mimetypes.guess_extension(kind) if kind.startswith("image/") else None
    if target.suffix.lower() not in PICTURE_SUFFIXES and ending in PICTURE_SUFFIXES:
        target = target.replace(target.with_name(target.name + ending))
    return target


def store(file: Path, url: str) -> None:
    """Copies a file to a URL, whole: under a temporary name first, where storing does not replace in one step.

    Args:
        file: on this machine.
        url: of the file that it becomes; one that is there is replaced.

    Raises:
        AtrousError: nothing can be stored there, no access, or an extra that is not installed.
    """
    check_storable(url)
    with _told(url):
        system, path = _filesystem(url)
        if url.partition(":")[0].lower() in OBJECT_STORES:
            system.put_file(str(file), path)
            return
        parent, _, name = path.rpartition("/")
        system.makedirs(parent, exist_ok=True)
        part = f"{parent}/.{name}.{secrets.token_hex(8)}{SUFFIX}"
        try:
            system.put_file(str(file), part)
            if system.exists(path):  # not every filesystem renames over a file
                system.rm_file(path)
            system.mv(part, path)
        finally:
            with suppress(Exception):  # gone, where all went well
                system.rm_file(part)


def check_storable(url: str) -> None:
    """Refuses, before the work, a URL at which nothing can be stored.

    Args:
        url: of a file or a folder.

    Raises:
        AtrousError: a web address, an unknown kind of URL, or an extra that is not installed.
    """
    if url.partition(":")[0].lower() in _WEB:
        raise AtrousError(f"{shown_url(url)}: nothing can be stored at a web address; give a folder or s3://, gs:// …")
    with _told(url):
        _filesystem(url)


def exists(url: str) -> bool:
    """Whether a file is at a URL.

    Args:
        url: of a kind that `check_storable` takes.
    """
    with _told(url):
        system, path = _filesystem(url)
        return system.exists(path)


def _filesystem(url: str) -> tuple[Any, str]:
    """The filesystem of fsspec for a URL, and the path in it.

    Raises:
        AtrousError: an unknown kind of URL, or one that needs a package which is not installed.
    """
    import fsspec
    from fsspec.registry import known_implementations

    scheme = url.partition(":")[0].lower()
    if scheme not in known_implementations and scheme not in fsspec.registry:
        near = difflib.get_close_matches(scheme, [*PACKAGES, *_WEB, "file", "memory"], n=1)
        hint = f" Did you mean {near[0]}://?" if near else ""
        raise AtrousError(f"{shown_url(url)}: unknown kind of URL.{hint} Known are https, file, s3, gs, hf and others.")
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        if scheme in PACKAGES:
            raise AtrousError(f"{shown_url(url)}: {missing_extra(PACKAGES[scheme], 'remote')}") from error
        raise AtrousError(f"{shown_url(url)} needs a package that is not installed: {error}.") from error


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Turns what a filesystem or a server raises into an AtrousError that names the URL and no secrets."""
    try:
        yield
    except AtrousError:
        raise
    except urllib.error.HTTPError as error:
        raise AtrousError(f"{shown_url(url)}: the server answers {error.code} {error.reason}.") from None
    except FileNotFoundError:
        raise AtrousError(f"{shown_url(url)}: no such file.") from None
    except MemoryError:
        raise
    except Exception as error:  # each filesystem has errors of its own
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        words = str(reason).replace(url, shown_url(url)).partition("\n")[0]
        words = re.sub(r"[a-zA-Z][\w+.-]+://\S+", lambda found: shown_url(found[0]), words)[:200]
        raise AtrousError(f"{shown_url(url)} cannot be reached: {words or type(reason).__name__}.") from None


def _opened(url: str) -> Any:
    """The answer of a web server; the user and password of a URL are sent to its own host only."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise AtrousError(f"{shown_url(url)} names no host.")
    host = parts.netloc.rpartition("@")[2]
    path, query = quote(parts.path, safe="/%:@!$&'()*+,;=~"), quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    request = Request(urlunsplit((parts.scheme, host, path, query, "")), headers={"User-Agent": "atrous"})
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
    try:
        return build_opener().open(request, timeout=TIMEOUT)
    except http.client.InvalidURL as error:
        raise AtrousError(f"{shown_url(url)} is no web address.") from error


def _copy(source: Any, target: BinaryIO, size: int | None, free: int, url: str) -> None:
    """Copies a file of `size` bytes, where that is known, and of at most `free`.

    Raises:
        AtrousError: it is larger, or ends before its size.
    """
    copied = 0
    while True:
        least = max(copied, size or 0)
        if least > free:
            raise AtrousError(
                f"{shown_url(url)} has {counted(least, 'byte')}{'' if size else ' or more'}, and the disk has "
                f"{counted(max(free, 0), 'byte')} free for it."
            )
        chunk = source.read(CHUNK)
        if not chunk:
            break
        target.write(chunk)
        copied += len(chunk)
    if size is not None and copied < size:
        raise AtrousError(f"{shown_url(url)} ended after {copied:,} of {counted(size, 'byte')}; try again.")


def _is_picture(entry: Any) -> bool:
    name = Path(entry["name"]).name
    return entry["type"] == "file" and not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES


def _name_of(url: str) -> str:
    """The name of the local copy: the last part of the URL's path.

    Raises:
        AtrousError: it has none, or one that would lead out of the folder.
    """
    is_web = url.partition(":")[0].lower() in _WEB
    path = urlsplit(url).path if is_web else url.partition("://")[2]
    name = path.rstrip("/").rpartition("/")[2]
    name = unquote(name) if is_web else name
    if name in ("", ".", "..") or re.search(r"[/\\\0-\x1f]", name):
        raise AtrousError(f"{shown_url(url)} names no file: its last part must be a file's name.")
    return re.sub(r'[:*?"<>|]', "_", name)  # which Windows has in no name
