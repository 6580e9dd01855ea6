"""Finds the pictures that paths, folders, glob patterns and URLs name; notes on the console report skipped files."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path

from rich.markup import escape

from atrous.console import console, note
from atrous.data.file_of_picture import file_of_picture
from atrous.data.pictures import PICTURE_SUFFIXES
from atrous.data.remote.listing import Listing, listing_of
from atrous.data.remote.transfer import identity, local_path
from atrous.data.skipped_files import KNOWN_ENDINGS, passed_over_notes
from atrous.data.sources.geotiff import RASTER_SUFFIXES
from atrous.data.unread_folders import folders_with_pictures
from atrous.data.volumes.contrast_files import exists, is_place_of_contrasts
from atrous.data.volumes.series_places import holds_dicom, is_dicom_file, series_in
from atrous.data.volumes.slices import is_volume
from atrous.data.volumes.volume_files import SUFFIXES
from atrous.errors import AtrousError, counted
from atrous.inference.remote_overwrite_checks import marked_pictures
from atrous.overwrite_checks import is_our_picture
from atrous.paths import Place, shown_place
from atrous.software_tag import is_marked

#: Largest number of subfolders that the note on subfolders names.
SUBFOLDERS = 4
#: Suffixes of pictures and rasters.
_SUFFIXES = PICTURE_SUFFIXES | {*RASTER_SUFFIXES}


def find_pictures(paths: Sequence[str | Path]) -> list[Path]:
    """Returns the given files, the pictures in folders and the files that glob patterns match, each once, in order.

    A DICOM series is one picture: a zip or a folder of slices. In a folder without pictures, the series of its
    subfolders are found, too.

    In a folder, pictures that atrous wrote are skipped, because masks may be in the same folder as the pictures. Masks
    that were edited later are skipped, too. Subfolders are not searched; a note names the subfolders with pictures.

    Args:
        paths: files, folders and glob patterns.

    Raises:
        AtrousError: a path does not exist and matches nothing, or there are no pictures at all.
    """
    return [place for place in find_places([Path(path) for path in paths]) if isinstance(place, Path)]


def find_places(places: Sequence[Place], *, quiet: bool = False) -> list[Place]:
    """Returns the pictures as `find_pictures` does, also for URLs of files, folders and patterns.

    URLs of the form `file://` are treated as paths.

    Args:
        places: paths and URLs.
        quiet: True to print no notes on skipped files and on subfolders.

    Raises:
        AtrousError: a path or URL matches nothing or cannot be listed, or there are no pictures at all.
    """
    given = [place if (path := local_path(place)) is None else path for place in places]
    listings = {place: listing_of(place) for place in given if isinstance(place, str)}
    found: dict[Place, None] = {}
    for place in given:
        found |= dict.fromkeys(_at_path(place, quiet) if isinstance(place, Path) else _listed(place, listings[place]))
    paths = [place for place in given if isinstance(place, Path)]
    below = "" if quiet else _pictures_below(paths, listings)
    if not found:
        here = any(isinstance(place, Path) for place in given)
        # volumes and VRTs at URLs are not read
        known = ", ".join(sorted({*_SUFFIXES, *SUFFIXES} if here else PICTURE_SUFFIXES))
        raise AtrousError(
            f"no pictures in {', '.join(map(shown_place, given))}; known suffixes are {known}. {below}".rstrip()
        )
    if below:
        note(below)
    spelt: dict[Place, Place] = {}
    for place in found:
        spelt.setdefault(place if isinstance(place, Path) else identity(place), place)
    return list(spelt.values())


def _at_path(path: Path, quiet: bool) -> list[Path]:
    """Returns the pictures at a path: a file, a folder or a pattern.

    Raises:
        AtrousError: the path does not exist and matches nothing, or it is one file of a DICOM series.
    """
    if path.is_dir():
        return _in_folder(path, quiet)
    if path.exists():
        if path.suffix.lower() not in KNOWN_ENDINGS and is_dicom_file(path):
            raise AtrousError(f"{path} is one file of a DICOM series: give the folder of the series, or a zip of it.")
        return _in_zip(path) or [path]
    if not is_place_of_contrasts(path) and exists(file_of_picture(path)):  # a slice of a volume file, or a series
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if Path(match).is_file()]  # noqa: PTH207 (absolute patterns)
    if not matches:
        raise AtrousError(f"{path}: no such file or folder, and no file matches it as a pattern.")
    return matches


def _in_folder(folder: Path, quiet: bool) -> list[Path]:
    """Returns the pictures in a folder; prints which files are skipped, unless quiet."""
    candidates = sorted(file for file in folder.iterdir() if _is_picture(file))
    marked = {file: is_our_picture(file) for file in candidates if is_marked(file)}
    dicom = holds_dicom(folder, below=not candidates, skipped=KNOWN_ENDINGS)
    series = series_in(folder) if dicom else []
    for file in sorted(folder.glob("*.[zZ][iI][pP]")):
        series += _in_zip(file)
    found = [*(file for file in candidates if file not in marked), *series]
    if quiet:
        return found
    _say_passed_over(folder, [file.name for file, as_written in marked.items() if not as_written], len(marked))
    # names of DICOM files may name a patient
    for sentence in () if dicom or series else passed_over_notes([folder], candidates):
        console.print(escape(sentence))
    return found


def _in_zip(file: Path) -> list[Path]:
    """Returns the DICOM series of a zip; none for any other file."""
    return series_in(file) if file.suffix.lower() == ".zip" and holds_dicom(file, below=True) else []


def _listed(url: str, listing: Listing) -> list[str]:
    """Returns the pictures at a URL; for a folder, prints which files are skipped.

    Raises:
        AtrousError: the URL is a pattern that matches nothing.
    """
    if not listing.is_folder:
        if not listing.pictures:
            raise AtrousError(f"{shown_place(url)}: no picture matches it as a pattern.")
        return listing.pictures
    marked = marked_pictures(listing.pictures)
    changed = [name.rpartition("/")[2] for name, as_written in marked.items() if not as_written]
    _say_passed_over(url, changed, len(marked))
    return [picture for picture in listing.pictures if picture not in marked]


def _say_passed_over(folder: Place, changed: Sequence[str], marked: int) -> None:
    """Prints how many pictures of a folder atrous wrote, and how many of these pictures were changed afterwards."""
    name = shown_place(folder)
    if marked > len(changed):
        note(f"{counted(marked - len(changed), 'picture')} in {name} skipped: written by atrous")
    if changed:
        shown = changed[0] if len(changed) == 1 else f"{changed[0]}, …"
        note(
            f"{counted(len(changed), 'picture')} in {name} skipped: written by atrous and changed afterwards, so "
            f"probably corrected masks ({shown}); to segment such a file, give its path instead of the folder"
        )


def _pictures_below(folders: Sequence[Path], listings: dict[str, Listing]) -> str:
    """Returns a sentence with the subfolders that are not searched, "" for none.

    On this machine it names subfolders with pictures; at URLs it names all subfolders.
    """
    folders = [path for path in folders if path.is_dir()]
    known = {folder.resolve() for folder in folders}
    found = (one for folder in folders for one in folders_with_pictures(folder, _is_to_predict))
    below = dict(islice((one for one in found if one[0].resolve() not in known), SUBFOLDERS + 1))
    named = [f"{folder} ({counted(count, 'picture')})" for folder, count in below.items()]
    named += _not_given((url for listing in listings.values() for url in listing.folders), listings)
    if not named:
        return ""
    more = " …" if len(named) > SUBFOLDERS else ""
    return f"Subfolders are not searched; to include one, give its path: {', '.join(named[:SUBFOLDERS])}{more}."


def _not_given(folders: Iterable[str], given: Collection[str]) -> list[str]:
    known = {url.rstrip("/") for url in given}
    return [shown_place(url) for url in folders if url not in known]


def _is_to_predict(path: Path) -> bool:
    return path.is_file() and not is_marked(path)


def _is_picture(path: Path) -> bool:
    known = path.suffix.lower() in _SUFFIXES or is_volume(path)
    return known and not path.name.startswith(".") and path.is_file()
