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

#: The end of a temporary file's name; `.NAME.RANDOM.atrous-part` stands for NAME.
SUFFIX = ".atrous-part"
#: Longest part of a file's name, in characters, that a temporary name repeats: file systems allow 255 bytes.
MOST_OF_NAME = 50


@contextmanager
def atomic_path(path: str | Path, *, sync: bool = False) -> Iterator[Path]:
    """A temporary path to write to, which takes the place of `path` when the context ends without an error.

    After an error the temporary file is removed, and what was at `path` is untouched. A symbolic link keeps being
    one: its target is replaced. A new file gets the permissions that the umask allows, an old one keeps its own.

    Args:
        path: the file to write; its folder is made. A device or a pipe is written to directly.
        sync: force the content onto the disk before the rename.

    Yields:
        An existing, empty file in the same folder.

    Raises:
        AtrousError: the folder cannot be made or written.
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
            with part.open("r+b") as content:  # Windows flushes only what may be written
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
        shutil.copyfile(part, target)  # a single file that is mounted into a container cannot be renamed over


def _refusal(path: Path, error: OSError) -> AtrousError:
    return AtrousError(
        f"cannot write {path}: {error.strerror or error}. The file before it is untouched; give another name."
    )


def write_text(path: str | Path, text: str, *, sync: bool = False) -> None:
    """Writes a text as UTF-8, atomically; see `atomic_path`."""
    with atomic_path(path, sync=sync) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")  # in JSON the same name again


@contextmanager
def temporary_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder on the disk of `path`, for drafts and for what is renamed once it is whole; removed at the end.

    Args:
        path: the file or folder that is going to be written; its parents are made.

    Raises:
        AtrousError: the parents cannot be made or written.
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
    """Whether a path is no file on a disk, such as /dev/stdout, /dev/null or a pipe: nothing in it can be lost."""
    if str(path.parent) in ("/dev", "/dev/fd") or path.parts[:2] == ("/", "proc"):
        return True  # also where a shell has put a file there, which is appended to
    return path.exists() and not path.is_file() and not path.is_dir()


def remove_unfinished(folder: Path, names: Iterable[str]) -> None:
    """Removes the temporary files that killed processes left in a folder.

    Args:
        folder: the folder; no other process may be writing there.
        names: the final names whose temporary files are removed. All other files stay.
    """
    ours = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.[0-9a-f]{{16}}{re.escape(SUFFIX)}")
    for part in folder.glob(f".*{SUFFIX}"):
        if ours.fullmatch(part.name) and part.is_file() and not part.is_symlink():
            part.unlink(missing_ok=True)


def _new_part(target: Path) -> Path:
    """Makes an empty file that did not exist, with the permissions of new files."""
    part = target.with_name(_temporary_name(target))
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    return part


def _temporary_name(path: Path) -> str:
    return f".{path.name[:MOST_OF_NAME]}.{secrets.token_hex(8)}{SUFFIX}"
