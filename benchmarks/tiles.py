"""Measures how tiles change a trained model's masks, and the memory for a picture; see docs/big-pictures.md.

python benchmarks/tiles.py MODEL 1441x1921 1024:256 PICTURE…     # resizes each picture, segments it whole and in tiles
python benchmarks/tiles.py MODEL 1024x1024                       # peak memory, predicted and measured
"""

from __future__ import annotations

import sys

import numpy as np
from peak_memory import peak_of_process
from PIL import Image

import atrous
from atrous.inference.memory_estimate import predict_bytes
from atrous.inference.whole_or_tiled import AnySize


def difference(segmenter: atrous.Segmenter, image: np.ndarray, tile: int, overlap: int) -> tuple[float, float]:
    """Returns two shares of pixels that tiles change: with the usual image pooling, and with pooling over each tile."""
    network, mask = segmenter.whole, segmenter.segment(image)
    tiled, pools, shares = AnySize(network, tile=tile, overlap=overlap), network.pools, []
    for network.pools in (pools, False):
        shares.append(float((tiled(image) != mask).mean()))
    network.pools = pools
    return shares[0], shares[1]


def main(model: str, size: str, tiles: str = "", *pictures: str) -> None:
    """Prints the changed pixels of each picture, or without `tiles` the peak memory for one picture.

    Args:
        model: model file.
        size: HEIGHTxWIDTH of the pictures, in pixels.
        tiles: TILE:OVERLAP, in pixels.
        pictures: picture files, which are resized to `size`.
    """
    segmenter = atrous.Segmenter(model, precision="float32")
    height, width = map(int, size.split("x"))
    if not tiles:  # in torch, because `predict_bytes` predicts the memory of torch
        segmenter = atrous.Segmenter(model, engine="torch", precision="float32")
        segmenter.segment(np.zeros((height, width, len(segmenter.info.preprocessing.mean)), np.uint8))
        peak = peak_of_process()
        print(f"{size}: predicted {predict_bytes(segmenter.info, height, width) / 1e9:.2f}, peak {peak / 1e9:.2f} GB")
        return
    tile, overlap = map(int, tiles.split(":"))
    for path in pictures:
        picture = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        share, alone = difference(segmenter, segmenter.preparation.prepare(np.asarray(picture)), tile, overlap)
        print(f"{path}: {share:.3%} of pixels differ, {alone:.3%} with image pooling over each tile", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
