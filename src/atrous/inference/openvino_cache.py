"""A cache of converted networks in the user's cache folder.

Entries are verified when they are read, and replaced if damaged. The least recently used entries are removed first.

An entry is a folder whose name is a hash of everything that the network depends on. It contains the network and a
record with the size and the SHA-256 of each file. Only folders with such a record, empty folders, and unfinished
entries of killed processes are ever removed. Networks are read into memory as a whole, so a process can still run a
network whose entry was removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs

from atrous.atomic_write import SUFFIX
from atrous.errors import AtrousError
from atrous.json_yaml import read_json
from atrous.logger import warn
from atrous.overwrite_checks import JSON_KEY, MARK, is_our_json

#: Environment variable with the largest size of the cache, in GB, and its default.
LIMIT_VARIABLE = "ATROUS_CACHE_GB"
DEFAULT_GB = 2.0
#: The files of an entry, and the record of their sizes and hashes.
XML, FILES, RECORD = "network.xml", ("network.xml", "network.bin"), "entry.json"
#: Age, in seconds, above which an unfinished entry counts as left behind by a killed process.
ABANDONED_AFTER = 24 * 3600

_ENTRY = re.compile(r"[0-9a-f]{24}")
_UNFINISHED = re.compile(rf"\.[0-9a-f]{{24}}\.[0-9a-f]{{16}}{re.escape(SUFFIX)}")
#: Entries that this process uses: they are not removed when the cache exceeds its limit.
_in_use: set[Path] = set()


class CacheWarning(UserWarning):
    """Warns that a cached network was damaged, or that the cache cannot be written."""


class DamagedEntry(Exception):
    """Error for a cached network that cannot be used; the message states the reason."""


def read_or_make(core: Any, depends_on: Iterable[object], make: Callable[[], Any]) -> Any:
    """Returns a network from the cache; if the cache has no valid entry, makes the network and stores it.

    Args:
        core: OpenVINO's core.
        depends_on: all values that determine the network; equal values share an entry.
        make: function that makes the network as an OpenVINO graph.

    Returns:
        The network as an OpenVINO graph.

    Raises:
        AtrousError: the environment variable ATROUS_CACHE_GB is not a size.

    Warns:
        CacheWarning: the entry was damaged and is replaced, or the network cannot be stored.
    """
    limit = _limit_in_bytes()
    if not limit:
        return make()
    damage = ""
    try:
        entry = cache_folder() / hashlib.sha256(" ".join(map(str, depends_on)).encode()).hexdigest()[:24]
    except OSError as error:
        _warn_of_no_cache(error)
        return make()
    if os.path.lexists(entry):
        try:
            return _read(core, entry)
        except DamagedEntry as error:
            damage = str(error)
    graph = make()
    try:
        aside = _keep(core, graph, entry)
        _in_use.add(entry)
        _remove_beyond(entry.parent, limit)
    except (OSError, RuntimeError) as error:  # OpenVINO raises RuntimeError if the disk is full
        _warn_of_no_cache(error)
        return graph
    if damage:
        left = f" The old files are now in {aside}; remove them if nobody needs them." if aside else ""
        _warn(
            f"the converted network in the cache could not be used ({damage}), so the model was converted again.{left}"
        )
    return graph


def cache_folder() -> Path:
    """Returns the folder of the cache: "openvino" in the user's cache folder of atrous.

    On every system, the cache folder of atrous is $XDG_CACHE_HOME/atrous if this variable is set to an absolute path.
    Otherwise it is ~/.cache/atrous on Linux, ~/Library/Caches/atrous on macOS and %LOCALAPPDATA%/atrous/Cache on
    Windows.

    Raises:
        OSError: the user has no home folder.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "atrous" / "openvino"
    try:
        Path.home()
    except RuntimeError as error:
        raise OSError(str(error)) from error
    return platformdirs.user_cache_path("atrous", appauthor=False) / "openvino"


def _limit_in_bytes() -> int:
    given = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_GB)
    try:
        return round(max(float(given), 0) * 1e9)
    except (ValueError, OverflowError) as error:
        raise AtrousError(
            f"{LIMIT_VARIABLE} is '{given}'; give the GB that converted networks may take, such as {DEFAULT_GB:g}, or "
            "0 for no cache."
        ) from error


def _warn_of_no_cache(error: Exception) -> None:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    _warn(
        f"the converted network could not be stored in the cache ({reason.rstrip('.')}): the next start converts it "
        f"again. Set XDG_CACHE_HOME to a writable folder, or {LIMIT_VARIABLE}=0 for no cache."
    )


def _warn(sentence: str) -> None:
    warn(sentence, CacheWarning, stacklevel=5)


def _read(core: Any, entry: Path) -> Any:
    """Returns the network of an entry after verifying its files.

    Raises:
        DamagedEntry: the files have changed since they were written, or OpenVINO cannot read them.
    """
    _verify(entry)
    try:
        graph = core.read_model(entry / XML)
    except RuntimeError as error:
        raise DamagedEntry(f"OpenVINO cannot read {entry / XML}") from error
    _in_use.add(entry)
    with suppress(OSError):  # the cache may be read-only for this user
        os.utime(entry / RECORD)
    return graph


def _verify(entry: Path) -> None:
    if entry.is_symlink() or not entry.is_dir():
        raise DamagedEntry(f"{entry} is not a folder")
    record = _record_of(entry)
    if record is None:
        raise DamagedEntry(f"{entry / RECORD} is missing or damaged")
    for name in FILES:
        try:
            changed = _size_and_hash(entry / name) != record[name]
        except OSError as error:
            raise DamagedEntry(f"{entry / name}: {error.strerror or error}") from error
        if changed:
            raise DamagedEntry(f"{entry / name} has changed since it was written")


def _size_and_hash(path: Path) -> list[int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return [file.tell(), digest.hexdigest()]


def _record_of(entry: Path) -> dict[str, list[Any]] | None:
    """Returns each file's size and SHA-256 from an entry's record; None if the entry has no valid record."""
    path = entry / RECORD
    try:
        files = read_json(path)["files"] if is_our_json(path) else {}
        return {name: list(files[name]) for name in FILES}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _keep(core: Any, graph: Any, entry: Path) -> Path | None:
    """Writes an entry atomically, in place of a damaged entry; a valid entry of another process is not replaced.

    Returns:
        The new path of the damaged entry, if it may contain files that atrous did not write; else None.
    """
    import openvino

    entry.parent.mkdir(parents=True, exist_ok=True)
    part = _name_beside(entry, f".{entry.name}", SUFFIX)
    part.mkdir()
    try:
        openvino.save_model(graph, part / XML, compress_to_fp16=False)
        core.read_model(part / XML)  # checks the files, because writing to a full disk does not always raise an error
        record = {JSON_KEY: MARK, "files": {name: _size_and_hash(part / name) for name in FILES}}
        (part / RECORD).write_text(json.dumps(record), encoding="utf-8")
        try:
            _verify(entry)  # another process may have stored the same network meanwhile
            return None
        except DamagedEntry:
            aside = _set_aside(entry) if os.path.lexists(entry) else None
        try:
            part.rename(entry)
        except OSError:
            if not entry.is_dir():
                raise  # if it is a folder, another process has just stored the entry
        return aside
    finally:
        _remove_files(part)


def _set_aside(entry: Path) -> Path | None:
    """Renames the file or folder at an entry's path, and then removes it if it is an entry or an empty folder.

    Returns:
        The new path if the file or folder still exists; else None.
    """
    removable = _is_removable(entry)
    aside = _name_beside(entry, f".{entry.name}", SUFFIX) if removable else _name_beside(entry, entry.name, ".damaged")
    entry.rename(aside)
    if removable:
        _remove_files(aside)
    return aside if os.path.lexists(aside) else None


def _is_removable(entry: Path) -> bool:
    """Returns whether a folder may be removed: it is empty, or it has an entry's record and only an entry's files."""
    if entry.is_symlink() or not entry.is_dir():
        return False
    try:
        names = [file.name for file in entry.iterdir()]
    except OSError:
        return False
    return not names or (_record_of(entry) is not None and _holds_only_files(entry, names))


def _holds_only_files(folder: Path, names: Iterable[str]) -> bool:
    return all(name in (*FILES, RECORD) and (folder / name).is_file() for name in names)


def _name_beside(entry: Path, start: str, end: str) -> Path:
    return entry.with_name(f"{start}.{secrets.token_hex(8)}{end}")


def _remove_files(folder: Path) -> None:
    """Removes the files of an entry, and the folder if it is then empty; files that cannot be removed stay."""
    for name in (*FILES, RECORD):
        with suppress(OSError):
            (folder / name).unlink()
    with suppress(OSError):
        folder.rmdir()


def _remove_beyond(root: Path, limit: int) -> None:
    """Removes the least recently used entries until the others fit the limit; entries in use are not removed."""
    _remove_abandoned(root)
    entries = sorted(_removable_entries(root))
    total = sum(size for _, size, _ in entries)
    for _, size, entry in entries:
        if total <= limit:
            return
        if entry not in _in_use:
            with suppress(OSError):
                _set_aside(entry)
            total -= size


def _removable_entries(root: Path) -> Iterator[tuple[int, int, Path]]:
    """Yields (time of last use in ns, size in bytes, folder) of each entry that may be removed."""
    for entry in root.iterdir():
        if _ENTRY.fullmatch(entry.name) and _is_removable(entry):
            with suppress(OSError):  # another process removes it
                size = sum((entry / name).stat().st_size for name in FILES)
                yield (entry / RECORD).stat().st_mtime_ns, size, entry


def _remove_abandoned(root: Path) -> None:
    """Removes unfinished entries of killed processes."""
    for part in root.iterdir():
        with suppress(OSError):
            old = time.time() - part.stat().st_mtime > ABANDONED_AFTER
            if old and _UNFINISHED.fullmatch(part.name) and not part.is_symlink():
                _remove_files(part)
