"""Writes files and folders atomically: under a temporary name in the same folder, then renamed to the final name."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from atrous.errors import AtrousError

#: The end of a temporary file's name; the temporary file of NAME is `.NAME.RANDOM.atrous-part`.
SUFFIX = ".atrous-part"
#: Number of characters of the final name that a temporary name repeats: a whole name could be too long, because file
#: systems limit names to 255 bytes.
MOST_OF_NAME = 50


@contextmanager
def atomic_path(path: str | Path, *, sync: bool = False) -> Iterator[Path]:
    """Provides a temporary path to write to; if the context ends without an error, the file is renamed to `path`.

    After an error, the temporary file is removed, and an existing file at `path` is unchanged. If `path` is a symbolic
    link, the target of the link is replaced. A new file gets the permissions that the umask allows; a replaced file
    keeps its permissions.

    Args:
        path: the file to write; its folder is created if missing. A device or a pipe is written to directly.
        sync: whether the content is flushed to the disk before the rename.

    Yields:
        The path of an existing, empty file in the same folder.

    Raises:
        AtrousError: the folder cannot be created or is not writable.
        OSError: the disk is full.
    """
    path = Path(path)
    if is_stream(path):
        yield path
        return
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _new_part(target)
    except OSError as error:
        raise _refusal(path, error) from error
    try:
        yield part
        if sync:
            with part.open("r+b") as content:  # Windows flushes only files opened for writing
                os.fsync(content.fileno())
        if target.is_file():
            shutil.copymode(target, part)
        _replace(part, target, path)
    finally:
        part.unlink(missing_ok=True)


def _replace(part: Path, target: Path, path: Path) -> None:
    try:
        part.replace(target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise _refusal(path, error) from error
        shutil.copyfile(part, target)  # a single file mounted into a container cannot be replaced by a rename


def _refusal(path: Path, error: OSError) -> AtrousError:
    return AtrousError(
        f"cannot write {path}: {error.strerror or error}. An existing file is unchanged; give another name."
    )


def write_text(path: str | Path, text: str, *, sync: bool = False) -> None:
    """Writes a text as UTF-8, atomically.

    Args:
        path: the file to write, as in `atomic_path`.
        text: the content.
        sync: whether the content is flushed to the disk before the rename.

    Raises:
        AtrousError: the folder cannot be created or is not writable.
    """
    with atomic_path(path, sync=sync) as part:
        # a character that UTF-8 cannot encode becomes an escape, which JSON reads as the same character
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def temporary_folder(path: str | Path) -> Iterator[Path]:
    """Provides an empty temporary folder on the disk of `path`, and removes it at the end of the context.

    A file or folder can be written there completely, and then be renamed to `path`.

    Args:
        path: the file or folder to write; its parents are created if missing.

    Raises:
        AtrousError: the parents cannot be created or are not writable.
    """
    path = Path(path)
    part = path.with_name(_temporary_name(path))
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise _refusal(path, error) from error
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def is_stream(path: Path) -> bool:
    """Returns whether a path is a device or a pipe, such as /dev/stdout; these have no content that could be lost."""
    if str(path.parent) in ("/dev", "/dev/fd") or path.parts[:2] == ("/", "proc"):
        # also true if a shell redirects the stream to a file, because a new file must not replace this file
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def remove_unfinished(folder: Path, names: Iterable[str]) -> None:
    """Removes the temporary files that killed processes left in a folder.

    Args:
        folder: the folder; no other process may be writing there.
        names: the final names whose temporary files are removed. All other files are kept.
    """
    ours = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.[0-9a-f]{{16}}{re.escape(SUFFIX)}")
    for part in folder.glob(f".*{SUFFIX}"):
        if ours.fullmatch(part.name) and part.is_file() and not part.is_symlink():
            part.unlink(missing_ok=True)


def _new_part(target: Path) -> Path:
    """Creates a new, empty file with the default permissions."""
    part = target.with_name(_temporary_name(target))
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    return part


def _temporary_name(path: Path) -> str:
    return f".{path.name[:MOST_OF_NAME]}.{secrets.token_hex(8)}{SUFFIX}"
