"""Modules that training tools wrap around networks, and the name parts that they add to the names of weights.

DataParallel, FSDP, torch.compile, activation checkpointing, DeepSpeed and weight averaging each wrap a module in
another module. The wrapper adds a part to the names of all weights in it. No segmentation network has modules of these
names, so the parts are removed at every position.
"""

from __future__ import annotations

import re
from typing import Any

#: Name parts of wrappers: `module` (DataParallel, averages), `_orig_mod` (torch.compile), `_fsdp_wrapped_module`,
#: `_checkpoint_wrapped_module`, `_forward_module` (Lightning), `_ddp` and similar names.
WRAPPER = re.compile(r"module|_ddp|_\w*(?:module|mod|model)|\w*wrapp(?:ed|er)\w*")

#: Attributes in which a wrapper stores the wrapped module.
ATTRIBUTES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module")


def without_wrappers(key: str) -> str:
    """Returns the name of a weight without the parts that wrappers add.

    Args:
        key: name of the weight; `.` or `/` separates its parts. The last part is never removed.

    Examples:
        >>> without_wrappers("module.backbone._checkpoint_wrapped_module.conv1.weight")
        'backbone.conv1.weight'
    """
    parts = re.findall(r"[^./]*[./]|[^./]+", key)
    return "".join(part for part in parts[:-1] if not WRAPPER.fullmatch(part[:-1])) + (parts[-1] if parts else "")


def unwrapped(module: Any) -> Any:
    """Returns the module inside wrappers such as torch.compile's and DataParallel's, or the module itself."""
    import torch

    while isinstance(module, torch.nn.Module):
        inside = next((inner for name, inner in module.named_children() if name in ATTRIBUTES), None)
        if inside is None or "info" in vars(module):
            break
        module = inside
    return module
