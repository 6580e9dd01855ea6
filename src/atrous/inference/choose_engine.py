"""Chooses the runtime of a network, and states the reason for the choice."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from atrous.errors import AtrousError, unknown_name

ENGINES = ("auto", "openvino", "torch")


@dataclass(frozen=True)
class Engine:
    """The runtime of a network.

    Args:
        name: name of the runtime: torch, openvino or onnxruntime.
        device: device that the network runs on: cpu, cuda:0 …
        precision: number format of the computation: float32, bfloat16 …
        reason: reason for this choice.
    """

    name: str
    device: str
    precision: str
    reason: str


class NotConvertible(AtrousError):
    """Error for a network that OpenVINO cannot run with the same results as torch."""


def choose(name: str, device: str, from_file: bool) -> tuple[str, str]:
    """Chooses the requested runtime or, for "auto", the fastest installed runtime.

    torch is imported only if the machine may have a GPU.

    Args:
        name: name of the engine, one of `ENGINES`.
        device: device, as in `device.pick_device`.
        from_file: whether the model is in a file. For a module in memory, "auto" chooses torch, because only the
            conversions of files are cached.

    Returns:
        "openvino" or "torch", and the reason.

    Raises:
        AtrousError: the engine is unknown, not installed, or does not support the device.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    installed = importlib.util.find_spec("openvino") is not None
    if name == "torch":
        return "torch", "as requested"
    if name == "openvino":
        if not installed:
            raise AtrousError("the engine openvino is not installed: pip install atrous[openvino].")
        if device not in ("auto", "cpu"):
            raise AtrousError(f"the engine openvino runs only on the CPU, not on {device}: leave --device out.")
        return "openvino", "as requested"
    found = device if device != "auto" else gpu_for_torch() or "cpu"
    if found != "cpu":
        return "torch", f"it runs on the GPU, {found}"
    if not installed:
        return "torch", "OpenVINO, which is faster on CPUs, is not installed: pip install atrous[openvino]"
    if not from_file:
        return "torch", "the model is a module in memory; to run it in OpenVINO, set engine='openvino'"
    return "openvino", "the fastest on CPUs"


def gpu_for_torch() -> str | None:
    """Returns the type of GPU that torch can use on this machine, such as cuda or mps; None if there is no such GPU."""
    if not maybe_gpu():
        return None
    from atrous.device import pick_device  # imports torch, which OpenVINO does not need

    found = pick_device().type
    return None if found == "cpu" else found


def maybe_gpu() -> bool:
    """Returns whether this machine may have a GPU, without importing torch, which takes seconds."""
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"  # torch does not support other GPUs of Macs
    places = ["/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/dxg", "/dev/kfd"]
    if platform.system() == "Windows":
        places = [f"{os.environ.get('SYSTEMROOT', 'C:/Windows')}/System32/nvcuda.dll"]
    return any(Path(place).exists() for place in places)
