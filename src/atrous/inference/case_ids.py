"""Case ids: names for volumes that name no patient, from a table that only its owner can read.

The table is a CSV file with the columns ``case_id`` and ``volume``, the full path of a volume. It is the only file that
connects ids and volumes. Ids are numbered in the order of the first prediction, and never change.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from atrous.atomic_write import atomic_path
from atrous.data.text_files import read_text_file
from atrous.data.volumes.contrast_files import contrast_file, is_place_of_contrasts, stored_files
from atrous.data.volumes.itk_files import name_of_voxels
from atrous.data.volumes.series_places import chosen_series
from atrous.data.volumes.slices import AXES, is_volume_place, volume_name
from atrous.errors import AtrousError, counted
from atrous.file_lock import lock_file
from atrous.option_fields import setting, settings
from atrous.paths import Place

_COLUMNS = ["case_id", "volume"]
_ID = re.compile(r"case_(\d{4,9})")
#: Names of folders that may also be ordinary words or numbers in a message, such as "scan", "CT", "DICOM", "1" and
#: "2024".
_ORDINARY = re.compile(r".{1,3}|[0-9]{4,5}|[a-z]+|[A-Z]+")
#: What follows the name in a message that begins with a name.
_VERBS = r" (?:is|was|has|holds|contains|does|cannot)\b"
#: The end of a name.
_END = r"(?!\w)"
#: The rest of the name of a slice after the name of its volume.
_SLICE = rf"(?=_(?:{'|'.join(AXES)})_[0-9]{{4,}}(?!\w))"


@settings("")
@dataclass(frozen=True)
class CaseIdTable:
    """The option of the table of case ids, which all commands that write names of volumes share."""

    case_ids: Path | None = setting(
        None,
        "CSV table of case ids, created or continued, readable by you only; files, results, pages and messages then "
        "name volumes case_0001, case_0002 … instead of naming their files and folders",
    )


def case_ids_of(table: Path, volumes: Sequence[Place]) -> dict[Place, str]:
    """Returns the id of each volume: the id in the table, else the next free number. Nothing is written.

    Args:
        table: the table; it need not exist.
        volumes: places of volumes.

    Returns:
        Full path of each volume → its id, such as "case_0001". If several paths lead to one volume, for example a link
        to it, the result contains only the first of these paths.

    Raises:
        AtrousError: the table is no table of case ids, or an input is not a volume on this machine.
    """
    if wrong := sum(not (isinstance(place, Path) and is_volume_place(place)) for place in volumes):
        raise AtrousError(
            f"case ids are for volumes, and {counted(wrong, 'input')} of {len(volumes)} are pictures, slices or URLs: "
            "leave --case-ids out, or give volumes only."
        )
    known = read_case_ids(table)
    number = max((int(one.removeprefix("case_")) for one in known.values()), default=0)
    found: dict[str, Place] = {}
    for place in volumes:
        key = key_of(Path(place))
        if key not in known:
            number += 1
            known[key] = f"case_{number:04d}"
        found.setdefault(known[key], Path(place).absolute())
    return {place: one for one, place in found.items()}


def write_case_ids(table: Path, ids: Mapping[Place, str]) -> None:
    """Adds the ids of volumes to the table, which only its owner can read.

    Args:
        table: the table, created if missing.
        ids: result of `case_ids_of`.

    Raises:
        AtrousError: another process has written the table meanwhile, or it cannot be written.
    """
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(table.with_name(f".{table.name}.lock")) as is_ours:
            known = read_case_ids(table)
            owners = {one: key for key, one in known.items()}
            new = {key_of(Path(place)): one for place, one in ids.items()}
            changed = any(known.get(key, one) != one or owners.get(one, key) != key for key, one in new.items())
            if changed or not is_ours:
                raise AtrousError(f"{table}: another process writes this table: start again when it is done.")
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerows([_COLUMNS, *([one, key] for key, one in {**known, **new}.items())])
            if table.exists():
                table.chmod(0o600)
            with atomic_path(table) as part:
                part.chmod(0o600)
                part.write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise AtrousError(f"{table}: the table of case ids cannot be written ({error.strerror or error}).") from error


def without_names(text: str, ids: Mapping[Place, str], others: Mapping[str, str] | None = None) -> str:
    """Returns a text in which the ids of volumes stand for their paths, their file names and their names.

    Names that may be ordinary words or numbers, such as ``scan`` or ``1``, are replaced only if they are part of a
    path, are in quotes, or begin the text.

    Args:
        text: message about the volumes.
        ids: result of `case_ids_of`.
        others: further names that are replaced, such as names of groups, each with the text that replaces it.
    """
    return with_forms(text, forms_of(ids, others))


def forms_of(ids: Mapping[Place, str], others: Mapping[str, str] | None = None) -> list[Form]:
    """Returns the names that `without_names` replaces, the longest first; for many texts, call it only once.

    Args:
        ids: as for `without_names`.
        others: as for `without_names`.
    """
    forms = [form for place, one in ids.items() for form in _forms(Path(place), one)]
    forms += [Form(name, new) for name, new in (others or {}).items() if name]
    return sorted(dict.fromkeys(forms), key=lambda form: len(form.name), reverse=True)


def with_forms(text: str, forms: Sequence[Form]) -> str:
    """Returns a text in which all names are replaced; if several names match at one position, the first one is used.

    Args:
        text: message about the volumes.
        forms: result of `forms_of`.
    """
    # only names that occur in the text: patterns of all names of a large dataset would be slow
    forms = [form for form in forms if form.name in text]
    if not forms:
        return text
    either = "|".join(f"({one.pattern})" for one in forms)
    return re.sub(either, lambda found: forms[(found.lastindex or 1) - 1].new, text)


@contextmanager
def named_by_ids(ids: Mapping[Place, str]) -> Iterator[None]:
    """Replaces the names of volumes in an error's message by their ids.

    Args:
        ids: result of `case_ids_of`.
    """
    try:
        yield
    except AtrousError as error:
        raise AtrousError(without_names(str(error), ids)) from None


class Form(NamedTuple):
    """A name in messages, and the text that stands for it.

    Args:
        name: the name.
        new: text that replaces the name.
        before: regular expression of the text after the name, such as the number of a slice. If this text follows, even
            an ordinary word is replaced in every context.
    """

    name: str
    new: str
    before: str = ""

    @property
    def pattern(self) -> str:
        """The regular expression of the name; an ordinary word or number is matched only in some contexts."""
        word = re.escape(self.name)
        if self.before or not may_be_ordinary(self.name):
            return rf"(?<!\w){word}{self.before or _END}"
        return rf"(?<=[/\\'\"]){word}{_END}|(?<!\w){word}(?=[/\\])|^{word}(?=:|{_VERBS})"


def _forms(volume: Path, new: str) -> Iterator[Form]:
    """Yields the names of a volume: its paths, its file names, and its name without a suffix."""
    places = {volume, chosen_series(volume)[0]}
    if is_place_of_contrasts(volume):
        stem, ending = volume_name(volume), contrast_file(volume, 0).name[len(volume_name(volume)) :]
        number = rf"(?=_[0-9]{{4}}{re.escape(ending.removeprefix('_0000'))}(?!\w))"  # a file that may be missing
        for name in (*(str(one.with_name(stem)) for one in (volume, volume.resolve())), stem):
            yield Form(name, new, number)
        for index, file in enumerate(stored_files(volume)):
            if (target := file.resolve()).name != file.name:  # a link to a file of another name
                yield from (Form(name, f"{new}_{index:04d}") for name in (str(target), target.name))
    yield Form(volume_name(volume), new, _SLICE)
    voxels = ""
    with suppress(OSError):  # a header that cannot be read does not name the file of its voxels
        voxels = name_of_voxels(volume)
    for part in {voxels, *re.split(r"[/\\]", voxels)} - {"", ".", ".."}:  # errors also show the path of a wrong header
        yield Form(part, new)
        yield Form(Path(part).stem, new)
    if voxels:
        places |= {volume.with_name(Path(voxels).name)}
    places |= {one.resolve() for one in places}
    for name in {*map(str, places), *(one.name for one in places), volume_name(volume)} - {""}:
        yield Form(name, new)


def may_be_ordinary(name: str) -> bool:
    """Returns whether a name may also be an ordinary word or number, such as ``scan`` or ``1``.

    Args:
        name: name of a file, a folder or a group.
    """
    return _ORDINARY.fullmatch(name) is not None


def key_of(volume: Path) -> str:
    """Returns the full path of a volume, as in the table; if a folder has several series, with the SeriesInstanceUID.

    Args:
        volume: place of the volume.
    """
    folder, series = chosen_series(volume)
    place = folder.resolve()
    return str(place if series is None else place / series)


def read_case_ids(table: Path) -> dict[str, str]:
    """Returns the ids of a table by the full path of the volume, as in `key_of`.

    Args:
        table: the table; without a file, there are no ids.

    Raises:
        AtrousError: the table is no table of case ids.
    """
    if not table.exists():
        return {}
    rows = [row for row in csv.reader(io.StringIO(read_text_file(table))) if row]
    ids = [row[0] for row in rows[1:]]
    if (
        rows[:1] != [_COLUMNS]
        or not all(len(row) == 2 and _ID.fullmatch(row[0]) for row in rows[1:])
        or len(set(ids)) < len(ids)
        or len({row[1] for row in rows[1:]}) < len(ids)
    ):
        raise AtrousError(
            f"{table}: this is no table of case ids: its columns are case_id and volume, its ids case_0001 …, and each "
            "id and each volume is there once. Correct it, or give a new file."
        )
    return {volume: one for one, volume in rows[1:]}
