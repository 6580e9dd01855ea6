"""Records of the finished jobs of a call of `atrous predict`, from which the same call continues after it was stopped.

The records are small JSON files in a folder beside the masks. A folder of an object store has no file to append to, so
each group of records is a file of its own. They are removed when all masks are written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atrous.data.remote.filesystems import filesystem_of
from atrous.data.remote.listing import files_in
from atrous.data.remote.transfer import below, fetched, local_path, stored
from atrous.errors import AtrousError
from atrous.inference.model_spec import ModelSpec
from atrous.inference.predict_jobs import Job
from atrous.inference.predict_records import Record
from atrous.json_yaml import read_json
from atrous.model_file import sha256_of
from atrous.overwrite_checks import model_inputs, save_json
from atrous.paths import Place

#: Name of the folder of the records, in the folder of the masks.
FOLDER = ".atrous-predict"


class FinishedJobs:
    """The records of finished jobs beside the masks.

    Args:
        out: folder of the masks.
        call: everything on which the masks depend, besides the pictures; records of other calls are not used.
    """

    def __init__(self, out: Place, call: Mapping[str, Any]) -> None:
        self._folder = below(out, FOLDER)
        self._key = hashlib.sha256(json.dumps(call, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self._count = 0

    def of(self, jobs: Sequence[Job]) -> dict[int, Record]:
        """Returns the records of the jobs that an earlier call has finished and whose masks exist, by position.

        Args:
            jobs: all jobs of the call.
        """
        names = sorted(name for name in _names(self._folder) if name.startswith(self._key))
        self._count = len(names)
        records: dict[tuple[str, str], Record] = {}
        for name in names:
            with fetched(below(self._folder, name)) as file:
                try:
                    entries = read_json(file)["finished"]
                    records |= {(one["picture"], one["target"]): Record(**one["record"]) for one in entries}
                except (AtrousError, KeyError, TypeError):  # a damaged file: its jobs are done again
                    continue
        found = {number: records[key] for number, job in enumerate(jobs) if (key := _key_of(job)) in records}
        there: dict[str, set[str]] = {}
        for number in list(found):
            folder, _, name = str(jobs[number].target).rpartition("/")
            if folder not in there:
                there[folder] = _names(folder if "://" in folder else Path(folder))
            if name not in there[folder]:
                del found[number]
        return found

    def add(self, finished: Sequence[tuple[Job, Record]]) -> None:
        """Writes the records of jobs, except failed ones, which the next call does again."""
        done = [(job, record) for job, record in finished if record.error is None]
        entries = [
            {"picture": key[0], "target": key[1], "record": record.to_dict()}
            for job, record in done
            if (key := _key_of(job))
        ]
        if entries:
            with stored(below(self._folder, f"{self._key}-{self._count:08d}.json")) as file:
                save_json({"finished": entries}, file)
            self._count += 1

    def remove(self) -> None:
        """Removes the records of this call, and their folder if it is then empty."""
        names = [name for name in _names(self._folder) if name.startswith(self._key)]
        if (folder := local_path(self._folder)) is not None:
            for name in names:
                (folder / name).unlink(missing_ok=True)
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
            return
        system, path = filesystem_of(str(self._folder))
        for name in names:
            system.rm_file(f"{path.rstrip('/')}/{name}")


def _key_of(job: Job) -> tuple[str, str]:
    return str(job.picture), str(job.target)


def _names(folder: Place) -> set[str]:
    """Returns the names of the files in a folder; none for a missing folder."""
    path = local_path(folder)
    if path is not None:
        return {file.name for file in path.iterdir()} if path.is_dir() else set()
    return files_in(str(folder)) or set()


def masks_depend_on(spec: ModelSpec) -> dict[str, Any]:
    """Returns what masks depend on, besides the picture: the content of the model's files, and the options.

    Args:
        spec: specification of the model.
    """
    options = {name: value for name, value in spec.options.items() if name != "memory"}
    return {"model": [sha256_of(path) for _, path in model_inputs(spec.path)], **options}
