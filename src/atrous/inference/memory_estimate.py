"""Estimates the memory that a picture needs before it is run, and finds how much memory is free."""

from __future__ import annotations

import math
import os
import weakref
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atrous.errors import AtrousError
from atrous.inference.cgroup_memory import group_bytes

if TYPE_CHECKING:
    from atrous.inference.whole_picture import WholePicture
    from atrous.models.info import Info

#: Smallest allowed value of the option `memory`, in GB; even the pixels of the smallest tile take more memory.
LEAST_MEMORY = 0.01
#: Environment variable with the number of worker processes on this host; torchrun and other launchers set it.
WORKERS = "LOCAL_WORLD_SIZE"
#: Height and width of the picture for which a network's memory is counted, in pixels. For other sizes, the memory is
#: assumed to be proportional to the number of pixels.
REFERENCE = 512
#: Ratio of measured to counted memory. The ratio is above 1, because buffers of convolutions and fragmentation are not
#: counted. On a CPU, it is 1.2–1.5 (docs/big-pictures.md).
OVERHEAD = 1.4
#: Bytes of the process itself: Python, and torch with its threads and code.
PROCESS = 0.8e9
#: Bytes per class and pixel that a CRF needs at a picture's full size: logits, probabilities, messages and their sums.
CRF_BYTES = 24
#: Bytes per pixel of the CRF's lattice: neighbours, weights and colours.
CRF_LATTICE = 330
#: Bytes of the CRF's compiler.
CRF_PROCESS = 0.2e9
#: Bytes assumed to be free if the system does not report its free memory; a small value suffices for tiles.
ASSUMED = 4e9
#: Approximate number of bytes that a network needs per pixel; `surely_fits` compares the memory of a CRF with it.
NETWORK_BYTES = 512
#: Largest number of pixels at the network's input that fits into memory on every machine, so that no estimate is
#: needed; with a CRF, fewer pixels fit.
SURELY_FITS = 2**21


def predict_bytes(info: Info, height: int, width: int, *, crf: bool = False, scale: float = 1.0) -> float:
    """Returns the memory for running a picture as a whole, including the process and the picture itself.

    The peak of the network's activations is counted in float32 on a picture of 512×512 px, without computing anything.
    The estimate grows with the number of pixels:
    `0.8 GB + weights + H·W·(1.4 · counted bytes per pixel + 2·C·bytes of a value + 2 [+ 24·K + 330 with a CRF])`,
    and 0.2 GB for the compiler if there is a CRF. The counted bytes per pixel are also multiplied by
    (enlargement · `scale`)², where the enlargement is that of the model's preprocessing.

    Args:
        info: metadata of the model, with C channels and K classes.
        height: height of the picture, in pixels.
        width: width of the picture, in pixels.
        crf: whether a CRF refines the mask.
        scale: largest resize factor of the picture, > 0.

    Returns:
        Memory, in bytes, for a network that computes in float32; a network in bfloat16 needs less.
    """
    preprocessing = info.preprocessing
    pixel = 2 * preprocessing.channels * np.dtype(preprocessing.dtype).itemsize + 2
    pixel += (CRF_BYTES * len(info.classes) + CRF_LATTICE) if crf else 0
    weights, counted = _counted(info.architecture, _frozen(info.arguments), preprocessing.channels)
    counted *= OVERHEAD * (preprocessing.enlarge * scale) ** 2
    return PROCESS + CRF_PROCESS * crf + weights + height * width * (counted + pixel)


def surely_fits(whole: WholePicture, height: int, width: int) -> bool:
    """Returns whether a picture is so small that the network and the CRF can run on it in the memory of any machine.

    Args:
        whole: object that runs the network on the picture, with its scales, enlargement and CRF.
        height: height of the picture, in pixels.
        width: width of the picture, in pixels.
    """
    info = whole.info
    weight = (info.preprocessing.enlarge * max(1.0, *whole.scales)) ** 2
    weight += (CRF_BYTES * len(info.classes) + CRF_LATTICE) / NETWORK_BYTES if whole.crf is not None else 0
    return height * width * weight <= SURELY_FITS


def available_bytes(device: str = "cpu") -> float:
    """Returns the memory that is free on a device now.

    Args:
        device: cpu, cuda:0, mps …

    Returns:
        Bytes. For the CPU, this is the smaller of the system's free memory and the memory that control groups leave.
    """
    if device.startswith("cuda"):
        import torch

        place = torch.device(device)
        free, _ = torch.cuda.mem_get_info(place)
        return with_unused_blocks(free, torch.cuda.memory_reserved(place), torch.cuda.memory_allocated(place))
    if device.startswith("mps"):
        import torch

        taken = torch.mps.driver_allocated_memory()
        free = min(max(torch.mps.recommended_max_memory() - taken, 0), _system_bytes())  # GPU and CPU share memory
        return with_unused_blocks(free, taken, torch.mps.current_allocated_memory())
    return min(_system_bytes(), group_bytes())


def with_unused_blocks(free: float, reserved: float, allocated: float) -> float:
    """Returns the free GPU memory for new tensors, including the blocks that torch's allocator caches.

    Args:
        free: bytes that the driver reports as free.
        reserved: bytes that torch has reserved from the driver.
        allocated: bytes of the reserved memory that contain tensors.

    Returns:
        Bytes. If the cached blocks are too small, torch releases them before an allocation fails.
    """
    return float(free + max(reserved - allocated, 0))


def limit_bytes(memory: float | None, device: str = "cpu") -> float:
    """Returns the memory that a picture may take in this process, in bytes; workers on one device get equal parts.

    Args:
        memory: memory for all workers on this host together, in GB; None for half of the device's free memory.
        device: cpu, cuda:0, mps …

    Raises:
        AtrousError: `memory` is less than `LEAST_MEMORY`.
    """
    if memory is not None and not memory >= LEAST_MEMORY:
        raise AtrousError(f"memory must be {LEAST_MEMORY} GB or more, got {memory}.")
    return (available_bytes(device) / 2 if memory is None else memory * 1e9) / workers_on(device)


def workers_on(device: str = "cpu") -> int:
    """Returns the number of processes on this host that share a device, as torchrun reports it; 1 without torchrun.

    Args:
        device: cpu, cuda:0, mps …; for "cuda", the processes are assumed to be spread evenly over all GPUs.
    """
    count = os.environ.get(WORKERS, "")
    workers = max(1, int(count)) if count.isascii() and count.isdigit() else 1
    if workers > 1 and device == "cuda":
        import torch

        return math.ceil(workers / max(1, torch.cuda.device_count()))
    return workers


def _system_bytes() -> float:
    """Returns the bytes that new tensors can take without swapping; `ASSUMED` if the system does not report them."""
    with suppress(OSError):  # only Linux has this file
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        for line in lines:
            if line.startswith("MemAvailable"):
                return float(line.split()[1]) * 1024
    try:
        import psutil

        return float(psutil.virtual_memory().available)
    except Exception:  # no error of psutil may stop a prediction
        return ASSUMED


def _frozen(value: Any) -> Any:
    """Converts a JSON value to a hashable form, as a key for a cache."""
    if isinstance(value, dict):
        return ("dict", tuple((name, _frozen(value[name])) for name in sorted(value)))
    return ("list", tuple(map(_frozen, value))) if isinstance(value, list | tuple) else value


def _thawed(value: Any) -> Any:
    if isinstance(value, tuple) and value[0] == "dict":
        return {name: _thawed(item) for name, item in value[1]}
    return [_thawed(item) for item in value[1]] if isinstance(value, tuple) else value


@lru_cache(maxsize=8)
def _counted(architecture: str, arguments: Any, channels: int) -> tuple[int, float]:
    """Returns the bytes of the weights, and the peak of the activations' memory in bytes per pixel."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    from atrous import models
    from atrous.models.meta_device import on_meta_device

    class Count(TorchDispatchMode):
        """Counts the bytes of all tensors that are alive; the meta device computes nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.alive, self.most = 0, 0
            self.known = weakref.WeakSet()

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(result):
                if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self.known:
                    storage = tensor.untyped_storage()
                    self.known.add(storage)
                    self.alive += storage.nbytes()
                    weakref.finalize(storage, self.free, storage.nbytes())
                    self.most = max(self.most, self.alive)
            return result

        def free(self, size: int) -> None:
            self.alive -= size

    with on_meta_device():
        model = models.build(architecture, _thawed(arguments)).eval()
        pictures = torch.empty(1, channels, REFERENCE, REFERENCE)
    with torch.inference_mode(), Count() as count:
        model.scores(pictures)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    return weights, count.most / REFERENCE**2
