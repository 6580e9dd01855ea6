"""Times the segmentation of a 512×512×300 CT by atrous, and by MONAI's inferer with the same network in eager torch.

    python benchmarks/volumes.py MODEL SERIES [--slices 300] [--rounds 3]

MODEL was trained on single slices of one plane (`data.planes: [axial]`, `data.slices: 1`). SERIES is a volume or a
DICOM series; its slices are repeated until their number is --slices. Both sides start with the volume in memory and end
with its class indices. MONAI's `SliceInferer` takes whole slices, without overlap, which is its fastest setting; the
batch size is the fastest of 1, 2, 4 and 8. The masks of the two sides are compared. In float32, 99.999 % of the voxels
must be equal; in the number format that atrous chooses, 99.8 %. MONAI is not a dependency of atrous: install it with
`pip install monai`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peak_memory import peak_of_process

import atrous
from atrous.data.volumes.grid import Grid
from atrous.data.volumes.read_volume import read_volume
from atrous.data.volumes.slices import pictures_of
from atrous.data.volumes.volume import Volume
from atrous.inference.segment_volume import segment_volume

#: Smallest share of equal voxels in float32, and in the number format that atrous chooses.
EQUAL, NEARLY_EQUAL = 0.99999, 0.998
BATCHES = (1, 2, 4, 8)


def main() -> None:
    """Asserts that enough voxels of the masks are equal, and prints the seconds of both sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model file")
    parser.add_argument("series", type=Path, help="file of a volume, or folder of a DICOM series")
    parser.add_argument("--slices", type=int, default=300, help="number of axial slices of the timed volume")
    parser.add_argument("--rounds", type=int, default=3, help="number of turns of each side; the fastest counts")
    options = parser.parse_args()
    segmenter = atrous.Segmenter(options.model)
    exact = atrous.Segmenter(options.model, precision="float32")
    network: Any = atrous.load(options.model).eval()
    few = repeated(read_volume(options.series), 16)
    reference = monai_mask(network, few, 1)
    share = float((segment_volume(exact, few) == reference).mean())
    assert share >= EQUAL, f"in float32, only {share:.6f} of the voxels are equal"
    batch = min(BATCHES, key=lambda size: seconds(lambda: monai_mask(network, few, size))[0])
    volume = repeated(few, options.slices)
    ours, theirs, mask, other = [], [], reference, reference
    for _ in range(options.rounds):
        taken, mask = seconds(lambda: segment_volume(segmenter, volume))
        ours.append(taken)
        taken, other = seconds(lambda: monai_mask(network, volume, batch))
        theirs.append(taken)
    share = float((mask == other).mean())
    assert share >= NEARLY_EQUAL, f"only {share:.5f} of the voxels are equal"
    engine = segmenter.engine
    print(
        f"{'×'.join(map(str, volume.grid.shape))}: atrous {min(ours):.1f} s ({engine.name} {engine.precision}), MONAI "
        f"{min(theirs):.1f} s (torch float32, batches of {batch}): {min(theirs) / min(ours):.1f} times as fast, "
        f"{share:.3%} of voxels equal; peak of both {peak_of_process() / 1e9:.1f} GB"
    )


def repeated(volume: Volume, slices: int) -> Volume:
    """Returns a volume with the given number of axial slices, which are the slices of a volume, repeated in order."""
    values = np.take(volume.values, np.arange(slices) % volume.values.shape[2], axis=2)
    x, y, _ = volume.grid.shape
    return Volume(values, Grid((x, y, slices), volume.grid.affine))


def monai_mask(network: Any, volume: Volume, batch: int) -> np.ndarray:
    """Returns the class indices of a volume by MONAI's SliceInferer, in batches of slices."""
    from monai.inferers import SliceInferer  # pyright: ignore[reportMissingImports]

    one = network.info.preprocessing.image
    assert len(one.planes) == 1 and one.slices == 1, "the model must take single slices of one plane"
    mean, std = (np.asarray(part, np.float32) for part in (one.mean, one.std))
    if one.normalize == "per_image":
        mean, std = (np.asarray(part, np.float32) for part in volume.mean_and_std(one.missing))
    values = volume.values.astype(np.float32)
    if one.normalize == "window":
        values = np.clip(values, *one.window)
    pictures = pictures_of((values - mean) / std, one.planes[0])[..., 0]  # S×H×W
    inferer = SliceInferer(roi_size=pictures.shape[1:], sw_batch_size=batch, overlap=0, spatial_dim=0)
    with torch.inference_mode():
        scores = inferer(torch.from_numpy(np.ascontiguousarray(pictures))[None, None], network)
        found = scores.argmax(1)[0].to(torch.uint8).numpy()
    mask = np.zeros(volume.grid.shape, np.uint8)
    pictures_of(mask, one.planes[0])[:] = found
    return mask


def seconds(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Returns the seconds that a function takes, and its result."""
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


if __name__ == "__main__":
    main()
