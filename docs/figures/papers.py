"""Draws what the papers explain, by running this code: docs/images/atrous.png, rates.png and strides.png.

The network of the last is Google's MobileNetV2 DeepLabV3, whose file is not part of the project:

    python docs/figures/papers.py deeplabv3_257_mv_gpu.tflite
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image
from skimage import data
from torch import Tensor, nn

import atrous
from atrous.models.layers import Normalize

IMAGES = Path(__file__).parents[1] / "images"
INK, SOFT, NEW = "#1B1F24", "#8996A3", "#D08700"


def main() -> None:
    """Draws the three."""
    plt.rcParams.update({"font.size": 9, "axes.edgecolor": SOFT, "axes.titlesize": 10})
    draw_atrous()
    draw_rates()
    if len(sys.argv) > 1:
        draw_strides(Path(sys.argv[1]))


def seen_by(network: nn.Module, at: int, side: int = 33) -> np.ndarray:
    """How often each pixel counts for one output, by gradient, every weight being 1."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    picture = torch.zeros(1, 1, side, side, requires_grad=True)
    output = network(picture)
    output[0, 0, at * output.shape[2] // side, at * output.shape[3] // side].backward()
    assert picture.grad is not None
    return picture.grad[0, 0].numpy()


def layer(stride: int = 1, rate: int = 1) -> nn.Conv2d:
    """A 3×3 convolution of one channel."""
    return nn.Conv2d(1, 1, 3, stride, padding=rate, dilation=rate, bias=False)


def draw_atrous() -> None:
    """Two layers, the first with a stride; without it; and then with the second made atrous. Dots are outputs."""
    networks = (
        ("stride 2, then 3×3", nn.Sequential(layer(2), layer())),
        ("stride 1, then 3×3: sees less", nn.Sequential(layer(), layer())),
        (
            "stride 1, then 3×3 at rate 2:\nsees as much, four times as many outputs",
            nn.Sequential(layer(), layer(rate=2)),
        ),
    )
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.5), layout="constrained")
    for place, (title, network) in zip(axes, networks, strict=True):
        place.imshow(seen_by(network, 16) ** 0.5, cmap="YlOrBr", extent=(0, 33, 33, 0))
        stride = round(33 / network(torch.zeros(1, 1, 33, 33)).shape[2])
        x, y = np.meshgrid(*[np.arange(0, 33, stride) + 0.5] * 2)
        place.plot(x, y, ".", color=INK, markersize=3)
        place.set(title=title, xlim=(8, 25), ylim=(25, 8), xticks=[], yticks=[])
    figure.savefig(IMAGES / "atrous.png", dpi=130)


def draw_rates() -> None:
    """Which of a 3×3 convolution's nine weights meet the map at all, by rate, on 65×65 features (V3, figure 4)."""
    side, rates = 65, range(1, 98, 2)
    shares = {1: [], 4: [], 9: []}
    for rate in rates:
        met = nn.functional.conv2d(
            torch.ones(1, 1, side, side), torch.ones(1, 1, 3, 3), padding=rate, dilation=rate
        ).round()
        for count, values in shares.items():
            at_least = {1: met <= 3, 4: (met > 3) & (met <= 6), 9: met > 6}[count]
            values.append(float(at_least.float().mean()))
    figure, place = plt.subplots(figsize=(6, 3), layout="constrained")
    for (count, values), color in zip(shares.items(), (SOFT, "#3F7CAC", NEW), strict=True):
        place.plot(rates, values, color=color, label=f"{count} valid weight{'s' if count > 1 else ''}")
    for rate in (6, 12, 18):
        place.axvline(rate, color=INK, linewidth=0.6, linestyle=":")
    place.set(xlabel="atrous rate on a 65×65 map", ylabel="share of places", ylim=(0, 1.02), xlim=(1, 97))
    place.legend(frameon=False)
    place.spines[["top", "right"]].set_visible(False)
    figure.savefig(IMAGES / "rates.png", dpi=130)


def draw_strides(weights: Path) -> None:
    """One network's last features at output strides 32, 16 and 8, and the mask that each gives."""
    model = atrous.convert(weights, source="tensorflow").eval()
    picture = np.array(Image.fromarray(data.astronaut()[:400, 40:440]).resize((257, 257)))
    figure, rows = plt.subplots(2, 4, figsize=(8, 4.2), layout="constrained")
    for place in rows.flat:
        place.axis("off")
    rows[0, 0].imshow(picture)
    rows[0, 0].set_title("picture")
    for column, stride in enumerate((32, 16, 8), start=1):
        model.set_output_stride(stride)
        features, mask = features_and_mask(model, picture)
        rows[0, column].imshow(features, cmap="inferno")
        rows[0, column].set_title(f"output stride {stride}: {features.shape[0]}×{features.shape[1]}")
        shade(rows[1, column], picture, mask)
    figure.savefig(IMAGES / "strides.png", dpi=110)


def features_and_mask(model: nn.Module, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Length of the backbone's last features at each place, and the mask."""
    raw = torch.from_numpy(picture).permute(2, 0, 1)[None]
    images: Tensor = Normalize.of(model.info.preprocessing)(raw)  # pyright: ignore
    with torch.inference_mode():
        features = model.backbone(images).high  # pyright: ignore
        mask = model(images).argmax(1)[0]
    return features[0].norm(dim=0).numpy(), mask.numpy()


def shade(place: Axes, picture: np.ndarray, mask: np.ndarray) -> None:
    """The picture with all but the background coloured."""
    side = min(picture.shape[0], mask.shape[0])
    shown = picture[:side, :side].astype(float)
    shown[mask[:side, :side] > 0] = 0.45 * shown[mask[:side, :side] > 0] + 0.55 * np.array([208, 135, 0])
    place.imshow(shown.astype(np.uint8))


if __name__ == "__main__":
    main()
