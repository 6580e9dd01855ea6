"""The process's one OpenVINO core."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

#: Kernels that are kept ready, of layers at the sizes that were seen. By default 5000 are: a process that sees pictures
#: of ever new sizes grows by half a gigabyte and more. So it stays smaller; where sizes come again nothing is slower
#: (docs/serving.md).
KERNELS_KEPT = "1000"


@lru_cache(maxsize=1)
def openvino_core() -> Any:
    """The core that every network of this process is read and compiled with.

    One for all, and never let go: each core's CPU plugin lends the main thread a stack for its signal handlers and
    takes it back at its end, so that of two that end in the order they began, the second leaves the thread a stack
    that is freed, and the next Ctrl-C a crash. It also spares loading the plugin again (0.1 s).

    Raises:
        ImportError: OpenVINO is not installed.
    """
    import openvino

    core = openvino.Core()
    # Files are read, not mapped: one that is overwritten in place while it runs would change masks or end the process.
    core.set_property({"ENABLE_MMAP": False})
    return core
