"""Times `atrous predict` on a folder of pictures, compared with the network alone on pictures in memory.

    python benchmarks/folder.py MODEL PICTURES [--count 500] [--rounds 3] [--size 512] [--suffix .jpg]

The folder contains copies of the pictures, all resized to one size. Both sides run in one process, in turns:
`atrous.commands.predict` (reading, network, writing palette PNGs), and the network alone, which computes scores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from train import machine

from atrous.commands.predict import predict
from atrous.console import console
from atrous.inference.picture_paths import find_pictures
from atrous.inference.segmenter import Segmenter


def main() -> None:
    """Prints the images per second of both sides, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model file")
    parser.add_argument("pictures", type=Path, help="folder of pictures to copy")
    parser.add_argument("--count", type=int, default=500, help="number of pictures in the folder")
    parser.add_argument("--rounds", type=int, default=3, help="number of turns of each side")
    parser.add_argument("--size", type=int, default=512, help="side of the square pictures, in pixels")
    parser.add_argument("--suffix", default=".jpg", help="file name suffix of the pictures: .jpg or .png")
    options = parser.parse_args()
    segmenter = Segmenter(options.model)
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place) / "in", Path(place) / "out"
        images = fill(folder, options)
        ratios, bare, whole, masks = [], [], [], list[Path]()
        for _ in range(options.rounds):
            bare.append(options.count / network_alone(segmenter, images, options.count))
            start = time.perf_counter()
            with console.capture():
                masks = predict(options.model, [folder], out=out)
            whole.append(options.count / (time.perf_counter() - start))
            ratios.append(whole[-1] / bare[-1])
        for path, image in list(zip(masks, images, strict=False))[:5]:
            assert np.array_equal(np.asarray(Image.open(path)), segmenter.segment(image)), path
    print(
        f"{machine()}\n{options.count} pictures of {options.size}×{options.size} ({options.suffix}), "
        f"{segmenter.engine.name} {segmenter.engine.precision}: {statistics.median(whole):.1f} images/s from files to "
        f"files, {statistics.median(bare):.1f} by the network alone: {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f}–{max(ratios):.3f})"
    )


def fill(folder: Path, options: argparse.Namespace) -> list[np.ndarray]:
    """Writes the folder; returns its first pictures, read from their files."""
    folder.mkdir()
    sources = find_pictures([options.pictures])[:50]
    for count in range(options.count):
        picture = Image.open(sources[count % len(sources)]).convert("RGB").resize((options.size, options.size))
        picture.save(folder / f"{count:05}{options.suffix}", quality=90)
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())[: len(sources)]]


def network_alone(segmenter: Segmenter, images: list[np.ndarray], count: int) -> float:
    """Returns the seconds in which the network computes low-resolution scores of `count` pictures in memory."""
    segmenter.scores(images[0])
    start = time.perf_counter()
    for number in range(count):
        segmenter.scores(images[number % len(images)])
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
