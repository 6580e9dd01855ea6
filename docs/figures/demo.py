"""Draws docs/images/demo.png from a finished `make demo`: picture, truth, prediction and errors of test slices.

python docs/figures/demo.py runs/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import atrous
from atrous.data.mask_value_map import IGNORE_INDEX

SLICES = 2
GAP, HEADING, ENLARGE = 12, 30, 1.15
WRONG, RIGHT = (214, 40, 57), (236, 236, 236)


def main(run: Path, out: Path) -> None:
    """Lays the slices out as rows and saves them."""
    dataset = atrous.open_dataset(run / "data")
    segmenter = atrous.Segmenter(run / "best.safetensors", precision="float32")
    items = dataset.split("test")
    rows = [panels(dataset.read(item), segmenter) for item in items[:: max(1, len(items) // SLICES)][:SLICES]]
    height, width = (round(side * ENLARGE) for side in rows[0][0].shape[:2])
    titles = ["as a scanner shows it", "truth", "atrous, after two minutes", "errors"]
    sheet = Image.new("RGB", (len(titles) * (width + GAP) + GAP, HEADING + len(rows) * (height + GAP)), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        x = GAP + column * (width + GAP)
        draw.text((x + 2, 8), title, fill=(40, 40, 40), font=ImageFont.load_default(size=15))
        for row, pictures in enumerate(rows):
            picture = Image.fromarray(pictures[column]).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (x, HEADING + row * (height + GAP)))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(128).save(out, optimize=True)


def panels(sample: atrous.data.sample.Sample, segmenter: atrous.Segmenter) -> list[np.ndarray]:
    """Picture, truth, prediction and errors as H×W×3 uint8, turned so that the face looks up."""
    prediction = segmenter(sample.image)
    colors = np.asarray(segmenter.info.colors, np.uint8)
    truth = np.where(sample.label == IGNORE_INDEX, 0, sample.label)
    errors = np.where((prediction.mask != sample.label)[..., None], WRONG, RIGHT).astype(np.uint8)
    return [np.repeat(sample.image[..., :1], 3, axis=2), colors[truth], colors[prediction.mask], errors]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parents[1] / "images" / "demo.png")
