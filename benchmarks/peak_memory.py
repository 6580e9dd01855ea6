"""Peak memory of this process, on Linux, macOS and Windows."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def peak_of_process() -> int:
    """Returns the largest resident memory of this process so far, in bytes.

    On Linux, `getrusage` also counts the memory of the process that started this one, so its figure is not used.
    """
    if sys.platform == "linux":
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        assert found is not None
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # on Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)  # pyright: ignore[reportAttributeAccessIssue]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
