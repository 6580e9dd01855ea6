"""What tiles change in a trained model's masks, and what a picture takes in memory; see docs/big-pictures.md.

python benchmarks/tiles.py MODEL 1441x1921 1024:256 PICTURE…     # each enlarged to that size, whole against tiles
python benchmarks/tiles.py MODEL 1024x1024                       # peak memory, predicted and measured
"""

from __future__ import annotations

import resource
import sys
from typing import Any

import numpy as np
import torch
from PIL import Image

import atrous
from atrous.inference.any_size import AnySize
from atrous.inference.memory import predict_bytes
from atrous.inference.prepare import SummedASPP
from atrous.models.aspp import ImagePooling


def difference(segmenter: atrous.Segmenter, image: np.ndarray, tile: int, overlap: int) -> tuple[float, float]:
    """Share of pixels that tiles change: as they run, and with image pooling pinned to the whole picture's."""
    kept: dict[torch.nn.Module, torch.Tensor] = {}
    pools = pooling_of(segmenter)
    tiled = AnySize(segmenter, tile=tile, overlap=overlap)
    recording = [pool.register_forward_hook(lambda _, __, out, p=pool: kept.update({p: out})) for pool in pools]
    whole = segmenter.segment(image)
    for hook in recording:
        hook.remove()
    free = float((tiled(image) != whole).mean())
    pinning = [pool.register_forward_hook(lambda _, __, out, p=pool: kept[p]) for pool in pools]
    pinned = float((tiled(image) != whole).mean())
    for hook in pinning:
        hook.remove()
    return free, pinned


def pooling_of(segmenter: atrous.Segmenter) -> list[torch.nn.Module]:
    """What pools over the picture in a network that torch runs."""
    runner: Any = segmenter._runner
    found = []
    for part in runner._pipeline.modules():
        found += [part.pooling] if isinstance(part, SummedASPP) else []
        found += [part.unit] if isinstance(part, ImagePooling) else []
    return found


def main(model: str, size: str, tiles: str = "", *pictures: str) -> None:
    segmenter = atrous.Segmenter(model, engine="torch", precision="float32")
    height, width = map(int, size.split("x"))
    if not tiles:
        segmenter.segment(np.zeros((height, width, len(segmenter.info.preprocessing.mean)), np.uint8))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"{size}: predicted {predict_bytes(segmenter.info, height, width) / 1e9:.2f}, peak {peak / 1e9:.2f} GB")
        return
    tile, overlap = map(int, tiles.split(":"))
    for path in pictures:
        picture = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        free, pinned = difference(segmenter, segmenter.prepare(np.asarray(picture)), tile, overlap)
        print(f"{path}: {free:.3%} of pixels differ, {pinned:.3%} with image pooling pinned", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
