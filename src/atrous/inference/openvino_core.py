"""The process's one OpenVINO core, and networks that any number of threads run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from atrous.fork_safety import ForkLock, leave_to_parent

#: Kernels that are kept ready, of layers at the sizes that were seen. By default 5000 are: a process that sees pictures
#: of ever new sizes grows by half a gigabyte and more. So it stays smaller; where sizes come again nothing is slower
#: (docs/serving.md).
KERNELS_KEPT = "1000"
#: Number of idle requests that a network keeps; each holds the memory of the largest picture that it ran.
REQUESTS_KEPT = 2
#: Ratio of picture sizes from which the memory of the larger picture is released before the smaller one runs. Views at
#: the scales 0.5 and 2 differ by 16 and keep it.
MUCH_LARGER = 20
#: Number of input values (H·W·C) from which a picture's memory is worth releasing.
RELEASED_FROM = 3 * 2**20
#: In a forked child, where a thread that is not there was in the middle of a picture.
LOST = (
    "another thread was running this model when the process forked, so this child cannot use it: open the Segmenter in "
    "the child, or start processes by multiprocessing's method spawn."
)


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
    leave_to_parent(core)
    return core


class CompiledNetwork:
    """A compiled network that any number of threads run.

    It computes one picture after another, each with all cores. A result lies in the memory of the request that made it,
    so a request is not used again before its result has been read; where another is being read, there is another
    request. One thread alone always uses the same one.

    Args:
        compiled: of OpenVINO.
    """

    def __init__(self, compiled: Any) -> None:
        self._compiled, self._computing = compiled, ForkLock(LOST)
        self._idle = [compiled.create_infer_request()]
        self._being_read = set[int]()
        self._largest = 0
        leave_to_parent(self)

    @contextmanager
    def run(self, inputs: Sequence[np.ndarray]) -> Iterator[Any]:
        """Runs the network.

        Args:
            inputs: in the network's order, not copied.

        Yields:
            The request, whose outputs are valid until the block ends.

        Raises:
            AtrousError: in a forked child, where another thread of the parent was running the network.
        """
        with self._computing:
            self._release_before(inputs[0].size)
            request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
            self._largest = max(self._largest, inputs[0].size)
            request.infer(list(inputs), share_inputs=True)
            self._being_read.add(id(request))
        try:
            yield request
        finally:
            self._being_read.discard(id(request))
            if len(self._idle) < REQUESTS_KEPT:
                self._idle.append(request)

    def is_for_much_larger(self, values: int) -> bool:
        """Whether the memory in use is of a picture that is much larger than the next one.

        Args:
            values: number of input values (H·W·C) of the next picture.
        """
        return self._largest >= RELEASED_FROM and self._largest > MUCH_LARGER * values

    def release_before(self, values: int) -> None:
        """Releases the memory of a picture that was much larger than the next one, which another network runs.

        Without this, one picture of 25 megapixels would leave gigabytes occupied for as long as the process runs.

        Args:
            values: number of input values (H·W·C) of the next picture.
        """
        if self.is_for_much_larger(values):
            with self._computing:
                self._release_before(values)

    def _release_before(self, values: int) -> None:
        if self.is_for_much_larger(values) and not self._being_read:
            self._compiled.release_memory()
            self._largest = 0
