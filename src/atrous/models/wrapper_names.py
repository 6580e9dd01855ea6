"""What training tools wrap around networks and parts of them, and the words that this leaves in the names of weights.

DataParallel, FSDP, torch.compile, activation checkpointing, DeepSpeed and averaging each put a module around another
and so a word into every name below it. No network of this field has a part of such a name, so they are dropped wherever
they stand.
"""

from __future__ import annotations

import re
from typing import Any

#: `module` (DataParallel, averages), `_orig_mod` (torch.compile), `_fsdp_wrapped_module`, `_checkpoint_wrapped_module`,
#: `_forward_module` (Lightning), `_ddp` and whatever else is named in this way.
WRAPPER = re.compile(r"module|_ddp|_\w*(?:module|mod|model)|\w*wrapp(?:ed|er)\w*")

#: Attributes under which a wrapping module keeps what it wraps.
ATTRIBUTES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module")


def without_wrappers(key: str) -> str:
    """The name of a weight without the words that wrappers put into it.

    Args:
        key: parts separated by `.` or `/`, the last of which is the weight's own and stays.

    Examples:
        >>> without_wrappers("module.backbone._checkpoint_wrapped_module.conv1.weight")
        'backbone.conv1.weight'
    """
    parts = re.findall(r"[^./]*[./]|[^./]+", key)
    return "".join(part for part in parts[:-1] if not WRAPPER.fullmatch(part[:-1])) + (parts[-1] if parts else "")


def unwrapped(module: Any) -> Any:
    """The module inside torch.compile's, DataParallel's and similar ones; another as it is."""
    import torch

    while isinstance(module, torch.nn.Module):
        inside = next((inner for name, inner in module.named_children() if name in ATTRIBUTES), None)
        if inside is None or "info" in vars(module):
            break
        module = inside
    return module
