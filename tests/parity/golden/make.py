"""Makes this folder's goldens from the foreign projects' own code: `make.py vainf|kazuto1011|mmseg FOLDER`.

FOLDER is a checkout of VainF/DeepLabV3Plus-Pytorch (made with 4e1087d) or kazuto1011/deeplab-pytorch (4219467), or a
folder into which mmsegmentation 1.2.2, mmcv-lite 2.1.0 and mmengine were installed with `pip install --target`.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1]))
import seeded

#: An odd picture, one of 32k + 1 so long that the largest atrous rates reach from end to end, an even one.
SIZES = [(75, 101), (33, 481), (96, 130)]

#: Gains of norms in VainF's MobileNetV2, without which no value would reach the 6 of its ReLU6.
CLIPPED = {
    "mobilenet": {
        "backbone.low_level_features.2.conv.0.1.weight": 4.0,
        "backbone.high_level_features.10.conv.1.1.weight": 4.0,
    }
}

IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}


def main() -> None:
    """Makes every golden of one project."""
    project, folder = sys.argv[1:]
    torch.set_num_threads(1)
    sys.path.append(folder)
    for name, model, about in {"vainf": vainf, "kazuto1011": kazuto1011, "mmseg": mmseg}[project]():
        make(f"{project}_{name}", model, **about)


def make(
    name: str,
    model: nn.Module,
    *,
    classifier: str,
    mean: list[float],
    std: list[float],
    means: list[str] | None,
    gains: dict[str, float] | None = None,
    predict: Callable[[nn.Module, Tensor], Tensor] = lambda model, images: model(images),
    train: Callable[[nn.Module, Tensor], Any] = lambda model, images: model(images),
) -> None:
    """Writes one golden.

    Args:
        name: of its files.
        model: the foreign network.
        classifier: parts of the keys of the weights that make the logits; their gain brings the logits to order one.
        mean: taken off each RGB channel.
        std: divided by.
        means: keys of batch norms whose running means are kept; None writes keys and shapes only.
        gains: further factors on drawn weights.
        predict: normalised RGB pictures → logits at the picture's size.
        train: a step of training.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    about = {"shapes": shapes}
    if means is not None:
        last = [key for key in shapes if classifier in key and key.endswith("weight")]
        gains = dict(gains or {}) | dict.fromkeys(last, 1.0)
        about |= {"mean": mean, "std": std, "sizes": SIZES, "gains": gains}
        golden = seeded.Golden(name, shapes, gains, tuple(mean), tuple(std), SIZES, {})
        with torch.no_grad():
            model.load_state_dict(golden.state())
            spread = predict(model.eval(), golden.pictures(SIZES[1])).std().item()
            gains.update(dict.fromkeys(last, float(f"{1 / spread:.2g}")))
            model.load_state_dict(golden.state())
            for height, width in SIZES:
                some, whole = seeded.summary(predict(model, golden.pictures((height, width))))
                golden.facts[f"logits_{height}x{width}"], golden.facts[f"means_{height}x{width}"] = some, whole
            train(seeded.without_chance(model).train(), golden.pictures(SIZES[0], 2))
        trained = model.state_dict()
        golden.facts.update({f"{key}.running_mean": trained[f"{key}.running_mean"].numpy() for key in means})
        np.savez_compressed(seeded.FOLDER / f"{name}.npz", **golden.facts)
        print(name, "spread was", spread, "std", [golden.facts[f"logits_{h}x{w}"].std() for h, w in SIZES])
    lines = json.dumps(about).replace('], "', '],\n"').replace('{"', '{\n"')
    (seeded.FOLDER / f"{name}.json").write_text(lines + "\n", encoding="utf-8")


def vainf() -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
    """network.modeling, as main.py sets it up."""
    from network import convert_to_separable_conv, modeling  # pyright: ignore

    norms = {
        "resnet50": ["backbone.bn1", "backbone.layer2.0.bn1", "backbone.layer4.2.bn3"],
        "mobilenet": [
            "backbone.low_level_features.0.1",
            "backbone.low_level_features.3.conv.0.1",
            "backbone.high_level_features.7.conv.0.1",
            "backbone.high_level_features.17.conv.1.1",
        ],
    }
    head = {
        "deeplabv3": [
            "classifier.classifier.0.convs.2.1",
            "classifier.classifier.0.convs.4.2",
            "classifier.classifier.2",
        ],
        "deeplabv3plus": ["classifier.aspp.convs.4.2", "classifier.project.1", "classifier.classifier.1"],
    }
    for paper, backbone, stride, separable in (
        ("deeplabv3", "resnet50", 16, False),
        ("deeplabv3plus", "resnet50", 8, True),
        ("deeplabv3", "mobilenet", 8, False),
        ("deeplabv3plus", "mobilenet", 16, False),
        ("deeplabv3plus", "resnet101", 16, False),
    ):
        model = getattr(modeling, f"{paper}_{backbone}")(
            num_classes=21, output_stride=stride, pretrained_backbone=False
        )
        if separable:
            convert_to_separable_conv(model.classifier)
        for module in model.backbone.modules():  # utils.set_bn_momentum(model.backbone, momentum=0.01)
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.01
        means = [*norms[backbone], *head[paper]] if backbone in norms else None
        classifier = "classifier.classifier.3." if paper == "deeplabv3plus" else "classifier.classifier.4."
        name = f"{paper}_{backbone}" + ("_separable" if separable else "")
        yield name, model, {"classifier": classifier, "means": means, "gains": CLIPPED.get(backbone), **IMAGENET}


def kazuto1011() -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
    """libs.models.DeepLabV2_ResNet101_MSC, as main.py and demo.py use it; its pictures are BGR."""
    from libs.models import DeepLabV2_ResNet101_MSC  # pyright: ignore

    def predict(model: nn.Module, images: Tensor) -> Tensor:
        logits = model(images.flip(1))
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)

    yield (
        "deeplabv2_resnet101",
        DeepLabV2_ResNet101_MSC(n_classes=21),
        {
            "classifier": "base.aspp.",
            "means": [
                "base.layer1.conv1.bn",
                "base.layer3.block1.shortcut.bn",
                "base.layer4.block1.conv3x3.bn",
                "base.layer5.block3.increase.bn",
            ],
            "gains": {"base.layer1.conv1.conv.weight": 1 / 64},  # its pictures are in 0–255
            "mean": [122.675, 116.669, 104.008],
            "std": [1.0, 1.0, 1.0],
            "predict": predict,
            "train": lambda model, images: model(images.flip(1)),
        },
    )


def mmseg() -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
    """EncoderDecoders from mmseg's own configurations; batch norm instead of its synchronised twin."""
    # mmcv-lite has no compiled operators, and the names that mmseg imports from them are none that DeepLab uses.
    extension = types.ModuleType("mmcv._ext")
    extension.__getattr__ = lambda name: None  # pyright: ignore
    sys.modules["mmcv._ext"] = extension
    from mmengine.config import Config  # pyright: ignore
    from mmseg.registry import MODELS  # pyright: ignore
    from mmseg.utils import register_all_modules  # pyright: ignore

    register_all_modules()
    folder = Path(sys.argv[2]) / "mmseg/.mim/configs"
    for name, config, changes in (
        ("deeplabv3_r18-d8", "deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py", {}),
        ("deeplabv3_r18-d8_769", "deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-769x769.py", {}),
        ("deeplabv3plus_r18b-d8", "deeplabv3plus/deeplabv3plus_r18b-d8_4xb2-80k_cityscapes-512x1024.py", {}),
        ("deeplabv3plus_r50-d8", "deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py", {}),
        (
            "deeplabv3plus_r50-d16-mg124",
            "deeplabv3plus/deeplabv3plus_r101-d16-mg124_4xb2-40k_cityscapes-512x1024.py",
            {"backbone": {"depth": 50}},
        ),
        ("deeplabv3_r101-d8", "deeplabv3/deeplabv3_r101-d8_4xb2-40k_cityscapes-512x1024.py", None),
        ("deeplabv3plus_r101b-d8", "deeplabv3plus/deeplabv3plus_r101b-d8_4xb2-80k_cityscapes-512x1024.py", None),
    ):
        model = Config.fromfile(str(folder / config)).model
        model.pretrained = None
        for part in ("backbone", "decode_head", "auxiliary_head"):
            model[part].norm_cfg.type = "BN"
            model[part].update((changes or {}).get(part, {}))
        model.decode_head.pop("sampler", None)
        first = "backbone.bn1" if "b-d8" in name else "backbone.stem.4"
        plus = "plus" in name
        means = [
            first,
            "backbone.layer3.0.bn1",
            "backbone.layer4.1.bn2",
            "decode_head.image_pool.1.bn",
            "decode_head.aspp_modules.2." + ("depthwise_conv.bn" if plus else "bn"),
            "decode_head.bottleneck.bn",
            "auxiliary_head.convs.0.bn",
        ]
        means += ["decode_head.c1_bottleneck.bn", "decode_head.sep_bottleneck.1.pointwise_conv.bn"] if plus else []
        yield (
            name,
            MODELS.build(model),
            {
                "classifier": "conv_seg.",
                "means": None if changes is None else means,
                "predict": lambda model, images: model.encode_decode(
                    images, [{"img_shape": images.shape[-2:]}] * len(images)
                ),
                "train": _both_heads,
                **IMAGENET,
            },
        )


def _both_heads(model: Any, images: Tensor) -> None:
    features = model.extract_feat(images)
    model.decode_head(features)
    model.auxiliary_head(features)


if __name__ == "__main__":
    main()
