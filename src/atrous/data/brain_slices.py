"""Writes a dataset of real pictures without a download: axial slices of the MNI152 brain in the package nilearn.

The volume is an average of 152 heads. The volume has so little noise that two intensity thresholds label it almost
perfectly. So typical effects of a scanner are added to each slice: an uneven receiver field, another contrast, and
noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from atrous.atomic_write import temporary_folder
from atrous.data.dataset import Dataset
from atrous.data.layouts.pairing import CLASSES_FILE
from atrous.data.mask_value_map import ClassTable
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError, missing_extra

CLASSES = ClassTable(
    names=("other", "grey", "white"),
    colors=((0, 0, 0), (230, 159, 0), (86, 180, 233)),  # distinguishable for colour-blind people (Okabe and Ito)
    raw=((0,), (1,), (2,)),
)

# Numbers of the slices of each split, counted from the bottom of the volume; slices are 1 mm apart. Neighbouring slices
# look alike, so gaps separate the splits.
SLABS = {"train": range(36, 102), "test": range(111, 127), "val": range(132, 144)}

# The intensity of the brightest voxel of the volume is 1.
BIAS = 0.8  # the receiver field varies between exp(−0.8) and exp(0.8) at most
BIAS_DEGREE = 3  # degree of the polynomial that is the logarithm of the receiver field
GAMMA = 0.7  # intensities are raised to a power between exp(−0.7) and exp(0.7)
NOISE = (0.03, 0.1)  # smallest and largest standard deviation of the Rician noise
WHITE = 1.5  # the intensity written as 255


@dataclass(frozen=True)
class Thresholds:
    """Two intensity thresholds that separate a dark, a middle and a bright class.

    Attributes:
        low: smallest intensity of the middle class, 0–256.
        high: smallest intensity of the bright class, 0–256.
        fitted_miou: mean IoU on the split on which the thresholds were fitted, 0–1.
        miou: mean IoU on the split on which the thresholds were measured, 0–1.
    """

    low: int
    high: int
    fitted_miou: float
    miou: float


def write_brain_slices(root: Path | str, *, seed: int = 0) -> Dataset:
    """Writes the slices as a ``folder`` dataset of 8-bit grey pictures of 197×233 px (width×height).

    The masks have three classes: grey matter, white matter, and everything else. A voxel is grey or white matter if
    nilearn's maps give this class a probability of at least 0.5. Training, validation and test pictures are separate
    slabs of the same brain.

    Args:
        root: folder to write ``images/``, ``masks/``, ``splits/`` and ``classes.yaml`` into.
        seed: seed, ≥ 0, of the random receiver fields, contrasts and noise, which differ from slice to slice.

    Returns:
        The written dataset.

    Raises:
        AtrousError: nilearn is not installed, or the folder is not empty.
    """
    root = Path(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise AtrousError(
            f"{root} exists and is not a complete dataset of the demo: move it away, or give another folder."
        )
    intensity, label = _volumes()
    with temporary_folder(root) as folder:
        unfinished = folder / root.name  # the complete dataset is moved to its place at the end
        for name in ("images", "masks", "splits"):
            (unfinished / name).mkdir(parents=True)
        for split, slab in SLABS.items():
            _write_split(
                unfinished, split, [(number, _axial(intensity, number), _axial(label, number)) for number in slab], seed
            )
        CLASSES.to_yaml(unfinished / CLASSES_FILE)
        unfinished.replace(root)
    return open_dataset(root, layout="folder")


def _write_split(root: Path, split: str, slices: Sequence[tuple[int, np.ndarray, np.ndarray]], seed: int) -> None:
    names = []
    for number, clean, label in slices:
        names.append(f"slice_{number:03d}")
        scan = scanned(clean, np.random.default_rng([seed, number]))
        Image.fromarray(scan).save(root / "images" / f"{names[-1]}.png")
        mask = Image.fromarray(label)
        mask.putpalette(np.array(CLASSES.colors, dtype=np.uint8).tobytes())
        mask.save(root / "masks" / f"{names[-1]}.png")
    (root / "splits" / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def scanned(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds typical effects of a scanner to a clean slice: another contrast, an uneven receiver field, Rician noise.

    Args:
        clean: H×W float, 0–1.
        rng: random number generator.

    Returns:
        H×W ``uint8``.
    """
    contrast = clean ** math.exp(rng.uniform(-GAMMA, GAMMA))
    received = contrast * np.exp(_smooth_field(clean.shape, rng))
    # A magnitude image is the absolute value of a complex signal with normal noise in both parts. So its noise is
    # Rician (Gudbjartsson and Patz, 1995).
    real, imaginary = rng.normal(scale=rng.uniform(*NOISE), size=(2, *clean.shape))
    magnitude = np.hypot(received + real, imaginary)
    return np.clip(np.rint(magnitude * (255 / WHITE)), 0, 255).astype(np.uint8)


def best_two_thresholds(dataset: Dataset, *, fit: str = "train", score: str = "test") -> Thresholds:
    """Finds the pair of intensity thresholds with the highest mean IoU on one split, and measures it on another split.

    Mean IoU is computed from one confusion matrix over all pixels of a split, as in ``atrous evaluate``.

    Args:
        dataset: 8-bit grey pictures with three classes, the darkest class first, and no ignored pixels.
        fit: split on which the thresholds are chosen.
        score: split on which the thresholds are measured.
    """
    fitted = _miou_of_all_thresholds(_histogram(dataset, fit))
    low, high = np.unravel_index(fitted.argmax(), fitted.shape)
    measured = _miou_of_all_thresholds(_histogram(dataset, score))
    return Thresholds(int(low), int(high), float(fitted[low, high]), float(measured[low, high]))


def _volumes() -> tuple[np.ndarray, np.ndarray]:
    """Returns the T1 intensity (0–1) and the label of every voxel; the axes are x (right), y (front) and z (up)."""
    try:
        from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
    except ImportError as error:
        raise missing_extra("nilearn", "demo") from error
    intensity, grey, white = (
        np.asanyarray(load(resolution=1).dataobj)
        for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    )
    return intensity, np.select([grey >= 0.5, white >= 0.5], [1, 2], 0).astype(np.uint8)


def _axial(volume: np.ndarray, number: int) -> np.ndarray:
    """Returns one axial slice as seen from above; the front of the head is at the top."""
    return np.ascontiguousarray(np.rot90(volume[:, :, number]))


def _smooth_field(size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Returns a random polynomial over the picture; its largest magnitude is ``BIAS``."""
    degrees = np.arange(BIAS_DEGREE + 1)
    coefficients = rng.normal(size=(len(degrees), len(degrees)))
    coefficients[np.add.outer(degrees, degrees) > BIAS_DEGREE] = 0
    rows, columns = np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1])
    field = np.polynomial.legendre.leggrid2d(rows, columns, coefficients)
    return field * (BIAS / np.abs(field).max())


def _histogram(dataset: Dataset, split: str) -> np.ndarray:
    """Returns the number of pixels of each class with each intensity in a split, 3×256."""
    counts = np.zeros((3, 256), dtype=np.int64)
    for item in dataset.split(split):
        sample = dataset.read(item)
        np.add.at(counts, (sample.label, sample.image[:, :, 0]), 1)
    return counts


def _miou_of_all_thresholds(histogram: np.ndarray) -> np.ndarray:
    """Returns the mean IoU of each pair (low, high), 257×257; 0 if low > high."""
    below = np.concatenate([np.zeros((3, 1), dtype=np.int64), histogram.cumsum(axis=1)], axis=1)  # 3×257
    low, high = below[:, :, None], below[:, None, :]
    total = below[:, -1, None, None]
    ious = []
    for index, predicted in enumerate((low, high - low, total - high)):
        hits = predicted[index]
        union = total[index] + predicted.sum(axis=0) - hits
        ious.append(hits / np.maximum(union, 1))
    mean = sum(np.broadcast_to(iou, (257, 257)) for iou in ious) / 3
    return np.triu(mean)
