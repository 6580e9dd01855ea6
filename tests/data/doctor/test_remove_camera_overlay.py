"""Pictures of one camera share a field or a caption bar, and are no copies of each other for that."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from atrous.data.class_colors import default_colors
from atrous.data.doctor.examine import examine
from atrous.data.mask_value_map import ClassTable

SIZE = 128
PLACE = cv2.resize(np.random.default_rng(99).integers(0, 255, (12, 12, 3)).astype(np.uint8), (SIZE, SIZE))
OTHER_PLACE = cv2.resize(np.random.default_rng(98).integers(0, 255, (12, 12, 3)).astype(np.uint8), (SIZE, SIZE))


def in_circle(radius: float) -> np.ndarray:
    return cv2.circle(np.zeros((SIZE, SIZE), np.uint8), (64, 64), round(radius), 1, -1)[:, :, None]


def moving_object(rng: np.random.Generator, place: np.ndarray, index: int) -> np.ndarray:
    """An object before a fixed scene, in each of 42 pictures at another place."""
    image = place.copy()
    y, x = 4 + index % 42 // 6 * 16, 4 + index % 6 * 18
    image[y : y + 24, x : x + 20] = rng.integers(0, 255, 3)
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def picture(rng: np.random.Generator, part: str, index: int = 0) -> np.ndarray:
    """128×128: blurred noise in a round field, over a caption bar, or alone; or one object before a fixed scene."""
    image = cv2.resize(rng.integers(0, 255, (12, 12, 3)).astype(np.uint8), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    if part == "two cameras":
        part = "field" if index % 2 else "bar"
    if part == "two places":
        return moving_object(rng, PLACE if index % 2 else OTHER_PLACE, index)
    if part == "one moving object":
        return moving_object(rng, PLACE, index)
    if part == "field":
        return (image // 5 + 100) * in_circle(55)
    if part == "pale field":
        return (image // 12 + 100) * in_circle(55)
    if part == "field of 10 %":
        return (image // 3 + 80) * in_circle(0.178 * SIZE)
    if part == "few pixels in a scene":
        image = cv2.resize(rng.integers(0, 255, (26, 26, 3)).astype(np.uint8), (SIZE, SIZE))
        return np.where(in_circle(0.12 * SIZE), image, PLACE)
    if part in ("bar", "numbered bar"):
        image = image // 4 + 120
        image[100:] = 0
        text = "SN 2231" if part == "bar" else f"{rng.integers(1000, 9999)}"
        cv2.putText(image, text, (5, 120), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2)
    return image


PARTS = [
    "field", "pale field", "field of 10 %", "few pixels in a scene", "bar", "numbered bar", "one moving object",
    "two cameras", "two places", "none",
]  # fmt: skip


def near_copies(root: Path, part: str, change) -> list[str]:
    """What is said of 24 pictures and 8 of val, of which the last is a changed copy of a training picture."""
    rng = np.random.default_rng(0)
    return said_of(root, [picture(rng, part, index) for index in range(31)], change)


def said_of(root: Path, images: list[np.ndarray], change, suffix: str = ".png") -> list[str]:
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    images = [*images, change(images[0])]
    for index, image in enumerate(images):
        Image.fromarray(image).save(root / f"images/{index}{suffix}")
        Image.fromarray(np.zeros(image.shape[:2], np.uint8)).save(root / f"masks/{index}.png")
    train = 3 * len(images) // 4
    for split, numbers in (("train", range(train)), ("val", range(train, len(images)))):
        (root / f"splits/{split}.txt").write_text("\n".join(map(str, numbers)), encoding="utf-8")
    ClassTable(("a", "b"), default_colors(2), ((0,), (1,))).to_yaml(root / "classes.yaml")
    return [text for found in examine(root).warnings if found.kind == "near_identical" for text in found.examples]


CHANGES = {
    "brighter": lambda image: np.clip(image * 1.15 + 5, 0, 255).astype(np.uint8),
    "encoded again": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("part", PARTS)
def test_only_true_copies_are_said(tmp_path, part, change):
    said = near_copies(tmp_path, part, CHANGES[change])
    assert len(said) == 1
    assert said[0].startswith("val '31.png' ≈ train '0.png'")


@pytest.mark.parametrize("part", PARTS)
def test_other_pictures_are_no_copies(tmp_path, part):
    assert near_copies(tmp_path, part, lambda _: picture(np.random.default_rng(9), part, 31)) == []


def test_copies_of_one_picture_are_no_fixed_part(tmp_path):
    """What varies is the noise of JPEG, and nothing else: all of val are copies."""
    image = picture(np.random.default_rng(0), "none")
    copies = [
        np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1))
        for quality in range(40, 71)
    ]
    said = said_of(tmp_path, copies, CHANGES["encoded again"])
    assert len(said) == 5  # examples of eight
    assert all("≈" in text or "pixel for pixel" in text for text in said)


def test_a_scene_that_stood_still_for_a_while_is_no_camera(tmp_path):
    """A tenth of the pictures or less are too few to tell a fixed part from frames of one scene."""
    rng = np.random.default_rng(1)
    frames = [moving_object(rng, PLACE, index) for index in range(8)]
    others = [picture(rng, "none") for _ in range(87)]
    images = [*frames, *others]
    assert [text[:8] for text in said_of(tmp_path, images, lambda _: moving_object(rng, PLACE, 9))] == ["val '95."]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_deep_pictures_are_judged_alike(tmp_path, dtype):
    rng = np.random.default_rng(0)
    scale = np.iinfo(dtype).max // 255
    images = [picture(rng, "pale field")[:, :, 0].astype(dtype) * dtype(scale) for _ in range(31)]
    said = said_of(tmp_path, images, lambda image: image // 10 * 9)
    assert [text.partition(" (")[0] for text in said] == ["val '31.png' ≈ train '0.png'"]
