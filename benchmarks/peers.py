"""Briefly trains on CamVid the networks of other libraries (peers) that benchmarks/predict.py measures.

The networks are trained, because networks with random weights predict noise. Each network is a module of
segmentation-models-pytorch or torchvision with the initialisation of its library and 21 classes, of which CamVid has
eleven. After the last epoch, its masks of validation pictures must contain at least eight classes. The state after each
epoch is stored, so a second call continues where the first call was stopped.

    python benchmarks/peers.py --data PATH/TO/camvid --out FOLDER [--only NAME] [--epochs 12]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

CLASSES = 21
#: Smallest number of classes in a trained network's masks of the validation pictures.
PREDICTED = 8
PEERS = ("smp_v3plus_mobilenetv2", "smp_v3plus_resnet50", "torchvision_v3_resnet50")
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def main() -> None:
    """Trains the networks that are not trained yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the CamVid dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--only", choices=PEERS, action="append", help="network to train; all by default")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only or PEERS:
        train(name, options.data, options.out, options.epochs)


def build(name: str) -> Any:
    """Returns a peer's network with its initial weights."""
    import torch

    torch.manual_seed(0)
    if name == "torchvision_v3_resnet50":
        from torchvision.models.segmentation import deeplabv3_resnet50

        return deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES)
    import segmentation_models_pytorch as smp

    encoder = {"smp_v3plus_mobilenetv2": "mobilenet_v2", "smp_v3plus_resnet50": "resnet50"}[name]
    return smp.DeepLabV3Plus(encoder, encoder_weights=None, classes=CLASSES)


def logits(output: Any) -> Any:
    """Returns the full-size logits in a peer's output."""
    return output["out"] if isinstance(output, dict) else output


def load(name: str, folder: Path) -> Any:
    """Returns a trained peer in evaluation mode.

    Raises:
        FileNotFoundError: the peer is not trained yet.
    """
    import torch

    model = build(name)
    model.load_state_dict(torch.load(folder / f"{name}.pth", weights_only=True))
    return model.eval()


def train(name: str, data: Path, out: Path, epochs: int) -> None:
    """Trains one peer with AdamW, the poly schedule, bfloat16 and random crops of 192×192."""
    import torch
    from torch.nn import functional as F

    from atrous.data.open_dataset import open_dataset
    from atrous.data.transforms import Augment
    from atrous.learning.data_loader import AugmentedSamples, Loader
    from atrous.learning.epoch_sampler import EpochOrder

    if (out / f"{name}.pth").exists():
        return
    dataset = open_dataset(data)
    # With `focus`, crops contain thin and rare classes often enough to learn them in a few epochs.
    config = Augment((192, 192), scale=(0.4, 1.2), focus=0.7, brightness=0.3, contrast=0.3, saturation=0.3)
    items = dataset.splits["train"]
    samples = AugmentedSamples(dataset, items, config, channels=3, seed=0, fill=MEAN)
    order = EpochOrder(len(items), 8, seed=0)
    loader = Loader(samples, order, workers=0)
    weights = balanced(dataset)
    model = build(name).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    total, begun, partial = epochs * len(order), 0, out / f"{name}.part"
    if partial.exists():
        state = torch.load(partial, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begun = state["epoch"]
    found, last = list[int](), 0.0
    for epoch in range(begun, epochs):
        order.start(epoch)
        model.train()
        for step, batch in enumerate(loader):
            done = (epoch * len(order) + step) / total
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(1.0, 20 * done + 0.01) * (1 - done) ** 0.9
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = logits(model(normalized(batch.images)))
            loss = F.cross_entropy(output.float(), batch.labels.long(), weights, ignore_index=255)
            last = loss.item()
            assert math.isfinite(last), f"{name}: the loss is {last}"
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = classes_found(model, dataset)
        print(f"{name} epoch {epoch + 1}/{epochs}: loss {last:.3f}, {len(found)} classes {found}", flush=True)
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}, partial)
    assert len(found) >= PREDICTED, f"{name} predicts only {found}: give more epochs"
    torch.save(model.state_dict(), out / f"{name}.pth")
    partial.unlink()


def balanced(dataset: Any) -> Any:
    """Returns class weights, 1/√frequency, so that rare classes such as CamVid's poles and signs are learned."""
    import torch

    from atrous.data.statistics import class_pixels

    counts = torch.zeros(CLASSES)
    pixels = class_pixels(dataset, "train")
    counts[: len(pixels)] = torch.tensor(pixels, dtype=torch.float32)
    frequency = counts / counts.sum()
    return torch.where(frequency > 0, frequency.clamp(min=1e-4) ** -0.5, 1.0)


def normalized(images: Any) -> Any:
    """Normalises raw N×3×H×W pictures with ImageNet's mean and std, as the peers' encoders expect."""
    import torch

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)


def classes_found(model: Any, dataset: Any) -> list[int]:
    """Returns the classes with more than 0.1 % of the pixels in the masks of every tenth validation picture."""
    import torch
    from torch.nn import functional as F

    model.eval()
    counts = torch.zeros(CLASSES)
    for item in dataset.splits["val"][::10]:
        picture = torch.from_numpy(dataset.read(item).image).permute(2, 0, 1)[None].float()
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            mask = logits(model(normalized(F.interpolate(picture, (512, 512), mode="bilinear")))).argmax(1)
        counts += torch.bincount(mask.flatten(), minlength=CLASSES)
    return (counts > 1e-3 * counts.sum()).nonzero().flatten().tolist()


if __name__ == "__main__":
    main()
