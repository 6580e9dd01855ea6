"""Simplifies a copy of a network for inference: the copy computes the same function with fewer operations.

Each step is exact up to rounding. The model itself is not changed, so its modules still correspond to the paper.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from atrous.inference.pipeline import Pipeline
from atrous.models import SegmentationModel
from atrous.models.aspp import ASPP
from atrous.models.layers import live_taps

#: Side, in pixels, of the picture that is run once so that hooks find the layers to change.
WATCHED_SIDE = 65
#: Largest difference of a logit that is accepted as rounding, as a share of the largest logit.
ROUNDING = 1e-3


def simplified_pipeline(model: SegmentationModel) -> Pipeline:
    """Returns a pipeline from raw pictures to scores, with `simplified` and then `take_whole_numbers` applied.

    Args:
        model: model in any mode; it is not changed.
    """
    return take_whole_numbers(Pipeline(simplified(model)))


def simplified(model: SegmentationModel) -> SegmentationModel:
    """Returns a copy of a model that computes the same function with fewer operations.

    Batch norms are folded into the convolutions before them. The ASPP's branches are summed instead of concatenated,
    with image pooling as a bias. Kernel taps that a large atrous rate places outside a small map are left out.

    Args:
        model: model in any mode; it is not changed.

    Returns:
        A copy in evaluation mode, without gradients, on the same device.
    """
    prepared = copy.deepcopy(model).eval().requires_grad_(False)
    fold_norms(prepared)
    sum_branches(prepared)
    leave_out_taps(prepared)
    return prepared


def sum_branches(model: nn.Module) -> None:
    """Replaces, in place, each ASPP with a 1×1 projection by a `SummedASPP`; batch norms must be folded before."""
    for parent in list(model.modules()):
        for name, part in parent.named_children():
            if isinstance(part, ASPP) and part.project[0].kernel_size == (1, 1):
                setattr(parent, name, SummedASPP(part))


def leave_out_taps(model: nn.Module) -> None:
    """Replaces, in place, each atrous convolution by a `LiveConv`, which skips taps that lie outside the map."""
    for parent in list(model.modules()):
        for name, part in parent.named_children():
            if type(part) is nn.Conv2d and max(part.dilation) > 1 and not isinstance(part.padding, str):
                setattr(parent, name, LiveConv(part))


def take_whole_numbers(pipeline: Pipeline) -> Pipeline:
    """Subtracts only whole numbers from 8-bit pixels; the first convolutions compute the rest of the normalisation.

    The pixels minus the rounded mean are whole numbers. The weights are divided by the standard deviations, so the
    normalisation divides by 1. An additional channel of ones corrects the rounding of the mean. A bias cannot correct
    this rounding: padded pixels are 0, the normalised mean, and must contribute nothing, but a bias also acts on
    padding.

    The network computes the same function, but more exactly in bfloat16. bfloat16 represents whole numbers up to 256
    exactly, but it rounds pixels minus a fractional mean by up to half a level. This rounding caused most of the
    changes of masks by bfloat16 (docs/performance.md). For pixels of more than 8 bits, the exact mean is subtracted.

    Hooks in one forward pass find the convolutions that get the pictures.

    Args:
        pipeline: pipeline to copy; it is not changed.

    Returns:
        A changed copy; the given pipeline if the copy's scores differ, for example because a layer of another kind gets
        the pictures, too.
    """
    raw = _any_picture(pipeline)
    names, expected = _watch_pictures(pipeline, raw)
    changed = copy.deepcopy(pipeline)
    mean, std = changed.normalize.mean, changed.normalize.std
    whole = mean.round() if pipeline.model.info.preprocessing.dtype == "uint8" else mean
    rest = whole - mean
    for name in names:
        parent, _, child = name.rpartition(".")
        conv: Any = changed.get_submodule(name)
        conv.weight = nn.Parameter(conv.weight / std, False)
        if rest.any():
            setattr(changed.get_submodule(parent), child, WholeConv(conv, rest))
    changed.normalize.mean, changed.normalize.std = whole, torch.ones_like(std)
    with torch.inference_mode():
        difference = (changed(raw) - expected).abs().max()
    return changed if names and difference <= ROUNDING * expected.abs().max().clamp(min=1e-6) else pipeline


def _any_picture(pipeline: Pipeline) -> Tensor:
    """Returns 1×C×H×W noise around the mean.

    The noise comes from its own random generator, because validation during training calls this function and must not
    change the random numbers that dropout draws.
    """
    mean = pipeline.normalize.mean
    noise = torch.rand(1, mean.shape[1], WATCHED_SIDE, WATCHED_SIDE, generator=torch.Generator().manual_seed(0))
    return noise.to(mean.device) * mean.max() * 2


def _watch_pictures(pipeline: Pipeline, raw: Tensor) -> tuple[list[str], Tensor]:
    """Returns the names of the convolutions that get the normalised pictures, and the scores of the pictures."""
    seen: list[Any] = []
    first: set[nn.Module] = set()

    def before_conv(conv: nn.Module, given: tuple[Tensor, ...]) -> None:
        if given[0] is seen[-1]:
            first.add(conv)

    hooks = [pipeline.normalize.register_forward_hook(lambda _, __, images: seen.append(images))]
    hooks += [
        module.register_forward_pre_hook(before_conv)
        for module in pipeline.model.modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1 and "Std" not in type(module).__name__
    ]
    with torch.inference_mode():
        try:
            scores = pipeline(raw)
        finally:
            for hook in hooks:
                hook.remove()
    return [name for name, module in pipeline.named_modules() if module in first], scores


class WholeConv(nn.Module):
    """A first convolution that takes pixels minus a whole number, and appends a channel of ones to them.

    Args:
        conv: convolution that takes pixels minus their exact mean; it is changed and becomes a part of this module.
        rest: rounded mean minus exact mean of each channel, 1×C×1×1, −0.5 to 0.5.
    """

    def __init__(self, conv: nn.Conv2d, rest: Tensor) -> None:
        super().__init__()
        weight_of_ones = (conv.weight * rest).sum(1, keepdim=True)
        conv.weight = nn.Parameter(torch.cat([conv.weight, weight_of_ones], 1), False)
        conv.in_channels += 1
        self.conv = conv

    def forward(self, images: Tensor) -> Tensor:
        """Maps N×C×H×W pixels to N×C'×h×w features."""
        return self.conv(torch.cat([images, torch.ones_like(images[:, :1])], 1))


def fold_norms(model: SegmentationModel) -> None:
    """Folds batch norms, in place, into the convolutions before them.

    In evaluation mode, a batch norm only scales and shifts each channel, as a convolution's weight and bias can do.
    Hooks in one forward pass find the pairs of layers, so this works for any backbone.

    Args:
        model: model in evaluation mode; changed in place.
    """
    pairs = _watch(model)
    names = {module: name for name, module in model.named_modules()}
    for norm, conv in pairs.items():
        if names[norm] == "" or norm.running_mean is None:
            continue
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.weight, conv.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        parent, _, child = names[norm].rpartition(".")
        setattr(model.get_submodule(parent), child, _what_is_left(norm))


def _watch(model: SegmentationModel) -> dict[Any, Any]:
    """Returns, for each batch norm that can be folded, the convolution before it.

    A batch norm can be folded if its only input is the output of one convolution, and no other batch norm takes this
    output.
    """
    results: dict[int, nn.Module] = {}
    # keeps the tensors alive, so that their ids stay unique: Python gives the id of a freed tensor to a new tensor
    alive: list[Tensor] = []
    takers: defaultdict[nn.Module, set[nn.Module]] = defaultdict(set)
    givers: defaultdict[nn.Module, set[nn.Module | None]] = defaultdict(set)

    def after_conv(conv: nn.Module, _: Any, output: Tensor) -> None:
        results[id(output)] = conv
        alive.append(output)

    def before_norm(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        conv = results.get(id(given[0]))
        givers[norm].add(conv)
        if conv is not None:
            takers[conv].add(norm)

    hooks = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and "Std" not in type(module).__name__:  # StdConv standardises its weights
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    weight = next(model.parameters())
    picture = torch.zeros(1, model.backbone.in_channels, WATCHED_SIDE, WATCHED_SIDE)
    try:
        with torch.inference_mode():
            model.scores(picture.to(weight.device, weight.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    found = {}
    for norm, convs in givers.items():
        conv = next(iter(convs))
        if len(convs) == 1 and conv is not None and takers[conv] == {norm}:
            found[norm] = conv
    return found


def _what_is_left(norm: nn.Module) -> nn.Module:
    """Returns the layers that a batch norm's module applies after the normalisation: timm's dropout and activation."""
    parts = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
    parts = [part for part in parts if not isinstance(part, nn.Identity)]
    return nn.Sequential(*parts) if parts else nn.Identity()


class LiveConv(nn.Module):
    """An atrous convolution without the kernel taps that lie outside the map at every position.

    While a graph for another runtime is traced, all taps are used, because the graph takes pictures of any size.

    Args:
        conv: convolution with zero padding; it becomes a part of this module.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, features: Tensor) -> Tensor:
        """Maps N×C×h×w features to N×C'×h'×w' features."""
        conv = self.conv
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return conv(features)
        geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        (top, bottom), (left, right) = (
            live_taps(features.shape[2 + side], *(int(values[side]) for values in geometry)) for side in (0, 1)
        )
        weight = conv.weight[:, :, top:bottom, left:right]
        padding = int(conv.padding[0]) - top * conv.dilation[0], int(conv.padding[1]) - left * conv.dilation[1]
        return F.conv2d(features, weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)


class SummedASPP(nn.Module):
    """An ASPP that projects each branch by its slice of the projection's weight and adds the results.

    The result equals the projection of the concatenated branches. The pooled features are one vector for the whole map,
    so their projection is one vector, too, and is used as the bias.

    Args:
        aspp: ASPP with a 1×1 projection and folded batch norms; its layers become parts of this module.
    """

    def __init__(self, aspp: ASPP) -> None:
        super().__init__()
        self.branches = nn.ModuleList([aspp.point, *aspp.atrous])
        self.mean, self.pooling = aspp.image_pooling.mean, aspp.image_pooling.unit
        projection: Any = aspp.project[0]
        self.after = aspp.project[1:]
        channels = projection.out_channels
        *slices, pooled = projection.weight.split(channels, 1)
        self.slices = nn.ParameterList([nn.Parameter(part.contiguous(), False) for part in slices])
        self.pooled = nn.Parameter(pooled.contiguous(), False)
        self.bias = nn.Parameter(torch.zeros(channels) if projection.bias is None else projection.bias, False)

    def forward(self, features: Tensor) -> Tensor:
        """Maps N×C×h×w features to N×C'×h×w features."""
        total = F.conv2d(self.pooling(self.mean(features)), self.pooled, self.bias)
        for branch, weight in zip(self.branches, self.slices, strict=True):
            total = F.conv2d(branch(features), weight) + total
        return self.after(total)
