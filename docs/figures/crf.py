"""Draws docs/images/crf.png: a picture, what a network with a stride of 8 sees in it, and the same after the CRF.

The network is Google's MobileNetV2 DeepLabV3; its file is not part of the project:

    python docs/figures/crf.py deeplabv3_257_mv_gpu.tflite
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import atrous

PICTURES = ("chelsea", "astronaut")


def main() -> None:
    """Draws a row for each picture."""
    model = atrous.convert(Path(sys.argv[1]), source="tensorflow")
    alone, refined = (atrous.Segmenter(model, precision="float32", crf=crf) for crf in (None, "deeplabv2"))
    figure, rows = plt.subplots(len(PICTURES), 3, figsize=(10, 4.9), layout="constrained")
    for axes, title in zip(rows[0], ("picture", "network alone", "with the CRF"), strict=True):
        axes.set_title(title)
    for row, name in zip(rows, PICTURES, strict=True):
        image = np.ascontiguousarray(getattr(data, name)()[:300, :451])
        for axes, segmenter in zip(row, (None, alone, refined), strict=True):
            axes.imshow(image)
            axes.set_axis_off()
            if segmenter is not None:
                found = segmenter(image).mask > 0
                axes.imshow(np.where(found[..., None], (0.0, 0.7, 1.0, 0.55), 0.0))
                axes.contour(found, levels=[0.5], colors="white", linewidths=1)
    figure.savefig(Path(__file__).parents[1] / "images" / "crf.png", dpi=90)


if __name__ == "__main__":
    main()
