"""Pictures of one camera share a field or a caption bar, and are no copies of each other for that."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from atrous.data.examine import examine
from atrous.data.labels import ClassTable, default_colors


def picture(rng: np.random.Generator, part: str) -> np.ndarray:
    """128×128: blurred noise in a round field, over a caption bar, or alone."""
    image = cv2.resize(rng.integers(0, 255, (12, 12, 3)).astype(np.uint8), (128, 128), interpolation=cv2.INTER_CUBIC)
    if part == "field":
        field = cv2.circle(np.zeros((128, 128), np.uint8), (64, 64), 55, 1, -1)
        return (image // 5 + 100) * field[:, :, None]
    if part == "bar":
        image = image // 4 + 120
        image[100:] = 0
        cv2.putText(image, "SN 2231", (5, 120), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2)
    return image


def near_copies(root: Path, part: str, change) -> list[str]:
    """What is said of 12 pictures and 4 of val, of which the last is a changed copy of a training picture."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    images = [picture(rng, part) for _ in range(15)]
    images.append(change(images[0]))
    for index, image in enumerate(images):
        Image.fromarray(image).save(root / f"images/{index}.png")
        Image.fromarray(np.zeros((128, 128), np.uint8)).save(root / f"masks/{index}.png")
    for split, numbers in (("train", range(12)), ("val", range(12, 16))):
        (root / f"splits/{split}.txt").write_text("\n".join(map(str, numbers)), encoding="utf-8")
    ClassTable(("a", "b"), default_colors(2), ((0,), (1,))).to_yaml(root / "classes.yaml")
    return [text for found in examine(root).warnings if found.kind == "near_identical" for text in found.examples]


CHANGES = {
    "brighter": lambda image: np.clip(image * 1.15 + 5, 0, 255).astype(np.uint8),
    "encoded again": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("part", ["field", "bar", "none"])
def test_only_true_copies_are_said(tmp_path, part, change):
    said = near_copies(tmp_path, part, CHANGES[change])
    assert len(said) == 1
    assert said[0].startswith("val 15.png ≈ train 0.png")


@pytest.mark.parametrize("part", ["field", "bar", "none"])
def test_other_pictures_are_no_copies(tmp_path, part):
    assert near_copies(tmp_path, part, lambda _: picture(np.random.default_rng(9), part)) == []
