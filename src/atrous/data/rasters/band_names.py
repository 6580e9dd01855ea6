"""Names and wavelengths of the bands of a raster, and the choice of bands by them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from atrous.errors import AtrousError

#: Largest difference between the wavelength of a band and the wavelength that a model takes, in nanometres.
NEAR_NM = 10.0
_DESCRIPTION = re.compile(r'<Item\b(?=[^>]*\brole="description")(?=[^>]*\bsample="(\d{1,5})")[^>]*>([^<]*)</Item>')
_WAVELENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(nanomet(?:er|re)s?|nm|micromet(?:er|re)s?|[uµμ]m)\b", re.IGNORECASE)
#: Names that state only the position of a band.
_POSITION = re.compile(r"(?:band|layer|channel|b)?[ _-]*0*(\d+)", re.IGNORECASE)
_SHOWN = 12


def names_in_metadata(text: str, bands: int) -> tuple[str, ...]:
    """Returns the descriptions of bands in GDAL's metadata of a TIFF (tag 42112).

    Args:
        text: the content of the tag, XML.
        bands: number of bands of the file.

    Returns:
        One name per band; () if a band has no description, or two bands have the same.
    """
    # GDAL escapes a description before it writes it into XML, which escapes it again.
    found = {int(sample): html.unescape(html.unescape(name)).strip() for sample, name in _DESCRIPTION.findall(text)}
    names = tuple(found.get(band, "") for band in range(bands))
    return names if all(names) and len(set(names)) == bands else ()


def wavelengths_in(names: Sequence[str]) -> tuple[float, ...]:
    """Returns the wavelengths that names of bands contain, such as "band 1 (418.24 Nanometers)", in nanometres.

    Args:
        names: the names of the bands.

    Returns:
        One wavelength per band; () if a name contains none.
    """
    found = [_WAVELENGTH.search(name) for name in names]
    if not all(found):
        return ()
    return tuple(float(one[1]) * (1 if one[2].lower().startswith("n") else 1000) for one in found if one is not None)


def bands_to_read(names: Sequence[str], wanted: Sequence[str], wavelengths: Sequence[float]) -> list[int] | None:
    """Returns the indices of the bands that a model takes, in the order in which it takes them.

    Names are compared first, upper and lower case alike, then wavelengths.

    Args:
        names: names of the bands in the file; () if it has no names.
        wanted: names of the bands that the model takes; () if they have no names.
        wavelengths: wavelengths that the model takes, in nanometres; () if unknown.

    Returns:
        The indices; None to take the first bands in the order of the file, because neither the file nor the model
        states more than the position of bands.

    Raises:
        AtrousError: the file has names, and one of the wanted bands is not among them.
    """
    if not names or not (wanted or wavelengths):
        return None
    place = {name.casefold(): index for index, name in enumerate(names)}
    if wanted and all(name.casefold() in place for name in wanted):
        return [place[name.casefold()] for name in wanted]
    own = wavelengths_in(names)
    nearest = [min(range(len(own)), key=lambda index: abs(own[index] - one)) for one in wavelengths] if own else []
    if nearest and all(abs(own[index] - one) <= NEAR_NM for index, one in zip(nearest, wavelengths, strict=True)):
        if len(set(nearest)) < len(nearest):
            raise AtrousError(
                f"two of the wavelengths {_listed(f'{one:g} nm' for one in wavelengths)} are nearest to one band: give "
                "wavelengths of different bands."
            )
        return nearest
    if _are_positions(names):
        return None
    taken = _listed(wanted) if wanted else _listed(f"{one:g} nm" for one in wavelengths)
    raise AtrousError(
        f"the model takes the bands {taken}, and the file has {_listed(names)}. Give a file with these bands, or write "
        "their names into the file as the descriptions of its bands."
    )


def shared_names(files: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Returns the names of bands that all files have, in the order of the first file.

    Args:
        files: the names of the bands of each file.

    Returns:
        The names; () if a file has none, or if the names state only positions.
    """
    if not files or not all(files) or _are_positions(files[0]):
        return ()
    common = set.intersection(*({name.casefold() for name in names} for names in files))
    return tuple(name for name in files[0] if name.casefold() in common)


def _are_positions(names: Sequence[str]) -> bool:
    return all((found := _POSITION.fullmatch(name)) and int(found[1]) == place for place, name in enumerate(names, 1))


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
