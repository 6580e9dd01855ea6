"""Peak memory of this process, on Linux, macOS and Windows."""

from __future__ import annotations

import sys


def peak_of_process() -> int:
    """Returns the largest resident memory of this process so far, in bytes."""
    try:
        import resource
    except ImportError:  # on Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)  # pyright: ignore[reportAttributeAccessIssue]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
