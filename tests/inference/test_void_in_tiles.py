"""Pixels without data in tiles: void there on every engine, and no engine sees what they hold."""

import numpy as np
import pytest

from atrous.data.sources.array import ArraySink, ArraySource
from atrous.inference.segmenter import Segmenter
from atrous.inference.whole_or_tiled import AnySize

SIZE = 96, 160


@pytest.fixture(scope="module")
def valid() -> np.ndarray:
    """A strip, one whole tile, the edge of others, and scattered pixels have no data."""
    valid = np.random.default_rng(1).random(SIZE) > 0.05
    valid[:, 40:60] = False
    valid[:64, 96:] = False
    return valid


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.kron(np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8), np.ones((8, 8, 1), np.uint8))


@pytest.fixture(scope="module")
def expected(small, image, valid) -> dict[int, np.ndarray]:
    """The masks of torch, by the size of tiles; 0 for the whole."""
    segmenter = Segmenter(small, engine="torch", device="cpu", precision="float32")
    filled = np.where(valid[..., None], image, np.asarray(small.info.preprocessing.mean, np.uint8))
    whole = np.where(valid, segmenter.segment(filled), 255)
    return {0: whole, 64: AnySize(segmenter.whole, tile=64, overlap=32)(filled, valid)}


@pytest.mark.slow
@pytest.mark.parametrize("tile", [0, 64])
@pytest.mark.parametrize("engine", ["torch", "openvino", "onnx"])
def test_void_pixels_are_void_whole_and_in_tiles_on_every_engine(small, exports, image, valid, expected, engine, tile):
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    segmenter = (
        Segmenter(exports("onnx", True))
        if engine == "onnx"
        else Segmenter(small, engine=engine, device="cpu", precision="float32")
    )
    segmenter = segmenter.looking(tile=tile or None, overlap=32)
    masks = []
    for value in (0, 255):  # whatever such pixels hold
        sink = ArraySink(*SIZE)
        segmenter.windows(ArraySource(np.where(valid[..., None], image, np.uint8(value)), valid), sink)
        masks.append(sink.mask)
    assert np.array_equal(*masks)
    assert np.array_equal(masks[0] == 255, ~valid)
    assert (masks[0] == expected[tile]).mean() > 0.999  # but where classes tie
    if tile == 0:
        given = np.where(valid[..., None], image, np.uint8(7))
        assert np.array_equal(segmenter(given, valid).mask, masks[0])
