"""A .caffemodel, written here byte by byte as protobuf's encoding has it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from protobuf import field, varint

from atrous.errors import AtrousError
from atrous.weights.read_checkpoint import read


def blob(values: np.ndarray, legacy: bool) -> bytes:
    data = field(5, values.astype("<f4").tobytes())
    if legacy:
        sizes = (1,) * (4 - values.ndim) + values.shape
        return b"".join(field(number, size) for number, size in enumerate(sizes, start=1)) + data
    return data + field(7, field(1, b"".join(varint(size) for size in values.shape)))


def caffemodel(layers: dict[str, list[np.ndarray]], legacy: bool) -> bytes:
    layer_field, name_field, blobs_field = (2, 4, 6) if legacy else (100, 1, 7)
    kind = field(5, 4) if legacy else field(2, b"Convolution")
    return field(1, b"VGG_ILSVRC_16_layers") + b"".join(
        field(
            layer_field,
            field(name_field, name.encode()) + kind + b"".join(field(blobs_field, blob(b, legacy)) for b in blobs),
        )
        for name, blobs in layers.items()
    )


RANDOM = np.random.default_rng(0)
LAYERS = {
    "data": [],
    "conv1_1": [RANDOM.normal(size=(64, 3, 3, 3)), RANDOM.normal(size=64)],
    "fc6": [RANDOM.normal(size=(300, 40)), RANDOM.normal(size=300)],
    "bn": [RANDOM.normal(size=5), RANDOM.normal(size=5), RANDOM.normal(size=1)],
}


@pytest.mark.parametrize("legacy", [True, False], ids=["V1", "new"])
def test_blobs_by_layer(tmp_path, legacy):
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(LAYERS, legacy))
    state = read(tmp_path / "net.caffemodel").state
    assert list(state) == [
        *("conv1_1.weight", "conv1_1.bias", "fc6.weight", "fc6.bias"),
        *("bn.weight", "bn.bias", "bn.2"),
    ]
    for name, blobs in LAYERS.items():
        for leaf, values in zip(("weight", "bias", "2"), blobs, strict=False):
            torch.testing.assert_close(state[f"{name}.{leaf}"], torch.tensor(values, dtype=torch.float32))


@pytest.mark.parametrize("legacy", [True, False], ids=["V1", "new"])
def test_truncated_anywhere_is_refused_or_ends_between_layers(tmp_path, legacy):
    path, content = tmp_path / "net.caffemodel", caffemodel({"fc": [np.ones((4, 3))]}, legacy)
    start = content.index(b"layers") + len(b"layers")
    for length in range(start + 1, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(AtrousError, match=r"net\.caffemodel is truncated or damaged, or no"):
            read(path)


def test_a_blob_of_another_shape_than_its_values_is_refused(tmp_path):
    wrong = field(5, np.ones(6, "<f4").tobytes()) + field(7, field(1, varint(7)))
    (tmp_path / "net.caffemodel").write_bytes(field(100, field(1, b"fc") + field(7, wrong)))
    with pytest.raises(AtrousError, match=r"a blob of shape \[7\] has 6 values"):
        read(tmp_path / "net.caffemodel")


@pytest.mark.parametrize("content", [b"some text that is no model", b"\xff" * 64, b"\x0b\x0c"])
def test_other_bytes_are_refused(tmp_path, content):
    (tmp_path / "net.caffemodel").write_bytes(content)
    with pytest.raises(AtrousError, match=r"net\.caffemodel"):
        read(tmp_path / "net.caffemodel")
