"""Hides warnings of rasterio and pyogrio; the messages of this package explain these cases.

`warnings.catch_warnings` replaces the filters of the whole process, and restores them when its block ends. If blocks of
several threads overlap, the filter of one thread may stay for ever and hide all warnings. So this module does not use
it: it adds filters for single messages, and never removes them.
"""

from __future__ import annotations

import re
import warnings

_PYOGRIO = r"pyogrio(\.|$)"


def hide_rasterio_warnings() -> None:
    """Hides warnings about rasters without coordinates, and about files that have both a mask and a nodata value."""
    from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning

    for category in (NotGeoreferencedWarning, NodataShadowWarning):
        _hide(category, None)


def hide_pyogrio_warnings() -> None:
    """Hides warnings that pyogrio gives while it reads a file, such as warnings about M coordinates."""
    _hide(Warning, _PYOGRIO)


def _hide(category: type[Warning], module: str | None) -> None:
    """Adds a filter; does nothing if it exists and no filter for all modules and a wider category precedes it."""
    wanted = "ignore", None, category, None if module is None else re.compile(module), 0
    for one in warnings.filters:
        if one == wanted:
            return
        if one[1] is None and one[3] is None and issubclass(category, one[2]):
            break
    warnings.filterwarnings("ignore", "", category, module or "")
