"""Buffers that are reused from picture to picture.

Without reuse, allocating buffers takes a quarter of the CRF's time if all classes stay active (`mean_field_cpu`).
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from atrous.crf.row_sums import empty


class Buffers(threading.local):
    """Flat float32 arrays by name, separate for each thread. Each array has the size of the largest request so far."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def floats(self, name: str, size: int) -> np.ndarray:
        """Returns `size` floats with arbitrary values; they are valid until the next call with the same name."""
        if name not in self._arrays or self._arrays[name].size < size:
            self._arrays.pop(name, None)
            self._arrays[name] = empty(size)
        return self._arrays[name][:size]

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns the call with which copy and pickle create a copy: a new `Buffers` that contains no arrays."""
        return Buffers, ()
