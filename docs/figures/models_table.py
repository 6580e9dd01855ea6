"""Computes the two tables of docs/models.md and writes them there: our models in numbers, and a comparison with others.

python docs/figures/models_table.py

Parameters and multiply-adds are counted on the meta device, where tensors have shapes but no memory. The receptive
field is measured, see `receptive_field`. The script takes about two minutes on one core.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atrous.models import SegmentationModel, build
from atrous.models.aspp import ImagePooling
from atrous.weights.smp import LAYOUTS as SMP
from atrous.weights.torchvision import MOBILENET, RESNET

PAGE = Path(__file__).parents[1] / "models.md"
SIDE = 513


@dataclass(frozen=True)
class Variant:
    """A row of the first table.

    Args:
        name: name of the model in the table.
        source: paper and section, or the file of the library's adapter.
        architecture: a key of `atrous.models.ARCHITECTURES`.
        arguments: arguments of its class, without num_classes, which is 21.
    """

    name: str
    source: str
    architecture: str
    arguments: dict[str, Any] = field(default_factory=dict)


def _v3(name: str, source: str, **arguments: Any) -> Variant:
    return Variant(name, source, "deeplabv3", arguments)


def _plus(name: str, source: str, **arguments: Any) -> Variant:
    return Variant(name, source, "deeplabv3plus", arguments)


LARGE_FOV = Variant("V1 LargeFOV, VGG-16", "1412.7062 §5, Table 2", "deeplabv1")
_OF_TORCHVISION = "`weights/torchvision.py`"
#: Arguments that torchvision's weights determine.
_PLAIN: dict[str, Any] = {"aspp_conv": True, "separable": False}
TORCHVISION_50 = _v3("torchvision's V3, ResNet-50", _OF_TORCHVISION, **RESNET, **_PLAIN, backbone="resnet50")
TORCHVISION_101 = _v3("torchvision's V3, ResNet-101", _OF_TORCHVISION, **RESNET, **_PLAIN, backbone="resnet101")
_MOBILE: dict[str, Any] = {"backbone": "mobilenetv3_large_100", "backbone_arguments": {"norm": (1e-3, 0.01)}}
TORCHVISION_MOBILE = _v3("torchvision's V3, MobileNetV3-L", _OF_TORCHVISION, **MOBILENET, **_PLAIN, **_MOBILE)
_SMP_50: dict[str, Any] = {"backbone": "resnet50", "dilation_rule": "full"}
#: smp's rates are 12, 24, 36 at any stride; in atrous, rates are given at output stride 16.
_SMP_RATES = {"atrous_rates": (6, 12, 18)}
SMP_V3 = _v3("smp's V3, ResNet-50", "`weights/smp.py`", **{**SMP["deeplabv3"], **_SMP_50, **_SMP_RATES})
SMP_PLUS = _plus("smp's V3+, ResNet-50", "`weights/smp.py`", **SMP["deeplabv3plus"], **_SMP_50)
VGG: dict[str, Any] = {"backbone": "vgg16", "scales": (1.0,)}
VARIANTS = (
    LARGE_FOV,
    Variant("V1 MSc-LargeFOV, VGG-16", "1412.7062 §4.3", "deeplabv1", {"multi_scale": True}),
    Variant("V2 ASPP-S, VGG-16", "1606.00915 §4.1", "deeplabv2", {**VGG, "atrous_rates": (2, 4, 8, 12)}),
    Variant("V2 ASPP-L, VGG-16", "1606.00915 §4.1", "deeplabv2", VGG),
    Variant("V2 ResNet-101, one scale", "1606.00915 §4.1", "deeplabv2", {"scales": (1.0,)}),
    Variant("V2 ResNet-101, scales 0.5, 0.75, 1", "1606.00915 §3.2", "deeplabv2"),
    _v3("V3 ResNet-50", "1706.05587 §3.3", backbone="resnet50"),
    _v3("V3 ResNet-50", "1706.05587 §3.3", backbone="resnet50", output_stride=8),
    _v3("V3 ResNet-101", "1706.05587 §3.3"),
    _v3("V3 ResNet-101", "1706.05587 §3.3", output_stride=8),
    _v3("V3 cascaded to block 7, ResNet-50", "1706.05587 §3.2", backbone="resnet50", cascade=3),
    _v3("V3 cascaded to block 7, ResNet-101", "1706.05587 §3.2", cascade=3),
    _v3("V3 cascaded to block 7, ResNet-101", "1706.05587 §3.2", cascade=3, output_stride=8),
    _plus("V3+ ResNet-101", "1802.02611 §4.2", backbone="resnet101"),
    _plus("V3+ ResNet-101", "1802.02611 §4.2", backbone="resnet101", output_stride=8),
    _plus("V3+ Xception-65", "1802.02611 §4.3", backbone="xception65"),
    _plus("V3+ Xception-65", "1802.02611 §4.3", backbone="xception65", output_stride=8),
    _plus("V3+ Xception-71", "1802.02611 §4.5", backbone="xception71"),
    _plus("V3+ Xception-71", "1802.02611 §4.5", backbone="xception71", output_stride=8),
    _plus("V3+ MobileNetV2", "1802.02611 §3, timm's network", backbone="mobilenetv2_100"),
    _plus("V3+ MobileNetV2", "1802.02611 §3, timm's network", backbone="mobilenetv2_100", output_stride=8),
    TORCHVISION_50,
    TORCHVISION_101,
    TORCHVISION_MOBILE,
    SMP_V3,
    SMP_PLUS,
)

#: timm's squeeze-and-excitation modules, which depend on the whole picture.
SQUEEZE = ("SqueezeExcite", "SEModule")


def meta(variant: Variant, **more: Any) -> SegmentationModel:
    """Creates the model on the meta device, in evaluation mode."""
    with torch.device("meta"):
        return build(variant.architecture, {**variant.arguments, **more}).eval()


def parameters(model: nn.Module) -> int:
    """Counts the weights, without running statistics."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: SegmentationModel, side: int = SIDE, *, padded: bool = False) -> float:
    """Counts the multiply-adds, in 10⁹, of the class scores of one side×side picture, in convolutions without biases.

    Norms, activations, pools and resizing are not counted. An auxiliary head is counted in training mode.

    Args:
        model: a model on the meta device.
        side: side of the picture, in pixels.
        padded: whether each map is enlarged to a multiple of the atrous rate of the convolution that computes it, as
            TensorFlow's SpaceToBatchND does.
    """
    total = 0

    def count(conv: nn.Conv2d, _: Any, out: Tensor) -> None:
        nonlocal total
        step = conv.dilation[0] if padded and conv.kernel_size[0] > 1 else 1
        height, width = (-(-size // step) * step for size in out.shape[-2:])
        total += height * width * conv.weight.numel()

    hooks = [part.register_forward_hook(count) for part in model.modules() if isinstance(part, nn.Conv2d)]
    with torch.no_grad():
        model.scores(torch.empty(1, model.backbone.in_channels, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    return total / 1e9


def as_tensorflow(variant: Variant) -> float:
    """Counts multiply-adds like the papers since V3, which describe Google's implementation.

    Maps are padded. In ResNets, the stride is in the last unit of a stage, not in the first unit of the next stage, so
    that three convolutions compute a smaller map.
    """
    model = meta(variant)
    return multiply_adds(model, padded=True) - _saved_by_striding_early(model.backbone.net) / 1e9


def _saved_by_striding_early(net: nn.Module) -> float:
    """Counts the multiply-adds that a ResNet saves if the stride is in the last unit of each stage."""
    stages: list[Any] = [getattr(net, f"layer{number}", None) for number in (1, 2, 3, 4)]
    saved, side = 0.0, (SIDE + 3) // 4
    for stage, after in pairwise(stages):
        if stage is None or after[0].conv2.stride == (1, 1):
            break
        smaller = (side + 1) // 2
        convs = (stage[-1].conv2, stage[-1].conv3, after[0].conv1)
        saved += (side**2 - smaller**2) * sum(conv.weight.numel() for conv in convs)
        side = smaller
    return saved


def score_stride(model: SegmentationModel) -> int:
    """Returns the distance between two class scores, in picture pixels."""
    with torch.no_grad():
        scores = model.scores(torch.empty(1, model.backbone.in_channels, SIDE, SIDE, device="meta"))["main"]
    return (SIDE - 1) // (scores.shape[-1] - 1)


def receptive_field(variant: Variant, width: int = 2049) -> int:
    """Measures the side of the square of picture pixels on which a class score depends.

    Every convolution gets one channel and weights of one, norms are removed, and modules that depend on the whole
    picture output zero. Then a score is positive exactly if a positive pixel is in its field. The test picture is 1
    from the left border to column t, and 0 elsewhere. The smallest t with a positive score is the field's left end; the
    right end is found in the same way. One row is enough, because zero padding leaves only the middle row of each
    kernel. A score between two feature pixels depends on more pixels than a score on one, so the widest of eight
    neighbours counts.

    Args:
        variant: the model.
        width: width of the first picture, 32k + 1; doubled while the field is wider.
    """
    model = _skeleton(meta(variant))
    columns = torch.arange(width)
    steps = torch.arange(8)

    def reaches(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            scores = model.scores(pixels[:, None, None].float())["main"]
        return scores[steps, 0, 0, scores.shape[-1] // 2 + steps] > 0

    def first(covers: Callable[[Tensor], Tensor]) -> Tensor:
        low, high = torch.full((8,), -1), torch.full((8,), width - 1)
        while bool((high - low > 1).any()):
            middle = (low + high) // 2
            hit = reaches(covers(middle))
            low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
        return high

    left = first(lambda t: columns <= t[:, None])
    right = width - 1 - first(lambda t: columns >= width - 1 - t[:, None])
    if int(left.min()) == 0 or int(right.max()) == width - 1:
        return receptive_field(variant, 2 * width - 1)
    return int((right - left).max()) + 1


def _skeleton(model: SegmentationModel) -> SegmentationModel:
    """Gives all layers one channel and weights of one, see `receptive_field`; changes the model in place."""
    for path, module in list(model.named_modules()):
        parent, _, name = path.rpartition(".")
        if isinstance(module, ImagePooling):
            module.forward = lambda features: torch.zeros_like(features)
        elif isinstance(module, nn.BatchNorm2d) or type(module).__name__ in SQUEEZE:
            model.get_submodule(parent).register_module(name, nn.Identity())
        elif isinstance(module, nn.Conv2d):
            module.weight = nn.Parameter(torch.ones(1, 1, *module.kernel_size))
            module.bias, module.groups = None, 1
            # The maps become one map before each convolution; outputs become 0 or 1, so that no number grows.
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].amax(1, keepdim=True),))
            module.register_forward_hook(lambda _, inputs, out: (out > 0).float())
    model.backbone.in_channels = 1
    return model.eval()


def rates(model: SegmentationModel) -> str:
    """Returns a text with the atrous rates other than 1 of the backbone, the blocks after it, and the head."""
    inside = _rates(model.backbone)
    parts = [f"backbone {_list(inside)}"] if inside else []
    cascade = getattr(model, "cascade", None)
    if cascade is not None:
        blocks = [_list(_rates(block, repeats=True)) for block in cascade.blocks]
        parts.append(f"blocks 5–7 {'; '.join(blocks)}")
    head = getattr(model, "head", None) or getattr(model, "aspp", None)
    if head is not None:
        name = "fc6" if hasattr(model, "head") else "ASPP"
        parts.append(f"{name} {_list(_rates(head))}")
    return ", ".join(parts)


def _rates(module: nn.Module, repeats: bool = False) -> list[int]:
    """Lists the atrous rates of the convolutions larger than 1×1; without `repeats`, each once and without rate 1."""
    larger = (part for part in module.modules() if isinstance(part, nn.Conv2d) and part.kernel_size[0] > 1)
    found = [conv.dilation[0] for conv in larger]
    return found if repeats else [rate for rate in dict.fromkeys(found) if rate > 1]


def _list(numbers: list[int]) -> str:
    return "/".join(map(str, numbers))


def models_table() -> str:
    """Returns the first table, with one row per variant."""
    heading = (
        "model",
        "output stride",
        "score spacing",
        "parameters",
        "multiply-adds",
        "FLOPs",
        "receptive field",
        "atrous rates",
        "source",
    )
    rows = []
    for variant in VARIANTS:
        model = meta(variant)
        adds = multiply_adds(model)
        rows.append(
            (
                variant.name,
                str(model.backbone.output_stride),
                f"{score_stride(model)} px",
                f"{parameters(model) / 1e6:.2f} M",
                f"{adds:.1f} G",
                f"{2 * adds:.1f} G",
                f"{receptive_field(variant)} px",
                rates(model),
                variant.source,
            )
        )
    return _table(heading, rows, right=(1, 2, 3, 4, 5, 6))


@dataclass(frozen=True)
class Stated:
    """A row of the second table: a figure of a paper or a library, and how the same figure is computed for our model.

    Args:
        what: name of the model.
        where: place where the figure is stated.
        figure: the stated figure.
        variant: our model.
        count: function that computes the same figure for our model.
        how: the way in which the source counts.
    """

    what: str
    where: str
    figure: str
    variant: Variant
    count: Callable[[Variant], str]
    how: str = ""


def _millions(variant: Variant) -> str:
    return f"{parameters(meta(variant)) / 1e6:.2f} M"


def _with_auxiliary(variant: Variant) -> str:
    return f"{parameters(meta(variant, auxiliary=True)):,}"


def _without(variant: Variant) -> str:
    return f"{parameters(meta(variant)):,}"


def _exact(variant: Variant) -> str:
    return f"{multiply_adds(meta(variant)):.2f} G"


def _tensorflow(variant: Variant) -> str:
    return f"{as_tensorflow(variant):.2f} G"


def _at_520(variant: Variant) -> str:
    return f"{multiply_adds(meta(variant), 520):.3f} G"


def _at_520_with_auxiliary(variant: Variant) -> str:
    return f"{multiply_adds(meta(variant, auxiliary=True).train(), 520):.3f} G"


_STEM = {"backbone": "resnet101s", "dilation_rule": "full"}
_GRID = {**_STEM, "multi_grid": (1, 2, 4)}
_X65 = {"backbone": "xception65"}
_MOBILE = {"backbone": "google_mobilenetv2_100", "separable": False}
_MOBILE_2 = {**_MOBILE, "atrous_rates": ()}
V1_2, MOBILE_7 = "1412.7062 Table 2", "1801.04381 Table 7"
PLUS_3, PLUS_5 = "1802.02611 Table 3", "1802.02611 Table 5"
META, PADDED, EARLY = "its metadata", "padded maps", "padded maps, early strides"
WITH = "with its auxiliary head"
R101, PLUS_R101 = "V3 ResNet-101, Google's stem", "V3+ ResNet-101, Google's stem"

STATED = (
    Stated("V1 LargeFOV", V1_2, "20.5 M", LARGE_FOV, _millions),
    Stated(R101, MOBILE_7, "58.16 M", _v3("", "", **_STEM), _millions),
    Stated(f"{R101}, output stride 16", PLUS_3, "81.02 G", _v3("", "", **_STEM), _tensorflow, EARLY),
    Stated(f"{R101}, output stride 8", PLUS_3, "276.18 G", _v3("", "", **_STEM, output_stride=8), _tensorflow, EARLY),
    Stated(f"{PLUS_R101}, output stride 16", PLUS_3, "101.28 G", _plus("", "", **_GRID), _tensorflow, EARLY),
    Stated(
        f"{PLUS_R101}, output stride 8", PLUS_3, "297.92 G", _plus("", "", **_GRID, output_stride=8), _tensorflow, EARLY
    ),
    Stated("V3 Xception-65, plain 3×3", PLUS_5, "68.00 G", _v3("", "", **_X65, separable=False), _tensorflow, PADDED),
    Stated(
        "V3+ Xception-65, plain 3×3", PLUS_5, "89.76 G", _plus("", "", **_X65, separable=False), _tensorflow, PADDED
    ),
    Stated("V3+ Xception-65, output stride 16", PLUS_5, "54.17 G", _plus("", "", **_X65), _tensorflow, PADDED),
    Stated(
        "V3+ Xception-65, output stride 8",
        PLUS_5,
        "177.10 G",
        _plus("", "", **_X65, output_stride=8),
        _tensorflow,
        PADDED,
    ),
    Stated("V3 MobileNetV2", MOBILE_7, "4.52 M", _v3("", "", **_MOBILE), _millions),
    Stated("V3 MobileNetV2", MOBILE_7, "5.8 G", _v3("", "", **_MOBILE), _tensorflow, PADDED),
    Stated("V3 MobileNetV2, no atrous branches", MOBILE_7, "2.11 M", _v3("", "", **_MOBILE_2), _millions),
    Stated("V3 MobileNetV2, no atrous branches", MOBILE_7, "2.75 G", _v3("", "", **_MOBILE_2), _tensorflow, PADDED),
    Stated("torchvision's V3, ResNet-50", META, "42,004,074", TORCHVISION_50, _with_auxiliary, WITH),
    Stated(
        "torchvision's V3, ResNet-50", META, "178.722 G", TORCHVISION_50, _at_520_with_auxiliary, f"{WITH}, 520×520"
    ),
    Stated("torchvision's V3, ResNet-101", META, "60,996,202", TORCHVISION_101, _with_auxiliary, WITH),
    Stated(
        "torchvision's V3, ResNet-101", META, "258.743 G", TORCHVISION_101, _at_520_with_auxiliary, f"{WITH}, 520×520"
    ),
    Stated("torchvision's V3, MobileNetV3-L", META, "11,029,328", TORCHVISION_MOBILE, _without, WITH),
    Stated("torchvision's V3, MobileNetV3-L", META, "10.452 G", TORCHVISION_MOBILE, _at_520, f"{WITH}, 520×520"),
)


def stated_table() -> str:
    """Returns the second table, with stated figures and ours."""
    heading = (
        "model",
        "source",
        "how the source counts",
        "stated",
        "ours, counted the same way",
        "ours, as in the first table",
    )
    rows = []
    for row in STATED:
        plain = _exact(row.variant) if row.figure.endswith("G") else _millions(row.variant)
        rows.append((row.what, row.where, row.how, row.figure, row.count(row.variant), plain))
    return _table(heading, rows, right=(3, 4, 5))


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]], right: tuple[int, ...]) -> str:
    rule = ["---:" if column in right else "---" for column in range(len(heading))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heading, tuple(rule), *rows))


def write(page: Path = PAGE) -> None:
    """Writes the tables between their markers; the rest of the page does not change."""
    text = page.read_text(encoding="utf-8")
    for name, table in (("models", models_table()), ("stated", stated_table())):
        begin, end = f"<!-- {name}: begin", f"<!-- {name}: end -->"
        pattern = rf"({re.escape(begin)}[^\n]*-->\n).*?({re.escape(end)})"
        text, count = re.subn(
            pattern, lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text, flags=re.DOTALL
        )
        if count != 1:
            raise SystemExit(f"{page} has no pair of lines '{begin} … -->' and '{end}'.")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
