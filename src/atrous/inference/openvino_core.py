"""The OpenVINO core of the process, and compiled networks that any number of threads can run."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from atrous.fork_safety import ForkLock, leave_to_parent

#: Largest number of compiled kernels in OpenVINO's cache. OpenVINO compiles one kernel per layer and picture size. At
#: the default of 5000, the memory of a process that gets pictures of many sizes grows by half a gigabyte and more.
#: With 1000, pictures of repeated sizes run as fast as with 5000 (docs/serving.md).
KERNELS_KEPT = "1000"
#: Number of idle requests that a network keeps; each idle request keeps memory for the largest picture that it ran.
REQUESTS_KEPT = 2
#: Ratio of picture sizes above which the memory of the larger picture is released before the smaller picture runs.
#: Views of one picture at the scales 0.5 and 2 differ by a factor of 16, so no memory is released between the views of
#: a picture.
MUCH_LARGER = 20
#: Number of input values (H·W·C) from which a picture's memory is worth releasing.
RELEASED_FROM = 3 * 2**20
#: Message in a forked child if another thread of the parent was running the network at the fork.
LOST = (
    "another thread was running this model when the process forked, so this child cannot use it: open the Segmenter in "
    "the child, or start processes by multiprocessing's method spawn."
)


@lru_cache(maxsize=1)
def openvino_core() -> Any:
    """Returns the core that reads and compiles every network of this process.

    There is one core, and it is never released. The CPU plugin of each core installs a stack for the main thread's
    signal handlers, and restores the previous stack when the core ends. If two cores end in the order in which they
    began, the second restores a stack that is already freed, and the next Ctrl-C crashes the process. One core also
    saves loading the plugin again (0.1 s).

    Raises:
        ImportError: OpenVINO is not installed.
    """
    import openvino

    core = openvino.Core()
    # Files are read, not memory-mapped: overwriting a mapped file would change masks or end the process.
    core.set_property({"ENABLE_MMAP": False})
    leave_to_parent(core)
    return core


class CompiledNetwork:
    """A compiled network that any number of threads can run.

    It computes one picture after another, each with all cores. A result is in the memory of the request that computed
    the result, so a request is not used again before its result has been read. Meanwhile, other threads get other
    requests. A single thread always uses the same request.

    Args:
        compiled: compiled model of OpenVINO.
    """

    def __init__(self, compiled: Any) -> None:
        self._compiled, self._computing = compiled, ForkLock(LOST)
        self._idle = [compiled.create_infer_request()]
        #: (process id, id of a request) of results that are being read. A forked child ignores the parent's entries.
        self._being_read = set[tuple[int, int]]()
        self._largest = 0
        leave_to_parent(self)

    @contextmanager
    def run(self, inputs: Sequence[np.ndarray]) -> Iterator[Any]:
        """Runs the network.

        Args:
            inputs: arrays in the order of the network's inputs; they are not copied.

        Yields:
            The request, whose outputs are valid until the block ends.

        Raises:
            AtrousError: this is a forked child, and another thread of the parent was running the network at the fork.
        """
        with self._computing:
            self._release_before(inputs[0].size)
            request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
            self._largest = max(self._largest, inputs[0].size)
            request.infer(list(inputs), share_inputs=True)
            self._being_read.add((os.getpid(), id(request)))
        try:
            yield request
        finally:
            self._being_read.discard((os.getpid(), id(request)))
            if len(self._idle) < REQUESTS_KEPT:
                self._idle.append(request)

    def release_before(self, values: int) -> bool:
        """Releases the memory of earlier pictures, if one of them was much larger than the next picture.

        Another network may run the next picture. Without this method, one picture of 25 megapixels would occupy
        gigabytes until the process ends. The method never waits: while the network is in use, nothing is released.

        Args:
            values: number of input values (H·W·C) of the next picture.

        Returns:
            Whether memory was released.
        """
        if not self._is_for_much_larger(values):
            return False
        with self._computing.if_free() as free:
            return free and self._release_before(values)

    def _release_before(self, values: int) -> bool:
        if not self._is_for_much_larger(values) or any(process == os.getpid() for process, _ in self._being_read):
            return False
        self._compiled.release_memory()
        self._largest = 0
        _return_free_pages()
        return True

    def _is_for_much_larger(self, values: int) -> bool:
        return self._largest >= RELEASED_FROM and self._largest > MUCH_LARGER * values


def _return_free_pages() -> None:
    """Gives free memory between used blocks of the heap back to the system; does nothing without glibc.

    Pictures of different sizes leave free gaps between used blocks in the heap of each thread, and glibc does not
    release these gaps by itself.
    """
    if (trim := _trim_function()) is not None:
        trim(0)


@lru_cache(maxsize=1)
def _trim_function() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if platform.libc_ver()[0] == "glibc" else None
