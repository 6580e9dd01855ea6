"""A network's own algebra: the same function with less work, for inference only.

Each step is exact up to rounding, and none shows in a paper's file: a copy of the model is rewritten.
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

#: Side of the picture on which the network is watched.
WATCHED_SIDE = 65
#: The largest difference of a logit, in units of the largest logit, that rounding may make.
ROUNDING = 1e-3


def simplified_pipeline(model: SegmentationModel) -> Pipeline:
    """Raw pictures to scores with less work, and less rounding: `simplified`, and then `take_whole_numbers`.

    Args:
        model: in any mode; left as it is.
    """
    return take_whole_numbers(Pipeline(simplified(model)))


def simplified(model: SegmentationModel) -> SegmentationModel:
    """A copy of a model that computes the same with less work.

    Batch norms are folded into the convolutions before them; the ASPP's branches are summed instead of concatenated,
    with image pooling as a bias; and taps that a wide rate sets outside a small map are left out.

    Args:
        model: in any mode; left as it is.

    Returns:
        Its copy in evaluation mode, without gradients, on the same device.
    """
    prepared = copy.deepcopy(model).eval().requires_grad_(False)
    fold_norms(prepared)
    sum_branches(prepared)
    leave_out_taps(prepared)
    return prepared


def sum_branches(model: nn.Module) -> None:
    """Has each ASPP whose projection is 1×1 sum its branches, in place; its norms are folded already."""
    for parent in list(model.modules()):
        for name, part in parent.named_children():
            if isinstance(part, ASPP) and part.project[0].kernel_size == (1, 1):
                setattr(parent, name, SummedASPP(part))


def leave_out_taps(model: nn.Module) -> None:
    """Has each atrous convolution compute only with the taps that meet the map, in place."""
    for parent in list(model.modules()):
        for name, part in parent.named_children():
            if type(part) is nn.Conv2d and max(part.dilation) > 1 and not isinstance(part.padding, str):
                setattr(parent, name, LiveConv(part))


def take_whole_numbers(pipeline: Pipeline) -> Pipeline:
    """Has the first convolutions get pixels less a whole number; their weights do the rest of normalising.

    Means are rounded, and standard deviations are 1, for which the weights are divided by them. What the rounding left
    is a channel of ones: zeros around the map stand for the mean, and would not if it were a bias. It is the same
    function; but bfloat16 holds whole numbers up to 256 exactly, and pixels less a fraction to half a level only, which
    was most of what it changed in masks (docs/performance.md).

    Which convolutions get the pictures is seen by watching one pass.

    Args:
        pipeline: left as it is.

    Returns:
        Another; the same one where something else gets the pictures too.
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
    """1×C×H×W of noise around the mean, by a generator of its own: trainings validate, and their dropout draws too."""
    mean = pipeline.normalize.mean
    noise = torch.rand(1, mean.shape[1], WATCHED_SIDE, WATCHED_SIDE, generator=torch.Generator().manual_seed(0))
    return noise.to(mean.device) * mean.max() * 2


def _watch_pictures(pipeline: Pipeline, raw: Tensor) -> tuple[list[str], Tensor]:
    """The names of the convolutions that get normalised pictures, and the scores."""
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
    """A first convolution that gets pixels less a whole number, and adds a channel of ones to them.

    Args:
        conv: on pixels less their mean; it is taken over.
        rest: what is subtracted too much of each channel now, less than 1, 1×C×1×1.
    """

    def __init__(self, conv: nn.Conv2d, rest: Tensor) -> None:
        super().__init__()
        weight_of_ones = (conv.weight * rest).sum(1, keepdim=True)
        conv.weight = nn.Parameter(torch.cat([conv.weight, weight_of_ones], 1), False)
        conv.in_channels += 1
        self.conv = conv

    def forward(self, images: Tensor) -> Tensor:
        """N×C×H×W → N×channels×h×w."""
        return self.conv(torch.cat([images, torch.ones_like(images[:, :1])], 1))


def fold_norms(model: SegmentationModel) -> None:
    """Folds batch norms into the convolutions whose results they get, in place (both are affine per channel).

    Which belong together is seen by watching one picture pass through, so it holds for any backbone.
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
    """Batch norms and the convolution whose result, and nothing else, each one gets."""
    results: dict[int, nn.Module] = {}
    alive: list[Tensor] = []  # a freed tensor's identity would be another's
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
        if isinstance(module, nn.Conv2d) and "Std" not in type(module).__name__:  # those change their weights
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
    """What a batch norm does beside normalising: timm's hold the activation after them."""
    parts = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
    parts = [part for part in parts if not isinstance(part, nn.Identity)]
    return nn.Sequential(*parts) if parts else nn.Identity()


class LiveConv(nn.Module):
    """An atrous convolution without the taps that lie outside the map wherever the kernel stands.

    Graphs for other runtimes take pictures of any size, so while one is traced the convolution is whole.

    Args:
        conv: taken over, with zeros around the map.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, features: Tensor) -> Tensor:
        """N×C×h×w → N×C'×h'×w'."""
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
    """An ASPP whose projection is a sum: of each branch by its own slice, and of image pooling as a bias.

    Concatenating and projecting is projecting each and summing; pooled features are one vector for the whole map, so
    their projection is too.

    Args:
        aspp: with a 1×1 projection, its norm folded; its parts are taken over.
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
        """N×C×h×w → N×channels×h×w."""
        total = F.conv2d(self.pooling(self.mean(features)), self.pooled, self.bias)
        for branch, weight in zip(self.branches, self.slices, strict=True):
            total = F.conv2d(branch(features), weight) + total
        return self.after(total)
