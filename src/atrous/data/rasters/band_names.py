"""Names and wavelengths of the bands of a raster, and the choice of bands by name or wavelength."""

from __future__ import annotations

import html
import re
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


def names_in_metadata(text: str, bands: int) -> tuple[str, ...]:
    """Returns the descriptions of bands in GDAL's metadata of a TIFF (tag 42112).

    Args:
        text: the content of the tag, XML.
        bands: number of bands of the file.

    Returns:
        As for `checked_names`.
    """
    return checked_names(descriptions_in_metadata(text, bands))


def descriptions_in_metadata(text: str, bands: int) -> list[str | None]:
    """Returns the descriptions of bands in GDAL's metadata of a TIFF, None for a band without one.

    Args:
        text: as for `names_in_metadata`.
        bands: number of bands of the file.
    """
    # GDAL escapes a description before it writes it into XML, which escapes it again.
    found = {int(sample): html.unescape(html.unescape(name)) for sample, name in _DESCRIPTION.findall(text)}
    return [found.get(band) for band in range(bands)]


def checked_names(descriptions: Sequence[str | None]) -> tuple[str, ...]:
    """Returns one name per band, "" for a band without description; () if no band has one, or two bands have the same.

    Args:
        descriptions: descriptions of all bands of a file.
    """
    names = tuple((one or "").strip() for one in descriptions)
    given = [name.casefold() for name in names if name]
    return names if given and len(set(given)) == len(given) else ()


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
        names: names of the bands in the file, "" for a band without a name; () if it has no names.
        wanted: names of the bands that the model takes; () if these bands have no names.
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
    if not names or _are_positions(names):
        if bands > count:
            raise AtrousError(
                f"the model takes the bands {taken}, and the file has {counted(bands, 'band')} without names, so it is "
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
        f"the model takes the bands {taken}, and the file has {_listed(name or 'one without a name' for name in names)}"
        ". Give a file with these bands, or write their names into the file as the descriptions of its bands."
    )


def shared_names(files: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Returns the names of bands that all files have, in the order of the first file.

    Args:
        files: the names of the bands of each file.

    Returns:
        The names; () if a file has no names, or if the names state only positions.
    """
    if not files or not all(files) or _are_positions(files[0]):
        return ()
    common = set.intersection(*({name.casefold() for name in names if name} for names in files))
    return tuple(name for name in files[0] if name.casefold() in common)


def _wavelength(name: str) -> float | None:
    found = _WAVELENGTH.search(name)
    return None if found is None else float(found[1]) * (1 if found[2].lower().startswith("n") else 1000)


def _are_positions(names: Sequence[str]) -> bool:
    return all((found := _POSITION.fullmatch(name)) and int(found[1]) == place for place, name in enumerate(names, 1))


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
