"""Which runtime is to run a network, and why."""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import dataclass
from pathlib import Path

from atrous.errors import AtrousError, unknown_name

ENGINES = ("auto", "openvino", "torch")


@dataclass(frozen=True)
class Engine:
    """What runs the network.

    Args:
        name: of the runtime.
        device: cpu, cuda:0 …
        precision: float32 or bfloat16.
        reason: why this one.
    """

    name: str
    device: str
    precision: str
    reason: str


class NotConvertible(AtrousError):
    """A network that another runtime does not run as torch does."""


def choose(name: str, device: str, from_file: bool) -> tuple[str, str]:
    """The fastest runtime present, found without loading any.

    Args:
        name: a key of `ENGINES`.
        device: as `device.pick_device` takes it.
        from_file: whether the model comes from a file, whose conversion is kept for the next time.

    Returns:
        "openvino" or "torch", and the reason.

    Raises:
        AtrousError: unknown, not installed, or not for that device.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    installed = importlib.util.find_spec("openvino") is not None
    on_cpu = device == "cpu" or (device == "auto" and not maybe_gpu())
    if name == "torch":
        return "torch", "as asked"
    if name == "openvino":
        if not installed:
            raise AtrousError("the engine openvino is not installed: pip install atrous[openvino].")
        if device not in ("auto", "cpu"):
            raise AtrousError(f"the engine openvino runs on the CPU here, not on {device}: leave --device out.")
        return "openvino", "as asked"
    if not on_cpu:
        return "torch", "it runs on GPUs"
    if not installed:
        return "torch", "OpenVINO, which is faster on CPUs, is not installed: pip install atrous[openvino]"
    if not from_file:
        return "torch", "a module in memory; from a file, or by engine='openvino', OpenVINO would run it"
    return "openvino", "the fastest on CPUs"


def maybe_gpu() -> bool:
    """Whether torch is worth asking for a GPU: loading it takes seconds, a plain mask on a CPU does not need it."""
    return platform.system() == "Darwin" or any(
        Path(place).exists() for place in ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
    )
