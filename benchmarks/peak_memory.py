"""The peak memory of a process, as each system tells it."""

from __future__ import annotations

import sys


def peak_of_process() -> int:
    """The largest resident memory that this process has had so far, in bytes."""
    try:
        import resource
    except ImportError:  # on Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)  # pyright: ignore[reportAttributeAccessIssue]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
