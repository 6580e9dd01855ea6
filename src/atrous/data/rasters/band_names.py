"""Names and wavelengths of the bands of a raster, and the choice of bands by name or wavelength."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from atrous.errors import AtrousError, counted

#: Largest difference between the wavelength of a band and the wavelength that a model takes, in nanometres.
NEAR_NM = 10.0
_DESCRIPTION = re.compile(r'<Item\b(?=[^>]*\brole="description")(?=[^>]*\bsample="(\d{1,5})")[^>]*>([^<]*)</Item>')
_WAVELENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(nanomet(?:er|re)s?|nm|micromet(?:er|re)s?|[uµμ]m)\b", re.IGNORECASE)
#: Names that state only the position of a band. "B1" does not match, because bands of Landsat and Sentinel-2 have such
#: names.
_POSITION = re.compile(r"(?:band|layer|channel)?[ _-]*0*(\d+)", re.IGNORECASE)
_SHOWN = 12
#: Text for a band whose name is "".
_UNNAMED = "one without a name of its own"


def descriptions_in_metadata(text: str, bands: int) -> list[str | None]:
    """Returns the descriptions of bands in GDAL's metadata of a TIFF, None for a band without one.

    Args:
        text: the content of the tag 42112, XML.
        bands: number of bands of the file.
    """
    # GDAL escapes a description before it writes it into XML, which escapes it again.
    found = {int(sample): html.unescape(html.unescape(name)) for sample, name in _DESCRIPTION.findall(text)}
    return [found.get(band) for band in range(bands)]


def checked_names(descriptions: Sequence[str | None]) -> tuple[str, ...]:
    """Returns one name per band, "" for a band without a description or with that of another band; () if all are "".

    Args:
        descriptions: descriptions of all bands of a file.
    """
    names = [(one or "").strip() for one in descriptions]
    times = Counter(name.casefold() for name in names)
    unique = tuple(name if times[name.casefold()] == 1 else "" for name in names)
    return unique if any(unique) else ()


def wavelengths_in(names: Sequence[str]) -> tuple[float, ...]:
    """Returns the wavelengths that names of bands contain, such as "band 1 (418.24 Nanometers)", in nanometres.

    Args:
        names: the names of the bands.

    Returns:
        One wavelength per band; () if one of the names contains no wavelength.
    """
    found = [_wavelength(name) for name in names]
    return () if None in found else tuple(one for one in found if one is not None)


def bands_to_read(
    names: Sequence[str], wanted: Sequence[str], wavelengths: Sequence[float], bands: int
) -> list[int] | None:
    """Returns the indices of the bands that a model takes, in the order in which it takes them.

    Names are compared first, upper and lower case alike, then wavelengths.

    Args:
        names: names of the bands in the file, "" for a band without a name of its own; () if it has no names.
        wanted: names of the bands that the model takes; () if they have no names.
        wavelengths: wavelengths that the model takes, in nanometres; () if unknown.
        bands: number of bands of the file, without an alpha band.

    Returns:
        The indices; None to take the bands in the order of the file: if the model states neither names nor
        wavelengths, or if the file states only positions and has no more bands than the model takes.

    Raises:
        AtrousError: the file has names, but a wanted band is not among them; or the file has no names, but more bands
            than the model takes.
    """
    count = len(wanted or wavelengths)
    if not count:
        return None
    taken = _listed(wanted) if wanted else _listed(f"{one:g} nm" for one in wavelengths)
    if not _are_names(names):
        if bands > count:
            raise AtrousError(
                f"the bands {taken} are needed, and the file has {counted(bands, 'band')} without names, so it is "
                "not certain which to take. Write the names into the file as the descriptions of its bands, or give a "
                f"file with these {count} bands."
            )
        return None
    place = {name.casefold(): index for index, name in enumerate(names) if name}
    if wanted and all(name.casefold() in place for name in wanted):
        return [place[name.casefold()] for name in wanted]
    own = {index: one for index, name in enumerate(names) if (one := _wavelength(name)) is not None}
    nearest = [min(own, key=lambda index: abs(own[index] - one)) for one in wavelengths] if own else []
    if nearest and all(abs(own[index] - one) <= NEAR_NM for index, one in zip(nearest, wavelengths, strict=True)):
        if len(set(nearest)) < len(nearest):
            raise AtrousError(
                f"two of the wavelengths {_listed(f'{one:g} nm' for one in wavelengths)} are nearest to one band: give "
                "wavelengths of different bands."
            )
        return nearest
    raise AtrousError(
        f"the bands {taken} are needed, and the file has {_listed(name or _UNNAMED for name in names)}"
        ". Give a file with these bands, or write their names into the file as the descriptions of its bands."
    )


def shared_names(files: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Returns the names of bands that all files have, in the order of the first file.

    Args:
        files: the names of the bands of each file.

    Returns:
        The names; () if a file has none, or names that state only positions.
    """
    if not files or not all(map(_are_names, files)):
        return ()
    common = set.intersection(*({name.casefold() for name in names if name} for names in files))
    return tuple(name for name in files[0] if name.casefold() in common)


def agreed_names(
    files: Sequence[tuple[str, Sequence[str]]], channels: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names by which the bands of a data set's files are taken, and notes for the user.

    Args:
        files: path of each file, for messages, and the names of its bands.
        channels: number of channels of the model; None for the number of names that all files have.

    Returns:
        The names that all files have; () to take the bands in the order of the files. The notes state which bands are
        left out, and how many files have no names.

    Raises:
        AtrousError: the names of two files contradict each other, and not all files have enough common names.
    """
    named = [(path, names) for path, names in files if _are_names(names)]
    unnamed = [path for path, names in files if not _are_names(names)]
    shared = shared_names([names for _, names in named])
    if not unnamed and shared and (channels is None or channels <= len(shared)):
        return shared[:channels], _notes_on_left_out(named, shared)
    if (differing := _contradiction(named)) is not None:
        shown = [f"{path} has {_listed(name or _UNNAMED for name in names)}" for path, names in differing]
        shown += [f"{path} has no names"] if (path := next(iter(unnamed), None)) else []
        what = "have no names in common"
        if shared and not unnamed:
            what = f"share only the names {_listed(shared)}, and the model takes {channels} channels"
        raise AtrousError(
            f"the order of the bands is not certain, because the files {what}: {', '.join(shown)}. Write the same "
            "names into all files as the descriptions of their bands, or list the bands to take, which "
            "each file with names has, in inputs.yaml, such as inputs: {image: {bands: [B4, B3, B2]}}. Files without "
            "names must have exactly these bands in this order."
        )
    if not named or not unnamed:
        return (), ()
    return (), (
        f"{len(unnamed)} of {counted(len(files), 'file')} have no names of bands, so the bands of all files are taken "
        f"in their order, which is {_listed(name or _UNNAMED for name in named[0][1])} in {named[0][0]}.",
    )


def _contradiction(
    files: Sequence[tuple[str, Sequence[str]]],
) -> tuple[tuple[str, Sequence[str]], tuple[str, Sequence[str]]] | None:
    """Returns the first two files that name one position differently; None if there are none, or no other band."""
    if all(len(names) == 1 for _, names in files):
        return None
    first: dict[int, tuple[str, Sequence[str]]] = {}
    for names, path in {tuple(names): path for path, names in files}.items():
        for place, name in enumerate(names):
            other = first.setdefault(place, (path, names)) if name else None
            if other is not None and not _agree(name, other[1][place]):
                return other, (path, names)
    return None


def _agree(one: str, other: str) -> bool:
    """Returns whether two names mean one band: the same text, or wavelengths that are near each other."""
    mine, theirs = _wavelength(one), _wavelength(other)
    near = mine is not None and theirs is not None and abs(mine - theirs) <= NEAR_NM
    return near or one.casefold() == other.casefold()


def _notes_on_left_out(files: Sequence[tuple[str, Sequence[str]]], shared: Sequence[str]) -> tuple[str, ...]:
    taken = {name.casefold() for name in shared}
    known = {name.casefold(): name for _, names in reversed(files) for name in reversed(names) if name}
    notes = []
    if lacking := [name for key, name in known.items() if key not in taken]:
        notes.append(f"These bands are left out, because some files lack them: {_listed(reversed(lacking))}.")
    if partly := next(((path, names) for path, names in files if "" in names), None):
        notes.append(
            f"Bands without a name of their own are left out, such as {list(partly[1]).count('')} of "
            f"{counted(len(partly[1]), 'band')} in {partly[0]}. To take them, write a different name into the file for "
            "each band."
        )
    return tuple(notes)


def _wavelength(name: str) -> float | None:
    found = _WAVELENGTH.search(name)
    return None if found is None else float(found[1]) * (1 if found[2].lower().startswith("n") else 1000)


def _are_names(names: Sequence[str]) -> bool:
    """Returns whether a file names its bands, and not only by their positions."""
    return any(
        name and not ((found := _POSITION.fullmatch(name)) and int(found[1]) == place)
        for place, name in enumerate(names, 1)
    )


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
