"""Which device and which precision serve best here, and what the process needs to be quick on it."""

from __future__ import annotations

import ctypes
import platform

import torch

from atrous.errors import AtrousError, shown, unknown_name

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """The device by name; "auto" takes the CUDA GPU, else Apple's (mps), else the CPU.

    Args:
        name: "auto", "cpu", "cuda", "cuda:1", "mps"; a device is given back as it is.

    Raises:
        AtrousError: no such device here.
    """
    if isinstance(name, torch.device):
        return name
    if not isinstance(name, str):
        raise AtrousError(f"a device is a name, such as cpu or cuda:0, or a torch.device, got {shown(name)}.")
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    present = ["auto", "cpu"]
    present += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))] if torch.cuda.is_available() else []
    present += ["mps"] if torch.backends.mps.is_available() else []
    if name not in present:
        raise unknown_name("device on this machine", name, present)
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype by name; "auto" takes bfloat16 where the processor computes in it, else float32.

    Args:
        name: "auto", "float32" or "bfloat16".
        device: where it will be used.

    Raises:
        AtrousError: unknown name.
    """
    if name == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    if name not in PRECISIONS:
        raise unknown_name("precision", name, ["auto", *PRECISIONS])
    return PRECISIONS[name]


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 itself, so that it is faster there and not emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def with_float64(device: torch.device) -> torch.device:
    """The device, or the CPU where the device has no float64, as Apple's GPUs do not."""
    return torch.device("cpu") if device.type == "mps" else device


def precision_name(dtype: torch.dtype) -> str:
    """The inverse of `pick_precision`'s names."""
    return str(dtype).removeprefix("torch.")


def keep_freed_memory() -> None:
    """Lets this process keep what it frees, for its next step; does nothing outside Linux with glibc.

    To be called after the first step, when all that lasts has been allocated. By default glibc hands large blocks back
    to the system at once, so every training step faults all its memory in again: a quarter of its time
    (docs/results.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # of malloc.h
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)  # the first step's leftovers lie between what lasts
    libc.mallopt(arena_max, 1)  # what the forward pass frees is there for the backward pass, which is another thread
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
