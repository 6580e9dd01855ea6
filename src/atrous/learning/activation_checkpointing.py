"""Less memory for training: the inside of blocks is forgotten and computed again in the backward pass.

Training keeps every layer's input until its gradient is known, and most of it lies in the large maps of the first
blocks. Here only what goes into a block is kept; the rest is computed once more (arXiv:1604.06174, with blocks as
segments). Batch norms update their statistics once all the same, so gradients and weights are those of plain training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from atrous.learning.depthwise_backward import FastDepthwise
from atrous.models import SegmentationModel
from atrous.models.layers import is_batch_norm

#: Parts of our models that are as large as a backbone's blocks, where a paper has them.
HEADS = ("decoder", "aspp", "aspp_conv", "head")


def recompute_blocks(model: SegmentationModel) -> int:
    """Has every block of the backbone, and the head's parts, computed again in the backward pass.

    Args:
        model: changed in place; outside training it is as before.

    Returns:
        The number of blocks.
    """
    blocks = _blocks(model)
    for block in blocks:
        block.forward = partial(_forgetful, block, block.forward)
    return len(blocks)


def _blocks(model: SegmentationModel) -> list[nn.Module]:
    """The residual blocks, found as the last level of nested sequences, and the parts of the head."""
    children = list(model.backbone.net.children())
    found = [block for child in children for block in _elements(child) if block is not child]
    found += [part for name in HEADS if isinstance(part := getattr(model, name, None), nn.Module)]
    found = [block for block in found if any(True for _ in block.parameters())]
    return found + [child for child in children if isinstance(child, nn.MaxPool2d)]  # eight bytes for each place kept


def _elements(module: nn.Module) -> Iterator[nn.Module]:
    inner = module if isinstance(module, nn.Sequential | nn.ModuleList) else getattr(module, "blocks", None)
    if not isinstance(inner, nn.Sequential | nn.ModuleList):  # ConvNeXt's stages have `.blocks`
        yield module
        return
    for child in inner.children():
        yield from _elements(child)


def _forgetful(block: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs)
    return checkpoint(
        forward,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=any(isinstance(module, nn.Dropout) for module in block.modules()),
        context_fn=lambda: (nullcontext(), _once_more(block)),
    )


@contextmanager
def _once_more(block: nn.Module) -> Iterator[None]:
    """What the second computation needs: the fast depthwise convolutions, and norms that do not count it."""
    norms: list[Any] = [module for module in block.modules() if is_batch_norm(module) and module.training]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        with FastDepthwise():
            yield
    finally:  # torch leaves by an exception as soon as it has what it needs
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(tracked)
