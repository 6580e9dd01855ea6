import dataclasses
import errno
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import atrous
from atrous.errors import AtrousError
from atrous.model_file import checksum, load, read_info, save

SMALL = {"backbone": "mobilenetv2_035", "aspp_channels": 16, "low_channels": 8}


def make(**arguments):
    torch.manual_seed(0)
    model = atrous.create_model("deeplabv3plus", **{"num_classes": 3, **SMALL, **arguments}).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # nothing at a default that a fresh model would have as well
            parameter.add_(0.01)
    return model


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def original(model, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save(model, path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, original) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(original)
    return path


def header_of(data: bytes) -> tuple[dict, bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header: dict, rest: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_classes": 1},
        {"in_channels": 1},
        {"in_channels": 12, "output_stride": 8, "align_corners": True},
        {"atrous_rates": (2, 4), "separable": False, "aspp_conv": True, "decoder_convs": 1},
    ],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_round_trip(tmp_path, arguments, memory_format):
    model = make(**arguments).to(memory_format=memory_format)
    channels = model.info.arguments["in_channels"]
    model.info = dataclasses.replace(
        model.info,
        preprocessing=dataclasses.replace(model.info.preprocessing.with_image(dtype="uint16"), enlarge=1.5),
        scores={"val": {"miou": 0.25, "dice": None}},
    )
    raw = tuple((-index, 300 + index) for index in range(len(model.info.classes)))
    model.info = model.info.with_table(dataclasses.replace(model.info.table, raw=raw))
    path = tmp_path / "new" / "folder" / "model.safetensors"
    atrous.save(model, path)
    again = atrous.load(path).to(memory_format=memory_format)  # the order of sums depends on it
    assert again.info == model.info == read_info(path)
    assert not again.training
    assert again.state_dict().keys() == model.state_dict().keys()
    images = torch.randn(2, channels, 37, 50, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.slow
def test_bfloat16_weights_keep_their_bits(tmp_path):
    model = make().bfloat16()
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert all(
        torch.equal(a.to(b.dtype), b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_half_the_size_and_the_same_network(tmp_path, model, original):
    path = tmp_path / "half.safetensors"
    save(model, path, half=True)
    assert path.stat().st_size < 0.62 * len(original)  # of which the header is a part
    state = load(path).state_dict()
    for name, tensor in model.state_dict().items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor.half().float() if tensor.ndim > 1 else tensor), name
    too_large = make()
    too_large.classifier.weight.data[0, 0] = 1e5
    with pytest.raises(AtrousError, match=r"classifier.weight .* half=False"):
        save(too_large, path, half=True)


def test_it_is_a_plain_safetensors_file(path, model):
    assert load_file(path).keys() == model.state_dict().keys()


@pytest.mark.parametrize("share", [0.0, 1e-9, 1e-4, 0.01, 0.1, 0.5, 0.99, "one byte less"])
def test_truncated(path, original, share):
    length = len(original) - 1 if share == "one byte less" else int(len(original) * share) or 5 * (share > 0)
    path.write_bytes(original[:length])
    with pytest.raises(AtrousError, match=r"not a model file|truncated or damaged"):
        load(path)


@pytest.mark.parametrize("where", [0.02, 0.3, 0.6, 0.999])
def test_one_flipped_bit_in_the_weights(path, original, where):
    _, weights = header_of(original)
    position = len(original) - len(weights) + int(len(weights) * where)
    damaged = bytearray(original)
    damaged[position] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(AtrousError, match="altered or damaged after it was saved"):
        load(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('\\"class 0\\"', '\\"class 9\\"'),
        ('\\"output_stride\\": 16', '\\"output_stride\\": 32'),
        ('\\"num_classes\\": 3', '\\"num_classes\\": 4'),
        ('\\"deeplabv3plus\\"', '\\"deeplabv9plus\\"'),
        ('\\"format_version\\": 2', '\\"format_version\\": 3'),
        ('\\"aspp_conv\\"', '\\"aspp_CONV\\"'),
        ('\\"backbone\\": \\"mobilenetv2_035\\"', '\\"backbone\\": \\"mobilenetv2_050\\"'),
        ('{\\"architecture\\"', '[\\"architecture\\"'),
    ],
)
def test_altered_record(path, original, old, new):
    assert original.count(old.encode()) == 1
    path.write_bytes(original.replace(old.encode(), new.encode()))
    with pytest.raises(AtrousError):
        load(path)


def with_arguments(path: Path, **arguments) -> None:
    """The same weights under another record, with the checksum that belongs to both."""
    header, weights = header_of(path.read_bytes())
    record = json.loads(header["__metadata__"]["atrous"])
    record["arguments"].update(arguments)
    info = json.dumps(record)
    header["__metadata__"] |= {"atrous": info, "sha256": checksum(info, load_file(path))}
    path.write_bytes(with_header(header, weights))


def test_a_file_of_format_1_gives_the_same_masks(path):
    """Files of other versions load for ever: their records know one picture, with one mean for each channel."""
    picture = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    expected = atrous.Segmenter(path, engine="torch", precision="float32")(picture).mask
    header, weights = header_of(path.read_bytes())
    record = json.loads(header["__metadata__"]["atrous"])
    (image,) = record["preprocessing"].pop("inputs")
    record["preprocessing"] |= {name: image[name] for name in ("mean", "std", "dtype", "pages")}
    table = record.pop("tasks")[0]["classes"]
    record |= {"classes": table["names"], **{name: table[name] for name in ("colors", "raw", "ignore")}}
    info = json.dumps({**record, "format_version": 1})
    header["__metadata__"] |= {"atrous": info, "sha256": checksum(info, load_file(path))}
    path.write_bytes(with_header(header, weights))
    segmenter = atrous.Segmenter(path, engine="torch", precision="float32")
    assert (segmenter(picture).mask == expected).all() and segmenter.info.format_version == 2


def test_a_record_that_asks_for_a_network_of_all_memory_gets_none(path):
    with_arguments(path, aspp_channels=10**6, decoder_convs=9)  # 300 TB
    with pytest.raises(AtrousError, match=r"do not fit its own architecture: '.*' has shape .* in the file, .*more"):
        load(path)


@pytest.mark.parametrize(
    "arguments", [{"pretrained": True}, {"checkpoint_path": "/dev/zero"}, {"pretrained_cfg": {"file": "/dev/zero"}}]
)
def test_a_record_opens_no_connection_and_no_file(path, arguments):
    with_arguments(path, backbone_arguments=arguments)
    with pytest.raises(AtrousError, match="backbone_arguments cannot have"):
        load(path)


def test_a_missing_checksum_is_no_way_around_it(path, original):
    header, weights = header_of(original)
    del header["__metadata__"]["sha256"]
    path.write_bytes(with_header(header, weights))
    with pytest.raises(AtrousError, match="checksum"):
        load(path)


@pytest.mark.parametrize("length", [0, 1, 2**24 + 1, 2**31, 2**63, 2**64 - 1])
def test_impossible_header_lengths_allocate_nothing(path, original, length):
    path.write_bytes(struct.pack("<Q", length) + original[8:])
    with pytest.raises(AtrousError, match=r"not a model file|no model file at"):
        load(path)


@pytest.mark.parametrize(
    "header",
    [b"[]", b"3", b'"text"', b"null", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"__metadata__": [1]}', b"NaN" * 9],
)
def test_headers_that_are_no_records(tmp_path, header):
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    for read in (load, read_info):
        with pytest.raises(AtrousError):
            read(path)


@pytest.mark.parametrize("offsets", [[0, 2**62], [8, 0], [-8, 0], ["a", "b"], []])
def test_tensors_that_lie_outside_the_file(path, original, offsets):
    header, weights = header_of(original)
    header["classifier.bias"]["data_offsets"] = offsets
    path.write_bytes(with_header(header, weights))
    with pytest.raises(AtrousError):
        load(path)


def test_foreign_safetensors(tmp_path):
    save_file({"weight": torch.ones(3)}, tmp_path / "plain.safetensors")
    save_file({"weight": torch.ones(3)}, tmp_path / "other.safetensors", {"format": "pt"})
    for path in tmp_path.iterdir():
        with pytest.raises(AtrousError, match="not one written by atrous"):
            load(path)


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "old torch", "zip", "text", "empty", "folder", "absent"])
def test_what_is_no_model_file_is_refused_and_never_run(tmp_path, kind):
    mark, path = tmp_path / "ran", tmp_path / "model.safetensors"
    match kind:
        case "pickle":
            path.write_bytes(pickle.dumps(Bomb(mark)))
        case "torch" | "old torch":
            torch.save(Bomb(mark), path, _use_new_zipfile_serialization=kind == "torch")
        case "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps(Bomb(mark)))
        case "text":
            path.write_text("I am a model, trust me.\n" * 9)
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
    for read in (load, read_info, atrous.Segmenter):
        with pytest.raises(AtrousError, match=r"not a model file|no model file at"):
            read(path)
    assert not mark.exists()


def test_the_bomb_is_a_real_one(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(path, original, monkeypatch, failing):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync", full) if failing == "fsync" else (Path, "replace", full)))
    with pytest.raises(AtrousError, match=r"No space left on device.*unchanged"):
        save(make(num_classes=2), path)
    monkeypatch.undo()
    assert path.read_bytes() == original
    assert list(path.parent.iterdir()) == [path]
    load(path)


def test_a_folder_that_cannot_be_made(tmp_path, model):
    (tmp_path / "file").touch()
    with pytest.raises(AtrousError, match="cannot write"):
        save(model, tmp_path / "file" / "model.safetensors")


@pytest.mark.needs("modes")
def test_a_saved_file_can_be_read_by_others(path):
    save(make(), path)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.slow
def test_saving_replaces_model_files_and_nothing_else(tmp_path):
    """Not a checkpoint of others either, nor a picture under that name."""
    model = atrous.create_model("deeplabv1", backbone="mobilenetv2_035", num_classes=2, fov_channels=8)
    own, others, text = (tmp_path / name for name in ("own.safetensors", "others.safetensors", "notes.txt"))
    save_file({"weight": torch.zeros(2)}, others)
    text.write_text("of somebody")
    before = {file: file.read_bytes() for file in (others, text)}
    for _ in range(2):
        save(model, own)
    save(model, own, half=True)
    for file in (others, text):
        with pytest.raises(AtrousError, match=r"not a model file of atrous, so it is not replaced; .*overwrite=True"):
            save(model, file)
    with pytest.raises(AtrousError, match="is a folder"):
        save(model, tmp_path)
    assert {file: file.read_bytes() for file in (others, text)} == before
    save(model, others, overwrite=True)
    load(others)


def test_the_zoo_is_in_the_repository_not_in_the_wheel(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        AtrousError, match=r"zoo/camvid\.safetensors\. The models of zoo/ are in the repository of atrous"
    ):
        load("zoo/camvid.safetensors")
    (tmp_path / "zoo").mkdir()
    with pytest.raises(AtrousError, match=r"no model file at zoo/camvid\.safetensors\.$"):
        load("zoo/camvid.safetensors")
