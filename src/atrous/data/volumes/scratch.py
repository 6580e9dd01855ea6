"""Scratch files: decoded volumes on disk, for datasets whose volumes do not all fit into memory.

Training reads slices in random order. Without scratch files, it would decompress a whole volume for almost every slice.
Only the user can read scratch files. They are removed when the main process ends. Files of a killed process are removed
when the next process needs scratch files.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from atrous.atomic_write import atomic_path, write_text
from atrous.data.volumes.grid import Grid
from atrous.data.volumes.volume import Volume
from atrous.errors import AtrousError
from atrous.file_lock import lock_file
from atrous.json_yaml import read_json

#: Environment variable with the folder of scratch files; without it, the system's folder of temporary files is used.
VARIABLE = "ATROUS_SCRATCH"
#: Approximate number of values that are copied into a file at once.
_BLOCK = 2**24

#: The locks of this process's folders, which are held until the process ends.
_locks = ExitStack()
_locked: set[Path] = set()


def open_scratch(key: tuple[object, ...]) -> Volume | None:
    """Returns a volume whose values are read from its scratch file; None if there is no such file.

    Args:
        key: path and version of the volume, as given to `with_scratch`.
    """
    file = _file(key)
    try:
        if not file.exists():
            return None
        record = read_json(file.with_suffix(".json"))
        values = np.lib.format.open_memmap(file, "r")
    except (OSError, AtrousError):  # removed by another process
        return None
    return Volume(values, Grid(tuple(record["shape"]), np.array(record["affine"])), tuple(record["notes"]))


def with_scratch(key: tuple[object, ...], volume: Volume) -> Volume:
    """Writes a volume to a scratch file.

    Args:
        key: path and version of the volume, such as its size and time of change.
        volume: the decoded volume.

    Returns:
        The same volume with its values on disk; the given volume if the disk has too little free space or is read-only.
    """
    file, values = _file(key), volume.values
    record = {"shape": volume.stored.shape, "affine": volume.stored.affine.tolist(), "notes": volume.notes}
    try:
        _make_folder(file.parent)
        if shutil.disk_usage(file.parent).free < 2 * values.nbytes:
            return volume
        write_text(file.with_suffix(".json"), json.dumps(record))
        with atomic_path(file) as part:
            # In Fortran order, the voxels of an axial slice are neighbours in the file.
            stored = np.lib.format.open_memmap(part, "w+", values.dtype, values.shape, fortran_order=True)
            step = max(1, _BLOCK // (values.size // values.shape[2]))
            for first in range(0, values.shape[2], step):
                stored[:, :, first : first + step] = values[:, :, first : first + step]
            stored.flush()
    except OSError:
        return volume
    return open_scratch(key) or volume


@contextmanager
def scratch_file(suffix: str = "") -> Iterator[Path]:
    """Creates an empty scratch file that only its user can read, and removes it when the context ends.

    Args:
        suffix: end of the file name.

    Raises:
        AtrousError: the folder of scratch files cannot be written to.
    """
    folder = scratch_folder()
    try:
        _make_folder(folder)
        handle, name = tempfile.mkstemp(suffix, dir=folder)
    except OSError as error:
        raise AtrousError(
            f"{folder}: no scratch file can be written ({error.strerror or error}). Set the environment variable "
            f"{VARIABLE} to another folder."
        ) from error
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def scratch_folder() -> Path:
    """Returns the folder of the scratch files of this process and of its workers; it need not exist."""
    parent = multiprocessing.parent_process()
    return _all_folders() / f"{_host()}-{parent.pid if parent is not None else os.getpid()}"


def _all_folders() -> Path:
    """Returns the folder that contains the folders of all processes of the user."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(os.environ.get(VARIABLE) or tempfile.gettempdir()) / f"atrous-volumes-{user}"


def _file(key: tuple[object, ...]) -> Path:
    """Returns the scratch file of a volume, which need not exist."""
    return scratch_folder() / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.npy"


def _make_folder(folder: Path) -> None:
    """Creates the folder of this process, which only its user can read, and removes folders of ended processes.

    A process locks its folder while it runs. Folders of other hosts are not removed, because some network disks do not
    support locks.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if hasattr(os, "getuid") and folder.parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder.parent} belongs to another user.")
    if folder in _locked and folder.is_dir():
        return
    for other in folder.parent.glob(f"{_host()}-*"):
        with suppress(OSError), lock_file(other / "lock") as ended:
            if ended:  # an earlier process may have had the same process id, and left this folder
                shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(exist_ok=True, mode=0o700)
    _locks.enter_context(lock_file(folder / "lock"))
    _locked.add(folder)


def _host() -> str:
    """Returns the name of this computer for file names."""
    return re.sub(r"\W", "_", socket.gethostname()) or "host"


def remove_scratch() -> None:
    """Removes the scratch files of this process; does nothing in a worker, because its files belong to its parent."""
    if multiprocessing.parent_process() is None:
        shutil.rmtree(scratch_folder(), ignore_errors=True)


atexit.register(remove_scratch)
