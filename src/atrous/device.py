"""Chooses the device and the precision, and makes the process keep freed memory for fast training."""

from __future__ import annotations

import ctypes
import platform

import torch

from atrous.errors import AtrousError, shown, unknown_name

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """Returns a device by name; "auto" selects a CUDA GPU if present, else Apple's GPU (mps), else the CPU.

    Args:
        name: "auto", "cpu", "cuda", "cuda:1" or "mps"; a torch.device is returned unchanged.

    Raises:
        AtrousError: this machine has no such device.
    """
    if isinstance(name, torch.device):
        return name
    if not isinstance(name, str):
        raise AtrousError(f"a device must be a name, such as cpu or cuda:0, or a torch.device, got {shown(name)}.")
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
    """Returns a dtype by name; "auto" selects bfloat16 if the device supports it in hardware, else float32.

    Args:
        name: "auto", "float32" or "bfloat16".
        device: the device of the computation.

    Raises:
        AtrousError: the name is unknown.
    """
    if name == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    if name not in PRECISIONS:
        raise unknown_name("precision", name, ["auto", *PRECISIONS])
    return PRECISIONS[name]


def has_bfloat16(device: torch.device) -> bool:
    """Returns whether the device multiplies in bfloat16 in hardware, which is faster than an emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def with_float64(device: torch.device) -> torch.device:
    """Returns the device, or the CPU for a device without float64, such as Apple's GPUs."""
    return torch.device("cpu") if device.type == "mps" else device


def precision_name(dtype: torch.dtype) -> str:
    """Returns the name of a dtype, such as "bfloat16", which `pick_precision` accepts."""
    return str(dtype).removeprefix("torch.")


def keep_freed_memory() -> None:
    """Makes this process keep freed memory for its next training step; does nothing without glibc.

    Call this function after the first step, when all permanent memory is allocated. By default, glibc returns large
    blocks to the system at once, and every training step causes page faults for all of its memory again. The page
    faults take a quarter of the step's time (docs/results.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # constants of malloc.h
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)  # returns the free memory of the first step between the permanent blocks
    libc.mallopt(arena_max, 1)  # lets the thread of the backward pass reuse freed memory
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
