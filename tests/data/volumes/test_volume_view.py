"""The data of the slice viewer, and the sides of its pictures."""

import gzip
import json

import numpy as np
import pytest

from atrous.data.volumes.grid import Grid
from atrous.data.volumes.slices import AXES, pictures_of
from atrous.data.volumes.volume import Volume
from atrous.data.volumes.volume_view import LETTERS, VIEWER, ends_of, grey, steps, view_of


def volume_of(values: np.ndarray, *sides: float) -> Volume:
    x, y, z = values.shape
    return Volume(values[..., None], Grid((x, y, z), np.diag([*sides, 1.0])))


def unpacked(content: bytes) -> tuple[dict, list[bytes]]:
    """As docs/serving.md describes it."""
    plain = gzip.decompress(content)
    size = int.from_bytes(plain[:4], "little")
    head, parts, at = json.loads(plain[4 : 4 + size]), [], 4 + size
    for length in head["parts"]:
        parts.append(plain[at : at + length])
        at += length
    assert at == len(plain)
    return head, parts


def test_the_packed_view_has_the_voxels_and_the_files():
    rng = np.random.default_rng(0)
    values, mask = rng.normal(size=(5, 6, 7)).astype(np.float32), rng.integers(0, 3, (5, 6, 7), np.uint8)
    box = slice(1, 5), slice(0, 6), slice(2, 3)
    view = view_of(volume_of(values, 1, 2, 3), [mask], window=(-1, 1), voxels=10**6, box=box)
    head, (scan, labels, file) = unpacked(view.packed({".nii.gz": b"file"}))
    assert head["shape"] == [4, 6, 1] and head["full"] == [5, 6, 7] and head["first"] == [1, 0, 2]
    assert head["spacing"] == [1, 2, 3] and head["step"] == [1, 1, 1] and head["files"] == [".nii.gz"]
    np.testing.assert_array_equal(np.frombuffer(labels, np.uint8).reshape(4, 6, 1), mask[box])
    expected = ((np.clip(values[box].astype(float), -1, 1) + 1) * 127.5).round()
    np.testing.assert_array_equal(np.frombuffer(scan, np.uint8).reshape(4, 6, 1), expected)
    assert file == b"file"


def test_large_volumes_are_thinned_along_their_finest_axis_first():
    assert steps((100, 100, 10), (0.5, 0.5, 5), 25_000) == (2, 2, 1)
    assert steps((10, 10, 10), (1, 1, 1), 1000) == (1, 1, 1)
    rng = np.random.default_rng(0)
    for _ in range(50):
        shape, limit = rng.integers(1, 60, 3), int(rng.integers(1, 5000))
        step = np.array(steps(shape.tolist(), rng.uniform(0.1, 5, 3).tolist(), limit))
        assert np.ceil(shape / step).prod() <= limit
        values = rng.integers(0, 9, shape).astype(np.uint8)
    view = view_of(volume_of(values, 1, 1, 1), [values], window=None, voxels=limit)
    np.testing.assert_array_equal(view.masks[0], values[tuple(slice(None, None, by) for by in view.step)])
    assert view.scan.shape == view.masks[0].shape


@pytest.mark.parametrize("fill", [np.nan, 3.0])
def test_constant_volumes_and_volumes_without_data_are_shown(fill):
    values = np.full((2, 3, 4), fill, np.float32)
    assert not grey(values, ends_of(values)).any()


def test_the_letters_are_the_sides_of_the_pictures():
    """A marked voxel at each end of each axis is at the side of the picture that has its letter."""
    for plane in LETTERS:
        for letter, axis, end in (("R", 0, -1), ("L", 0, 0), ("A", 1, -1), ("P", 1, 0), ("S", 2, -1), ("I", 2, 0)):
            if axis == AXES[plane]:
                continue
            values = np.zeros((3, 4, 5), np.uint8)
            values.swapaxes(0, axis)[end] = 1
            picture = pictures_of(values, plane)[1]
            left, right, up, down = (side.all() for side in (picture[:, 0], picture[:, -1], picture[0], picture[-1]))
            assert LETTERS[plane][[left, right, up, down].index(True)] == letter


def test_the_script_has_the_same_letters():
    script = (VIEWER / "volume_view.js").read_text(encoding="utf-8")
    for plane, letters in LETTERS.items():
        assert f"{plane}: {{ axis: {AXES[plane]}," in script and f'letters: "{letters}"' in script
