"""Activation checkpointing: training with less memory, because blocks are recomputed in the backward pass.

Plain training stores the input of every layer until the layer's gradient is computed. The large feature maps of the
first blocks take most of this memory. With checkpointing, only the input of each block is stored, and the inputs of its
layers are recomputed (arXiv:1604.06174, with blocks as segments). Batch norms do not update their running statistics in
the recomputation. So gradients, weights and statistics are the same as in plain training.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from atrous.learning.depthwise_backward import FastDepthwise
from atrous.models import SegmentationModel
from atrous.models.layers import is_batch_norm

#: Parts of the heads that are recomputed like the backbone's blocks; not every architecture has all of them.
HEADS = ("decoder", "aspp", "aspp_conv", "head")


def recompute_blocks(model: SegmentationModel, replaced: Collection[str] = ()) -> int:
    """Makes a model recompute the blocks of its backbone and the parts of its head in the backward pass.

    Args:
        model: model to change in place; in evaluation mode, nothing is recomputed.
        replaced: names of frozen weights that `functional_call` replaces by tensors of equal values with a gradient, as
            `LowRank.scores` does. It replaces them only in the forward pass. In the recomputation, the weights
            themselves need a gradient, so that the same tensors are stored; the gradient flows as in the forward pass.

    Returns:
        The number of recomputed blocks.
    """
    blocks, weights = _blocks(model), [model.get_parameter(name) for name in replaced]
    for block in blocks:
        own = {id(one) for one in block.parameters()}
        block.forward = partial(_checkpointed, block, block.forward, [one for one in weights if id(one) in own])
    return len(blocks)


def _blocks(model: SegmentationModel) -> list[nn.Module]:
    """Returns the backbone's blocks (innermost elements of nested sequences), its max pools, and the head's parts."""
    children = list(model.backbone.net.children())
    found = [block for child in children for block in _elements(child) if block is not child]
    found += [part for name in HEADS if isinstance(part := getattr(model, name, None), nn.Module)]
    found = [block for block in found if any(True for _ in block.parameters())]
    # Max pools are recomputed, too, because they store an index of 8 bytes for each output position.
    return found + [child for child in children if isinstance(child, nn.MaxPool2d)]


def _elements(module: nn.Module) -> Iterator[nn.Module]:
    """Yields the innermost elements of nested sequences; yields the module itself if it is not a sequence."""
    inner = module if isinstance(module, nn.Sequential | nn.ModuleList) else getattr(module, "blocks", None)
    if not isinstance(inner, nn.Sequential | nn.ModuleList):  # ConvNeXt's stages have `.blocks`
        yield module
        return
    for child in inner.children():
        yield from _elements(child)


def _checkpointed(block: nn.Module, forward: Callable[..., Any], replaced: Sequence[nn.Parameter], *inputs: Any) -> Any:
    """Runs the forward method of a block; in training, stores only its inputs."""
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs)
    return checkpoint(
        forward,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=any(isinstance(module, nn.Dropout) for module in block.modules()),
        context_fn=lambda: (nullcontext(), _recomputing(block, replaced)),
    )


@contextmanager
def _recomputing(block: nn.Module, replaced: Sequence[nn.Parameter]) -> Iterator[None]:
    """Context of the recomputation: fast depthwise convolutions, and batch norms that do not update statistics.

    Args:
        block: block that is recomputed.
        replaced: weights of the block that need a gradient during the recomputation, see `recompute_blocks`.
    """
    for weight in replaced:
        weight.requires_grad_(True)
    norms: list[Any] = [module for module in block.modules() if is_batch_norm(module) and module.training]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        with FastDepthwise():
            yield
    finally:
        for weight in replaced:
            weight.requires_grad_(False)
        # torch ends the recomputation with an exception as soon as it has all tensors that it needs
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(tracked)
