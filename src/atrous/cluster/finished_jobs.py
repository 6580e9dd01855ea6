"""Records of the finished jobs of a call of `atrous predict`, from which the same call continues after it was stopped.

The records are small JSON files in a folder beside the masks, some for each few seconds, because an object store has no
file to append to. They name jobs by checksums, because names of pictures may identify patients, and URLs may contain
passwords. They are removed at the end of the call.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from atrous.console import each_once, note
from atrous.data.remote.filesystems import errors_named, filesystem_of
from atrous.data.remote.listing import files_in
from atrous.data.remote.transfer import below, fetched, local_path, stored
from atrous.errors import AtrousError
from atrous.inference.model_spec import ModelSpec
from atrous.inference.predict_jobs import Job
from atrous.inference.predict_records import Record
from atrous.json_yaml import read_json
from atrous.model_file import sha256_of
from atrous.overwrite_checks import model_inputs, save_json
from atrous.paths import Place, shown_place
from atrous.version import __version__

#: Name of the folder of the records, in the folder of the masks.
FOLDER = ".atrous-predict"
#: Seconds between two files of records, and number of files that are read at once.
WRITE_EVERY, READ_AT_ONCE = 5.0, 16


class FinishedJobs:
    """The records of finished jobs beside the masks.

    Args:
        out: folder of the masks.
        call: everything on which the masks depend, besides the pictures; records of other calls are removed.
    """

    def __init__(self, out: Place, call: Mapping[str, Any]) -> None:
        self._folder = below(out, FOLDER)
        text = json.dumps({**call, "version": __version__}, sort_keys=True, default=str)
        self._key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._waiting: list[dict[str, Any]] = []
        self._written = time.monotonic()
        self._note = each_once(note)

    def of(self, jobs: Sequence[Job]) -> dict[int, Record]:
        """Returns the records of the jobs that an earlier call has finished and whose masks exist, by position.

        Args:
            jobs: all jobs of the call.
        """
        names = _names(self._folder)
        self._remove([name for name in names if not name.startswith(self._key)])
        own = sorted(name for name in names if name.startswith(self._key))
        with ThreadPoolExecutor(READ_AT_ONCE) as readers:
            known = {key: record for part in readers.map(self._read, own) for key, record in part.items()}
        found = {number: known[key] for number, job in enumerate(jobs) if (key := _key_of(job)) in known}
        there: dict[str, set[str]] = {}
        for number in list(found):
            folder, name = _parts(jobs[number].target)
            if str(folder) not in there:
                there[str(folder)] = _names(folder)
            if name not in there[str(folder)]:
                del found[number]
        return {
            number: replace(record, image=jobs[number].name, mask=shown_place(jobs[number].target))
            for number, record in found.items()
        }

    def _read(self, name: str) -> dict[str, Record]:
        try:
            with fetched(below(self._folder, name)) as file:
                return {one["job"]: Record("", **one["record"]) for one in read_json(file)["finished"]}
        except (AtrousError, KeyError, TypeError, OSError):  # a damaged file: its jobs are done again
            return {}

    def add(self, finished: Sequence[tuple[Job, Record]]) -> None:
        """Keeps the records of jobs, except failed ones, which the next call does again.

        They are written every few seconds and by `flush`. If they cannot be written, a note says so, and the work goes
        on.
        """
        for job, record in finished:
            if record.error is None:
                content = {name: value for name, value in record.to_dict().items() if name not in ("image", "mask")}
                self._waiting.append({"job": _key_of(job), "record": content})
        if time.monotonic() - self._written > WRITE_EVERY:
            self.flush()

    def flush(self) -> None:
        """Writes the records that wait."""
        self._written = time.monotonic()
        if not self._waiting:
            return
        try:
            with stored(below(self._folder, f"{self._key}-{uuid.uuid4().hex}.json")) as file:
                save_json({"finished": self._waiting}, file)
            self._waiting = []
        except (AtrousError, OSError) as error:
            self._note(
                f"this call cannot be continued if it is stopped, because its records cannot be written: {error}"
            )

    def remove(self) -> None:
        """Removes the records and, if it is then empty, their folder."""
        self._waiting = []
        self._remove(sorted(_names(self._folder)))

    def _remove(self, names: Sequence[str]) -> None:
        if not names:
            return
        try:
            if (folder := local_path(self._folder)) is not None:
                for name in names:
                    (folder / name).unlink(missing_ok=True)
                if not any(folder.iterdir()):
                    folder.rmdir()
                return
            with errors_named(str(self._folder)):
                system, path = filesystem_of(str(self._folder))
                system.rm([f"{path.rstrip('/')}/{name}" for name in names])
        except (AtrousError, OSError) as error:
            self._note(f"the records in {shown_place(self._folder)} are not needed, and cannot be removed: {error}")


def masks_depend_on(spec: ModelSpec) -> dict[str, Any]:
    """Returns what masks depend on, besides the picture: the content of the model's files, and the options.

    Args:
        spec: specification of the model.
    """
    return {"model": [sha256_of(path) for _, path in model_inputs(spec.path)], **spec.options}


def _key_of(job: Job) -> str:
    """Returns a checksum of the places of a job; of a picture on this machine also of its size and time of change."""
    parts = [str(place) for place in (job.picture, job.target, *job.more)]
    for place in (job.picture, *job.more):
        if isinstance(place, Path) and place.is_file():
            found = place.stat()
            parts += [str(found.st_size), str(found.st_mtime_ns)]
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()


def _parts(target: Place) -> tuple[Place, str]:
    """Returns the folder and the name of a file."""
    if isinstance(target, Path):
        return target.parent, target.name
    folder, _, name = target.rpartition("/")
    return folder, name


def _names(folder: Place) -> set[str]:
    """Returns the names of the files in a folder; none for a missing folder."""
    path = local_path(folder)
    if path is not None:
        return {file.name for file in path.iterdir()} if path.is_dir() else set()
    return files_in(str(folder)) or set()
