"""Files that claim more than they have, or hold what no network can run on: refused in words, in little memory."""

from __future__ import annotations

import pickle
import struct
import sys
import tarfile
import tracemalloc
import types
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from protobuf import field, varint
from safetensors.torch import save_file

import atrous
from atrous.errors import AtrousError
from atrous.weights import huggingface, mmseg, torch_unpickler
from atrous.weights.adapter import Adapted, check_values
from atrous.weights.class_names import class_names
from atrous.weights.read_checkpoint import Foreign, from_state_dict, read
from atrous.weights.reparametrized import joined
from atrous.weights.torch_unpickler import read_torch

torchvision = pytest.importorskip("torchvision")


def zipped(path: Path, program: bytes, data: bytes = b"") -> Path:
    """A PyTorch file of one pickle and one storage."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", data)
    return path


def calling(module: str, name: str, number: int) -> bytes:
    """A pickle of {"w": module.name(number)}."""
    return b"\x80\x02}X\x01\0\0\0wc%b\n%b\n(J%btRs." % (module.encode(), name.encode(), struct.pack("<i", number))


def tensor_of(numbers: int) -> bytes:
    """A pickle of {"w": a float tensor that says it has so many numbers}, as torch.save writes them."""
    count = b"J" + struct.pack("<i", numbers)
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + count + b"tQ"
    rest = b"K\0" + count + b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs."
    return b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest


def test_the_handmade_pickle_is_what_torch_reads(tmp_path):
    path = zipped(tmp_path / "weights.pth", tensor_of(4), np.arange(4, dtype="<f4").tobytes())
    assert torch.equal(read(path).state["w"], torch.arange(4.0))


@pytest.mark.parametrize("zip_file", [True, False])
@pytest.mark.parametrize("module", ["builtins", "__builtin__"])
def test_a_pickle_that_asks_for_memory_gets_none(tmp_path, module, zip_file):
    program = calling(module, "bytearray", 2**31 - 1)
    path = tmp_path / "weights.pth"
    zipped(path, program) if zip_file else path.write_bytes(program)
    with pytest.raises(AtrousError, match="it names 'bytearray'"):
        read(path)


def filling(name: str) -> bytes:
    """A legacy file's or a zip's pickle of {"w": name(a tensor of 2**40 numbers that repeats one)}."""
    one = tensor_of(1).removeprefix(b"\x80\x02}X\x01\0\0\0w").removesuffix(b"s.")
    return b"\x80\x02}X\x01\0\0\0wc" + name.encode() + b"\n" + one + b"\x85Rs."


@pytest.mark.parametrize("zip_file", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "torch._utils\n_rebuild_device_tensor_from_cpu_tensor",
        "torch._utils\n_rebuild_sparse_tensor",
        "torch._utils\n_rebuild_qtensor",
        "torch._utils\n_rebuild_wrapper_subclass",
        "torch\n_utils._rebuild_qtensor",
        "collections\nCounter",
        "UserDict\nCounter",  # Python 2's module, which torch's reader translates
    ],
)
def test_names_of_pytorchs_own_that_fill_the_memory_are_refused_before_it_reads(tmp_path, name, zip_file, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was asked"))
    path = tmp_path / "weights.pth"
    zipped(path, filling(name), bytes(4)) if zip_file else path.write_bytes(pickle.dumps(1) * 3 + filling(name))
    with pytest.raises(AtrousError, match=r"(which is code|as floating-point numbers)\. Nothing was run"):
        read(path)


@pytest.mark.parametrize("name", ["collections\nOrderedDict", "__builtin__\nset", "torch\nSize"])
@pytest.mark.parametrize("again", [b"", b"q\x09]q\x08h\x09"], ids=["named", "remembered"])
@pytest.mark.parametrize(
    ("before", "call"), [(b"", b"\x85R"), (b"(", b"tR"), (b"K\x01", b"\x86R")], ids=["alone", "marked", "second"]
)
def test_a_container_of_a_tensors_numbers_is_not_made(tmp_path, name, again, before, call, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was asked"))
    program = filling(name).replace(name.encode() + b"\n", name.encode() + b"\n" + again, 1)
    program = program.replace(b"ctorch._utils", before + b"ctorch._utils").removesuffix(b"\x85Rs.") + call + b"s."
    with pytest.raises(AtrousError, match=r"in another form than torch\.save writes"):
        read(zipped(tmp_path / "weights.pth", program, bytes(4)))


TENSOR = tensor_of(1).removeprefix(b"\x80\x02}X\x01\0\0\0w").removesuffix(b"s.")


@pytest.mark.parametrize(
    "body",
    [
        b"cnumpy\ndtype\n" + TENSOR + b"R",
        b"cargparse\nNamespace\n" + TENSOR + b"q\x07R",
        b"ccollections\ndefaultdict\n" + TENSOR + b"R",
        b"cnumpy\ndtype\n" + TENSOR + b"\x81",
        b"cnumpy\ndtype\n" + TENSOR + b"q\x07)0\x81",
        b"ccollections\nOrderedDict\n)R" + TENSOR + b"b",
        b"ccollections\nOrderedDict\n)R" + TENSOR + b"\x85b",
        b"ccollections\nOrderedDict\n)R" + TENSOR + b"K\x01K\x01sb",
        TENSOR + TENSOR + b"b",
        b"ctorch\nFloatStorage\n" + TENSOR + b"\x85R",
        b"cnumpy\ndtype\n" + TENSOR + b"q\x070h\x07R",
    ],
)
def test_a_tensor_is_not_taken_apart_as_arguments_state_or_items(tmp_path, body, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was asked"))
    path = zipped(tmp_path / "weights.pth", b"\x80\x02}X\x01\0\0\0x" + body + b"s.", bytes(4))
    with pytest.raises(AtrousError, match=r"than torch\.save writes|not a dict"):
        read(path)


def test_a_pickle_of_more_operations_than_its_file_has_bytes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was asked"))
    monkeypatch.setattr(torch_unpickler, "MOST_OPCODES", 1000)
    with pytest.raises(AtrousError, match="more operations"):
        read(zipped(tmp_path / "weights.pth", b"\x80\x02(" + b"}" * 100_000 + b"t."))


@pytest.mark.parametrize(
    ("length", "direction"),
    [
        (torch.ones(1, 15), torch.ones(15, 1)),
        (torch.ones(5, 1), torch.ones(8, 3)),
        (torch.ones(8, 1, dtype=torch.long), torch.ones(8, 3, dtype=torch.long)),
    ],
)
def test_parts_that_are_no_length_and_direction_stay_as_they_are(length, direction):
    state = {"a.weight_g": length, "a.weight_v": direction}
    assert joined(state) == state
    with pytest.raises(AtrousError):
        atrous.convert(state)


def test_a_tar_file_whose_name_is_a_pickle_is_not_given_to_torch(tmp_path):
    """Torch tries the format of its first year before the pickles at the beginning."""
    path = tmp_path / "weights.pth"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("N." * 5))
    with pytest.raises(AtrousError, match="is a tar file"):
        read(path)


def test_another_files_tail_makes_no_zip_file(tmp_path):
    """Which would say how many numbers a file may claim, or raise what nobody expects."""
    bare = tmp_path / "weights.pth"
    torch.save({"w": torch.ones(2)}, bare, _use_new_zipfile_serialization=False)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, 2**31, 2**31, 0)
    bare.write_bytes(bare.read_bytes() + end)
    assert zipfile.is_zipfile(bare)
    assert torch.equal(read(bare).state["w"], torch.ones(2))


def test_thousands_of_prefixes_are_taken_off(tmp_path):
    assert from_state_dict({"module." * 5000 + "w": torch.ones(1)}).state.keys() == {"w"}


@pytest.mark.parametrize("program", [calling("torch", "Tensor", 2**27), tensor_of(2**27)])
def test_tensors_that_claim_more_numbers_than_the_file_has_are_refused(tmp_path, program):
    with pytest.raises(AtrousError, match=r"weights\.pth (claims more numbers|is truncated or damaged)"):
        read(zipped(tmp_path / "weights.pth", program, bytes(16)))


def bomb(path: Path) -> None:
    """A thousand times its size in zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("w.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (20 * 2**22,)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(20):
            file.write(bytes(2**24))


def huge_array(path: Path) -> None:
    """Says that it has 400 GB."""
    with zipfile.ZipFile(path, "w") as archive, archive.open("w.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**11,)}
        np.lib.format.write_array_header_1_0(file, header)


def huge_safetensors(path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[100000000000],"data_offsets":[0,400000000000]}}   '
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def long_shape(path: Path) -> None:
    """Forty thousand dimensions of 2**62, whose product alone takes seconds."""
    path.write_bytes(field(100, field(1, b"fc") + field(7, field(7, field(1, varint(2**62) * 40_000)))))


def single_numbers(path: Path) -> None:
    """Each number a field of its own, as nobody writes them."""
    path.write_bytes(field(100, field(1, b"fc") + field(7, (varint(5 << 3 | 5) + bytes(4)) * 100_000)))


def greedy(path: Path) -> None:
    zipped(path, calling("builtins", "bytearray", 2**31 - 1))


HUGE = {
    "greedy.pth": (greedy, "it names 'bytearray'"),
    "bomb.npz": (bomb, "a zip bomb"),
    "huge.safetensors": (huge_safetensors, "is truncated or damaged"),
    "long.caffemodel": (long_shape, "is truncated or damaged"),
    "single.caffemodel": (single_numbers, r"shape \[1\] has 100000 values"),
}


def test_an_array_that_says_it_is_huge_is_refused(tmp_path):
    """NumPy asks for the memory, and fills nothing of it."""
    huge_array(tmp_path / "huge.npz")
    with pytest.raises(AtrousError, match="is truncated or damaged"):
        read(tmp_path / "huge.npz")


@pytest.mark.parametrize("name", HUGE)
def test_a_file_that_claims_more_than_it_has_is_refused_in_little_memory(tmp_path, name):
    make, message = HUGE[name]
    make(tmp_path / name)
    tracemalloc.start()
    try:
        with pytest.raises(AtrousError, match=message):
            read(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(1).expand(10**6, 10**6), "stores fewer numbers"),
        (torch.zeros(1000).as_strided((10**5, 900), (0, 1)), "stores fewer numbers"),
    ],
)
def test_tensors_that_are_not_so_many_numbers_are_refused(tmp_path, tensor, message):
    torch.save({"model": {"conv.weight": tensor}}, tmp_path / "weights.pth")
    with pytest.raises(AtrousError, match=rf"weights\.pth has 'conv\.weight' .*{message}"):
        read(tmp_path / "weights.pth")
    with pytest.raises(AtrousError, match=rf"the given dict has 'conv\.weight' .*{message}"):
        from_state_dict({"conv.weight": tensor})


def test_sparse_tensors_are_refused(tmp_path):
    torch.save({"conv.weight": torch.eye(3).to_sparse()}, tmp_path / "weights.pth")
    with pytest.raises(AtrousError, match=r"weights\.pth has a tensor of a kind that cannot be read, .* save it dense"):
        read(tmp_path / "weights.pth")
    with pytest.raises(AtrousError, match=r"the given dict has 'conv\.weight' as a sparse tensor"):
        from_state_dict({"conv.weight": torch.eye(3).to_sparse()})


def test_names_that_would_write_on_the_terminal_are_refused(tmp_path):
    save_file({"conv\x1b]0;owned\x07.weight": torch.ones(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(AtrousError) as refusal:
        read(tmp_path / "weights.safetensors")
    assert str(refusal.value).isprintable()
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"\x1b[31m": 1}, protocol=0))
    with pytest.raises(AtrousError) as refusal:
        read(path)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("content", [b"\x0a\x10" + bytes(64), b"\x80\x02}q\0(X\x01\0\0\0aK\x01u.", b"\x80\x05\x95."])
def test_no_message_advises_to_load_code(tmp_path, content, recwarn):
    """As torch's own does: "re-running with `weights_only` set to `False` will likely succeed"."""
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(AtrousError, match="or not a checkpoint of PyTorch") as refusal:
        read(tmp_path / "weights.pth")
    assert "weights_only" not in str(refusal.value)
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_floating_point_numbers_of_any_width_become_float32(tmp_path, dtype):
    values = torch.tensor([0.5, -2.0, 16.0])
    torch.save({"w": values.to(dtype), "steps": torch.tensor(3)}, tmp_path / "weights.pth")
    state = read(tmp_path / "weights.pth").state
    assert torch.equal(state["w"], values) and state["w"].dtype == torch.float32
    assert state["steps"].dtype == torch.int64


def test_arrays_of_another_byte_order_are_read_and_texts_left_out(tmp_path):
    np.savez(tmp_path / "w.npz", w=np.arange(3, dtype=">f4"), note=np.array("made by hand"), step=np.int64(3))
    state = read(tmp_path / "w.npz").state
    assert state.keys() == {"w", "step"}
    assert torch.equal(state["w"], torch.arange(3.0)) and state["step"].shape == ()


def test_shapes_that_an_adapter_cannot_take_apart_are_refused_in_words():
    state = {key: torch.zeros(tensor.shape) for key, tensor in hollow().items()}
    state["backbone.0.0.weight"] = torch.zeros(())
    with pytest.raises(AtrousError, match="is not a DeepLab model of torchvision, or is incomplete"):
        atrous.convert(state, source="torchvision")


@pytest.mark.parametrize("module", ["mmcv.utils.config", "mmengine.config.config"])
@pytest.mark.parametrize("zip_file", [True, False])
def test_configurations_of_openmmlab_are_read_as_dicts(tmp_path, module, zip_file, monkeypatch):
    class ConfigDict(dict):
        """As addict's Dict pickles itself: filled by items, with itself as its state."""

        def __getstate__(self):
            return self

        def __setstate__(self, state):
            self.update(state)

    ConfigDict.__module__, ConfigDict.__qualname__ = module, "ConfigDict"
    stand_in = types.ModuleType(module)
    vars(stand_in)["ConfigDict"] = ConfigDict
    packages = [module.rsplit(".", up)[0] for up in range(3)]
    for name in packages:
        monkeypatch.setitem(sys.modules, name, stand_in)
    checkpoint = {"state_dict": {"w": torch.ones(2)}, "meta": ConfigDict(CLASSES=("a", "b"), model=ConfigDict(a=1))}
    torch.save(checkpoint, tmp_path / "w.pth", _use_new_zipfile_serialization=zip_file)
    for name in packages:
        monkeypatch.delitem(sys.modules, name)
    found = read(tmp_path / "w.pth")
    assert found.state["w"].tolist() == [1, 1]
    assert found.config["meta"] == {"CLASSES": ("a", "b"), "model": {"a": 1}}


def test_filled_defaultdicts_are_no_code(tmp_path):
    lists, numbers = defaultdict(list), defaultdict(int)
    lists["loss"].append(0.5)
    numbers["seen"] += 3
    torch.save({"model": {"w": torch.ones(2)}, "log": lists, "n": numbers}, tmp_path / "w.pth")
    assert torch.equal(read(tmp_path / "w.pth").state["w"], torch.ones(2))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("frozen_inference_graph.pb", "TensorFlow graph"),
        ("model.ckpt-30000.index", "TensorFlow checkpoint"),
        ("model.ckpt-30000.data-00000-of-00001", "TensorFlow checkpoint"),
        ("model.onnx", "ONNX graph"),
    ],
)
def test_what_is_not_read_is_named_with_what_to_do(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"\x0a\x10" + bytes(64))
    with pytest.raises(AtrousError, match=rf"{kind}, which cannot be read; save its weights by name as \.npz"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("backbone.conv.weight", torch.tensor([1.0, torch.nan]), "not finite"),
        ("backbone.conv.weight", torch.tensor([1.0, -torch.inf]), "not finite"),
        ("backbone.bn.running_var", torch.tensor([1.0, -0.5]), "negative variances"),
        ("backbone.conv.weight", torch.ones(2, device="meta"), "meta device"),
    ],
)
def test_values_that_no_network_can_run_on_are_refused(name, values, message):
    with pytest.raises(AtrousError, match=f"'{name}' .*{message}"):
        check_values(Adapted("deeplabv3", {}, {name: values}))


def hollow(num_classes: int = 21) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        net = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=num_classes
        )
    return net.state_dict()


def test_not_finite_weights_are_refused_whole():
    state = {key: torch.zeros(tensor.shape) for key, tensor in hollow().items()}
    state["backbone.3.block.0.0.weight"][0] = torch.nan
    with pytest.raises(AtrousError, match=r"'backbone\.net\.blocks\.1\.1\.conv_pw\.weight' has values that are not"):
        atrous.convert(state)
    with pytest.raises(AtrousError, match="meta device"):
        atrous.convert(hollow())


def test_a_width_that_would_fill_the_memory_is_refused_before_anything_is_made():
    """A quarter of a megabyte that asks for a network of 50 GB."""
    state = hollow()
    state["classifier.4.weight"] = torch.zeros(1, 60_000, 1, 1)
    with pytest.raises(AtrousError, match="differs in shape"):
        atrous.convert(state, source="torchvision")


RECORDS = [
    ({"CLASSES": ["a\x1b[31m", "b"]}, None),
    ({"CLASSES": ["a" * 1000, "b"]}, None),
    ({"CLASSES": ["a", "b"], "PALETTE": [[0, 0, 0], [300, 0, 0]]}, ("a", "b")),
    ({"CLASSES": ["a", "b"], "PALETTE": [[0, 0, 0], [float("inf"), 0, 0]]}, ("a", "b")),
    ({"CLASSES": ["a", "b"], "PALETTE": 3}, ("a", "b")),
    ({"CLASSES": {"a": 1, "b": 2}}, None),
]


@pytest.mark.parametrize(("meta", "expected"), RECORDS)
def test_a_record_of_classes_is_not_trusted(meta, expected):
    found = mmseg._classes(meta, 2).get("classes")
    assert (found.names if found else None) == expected
    if found:
        assert found.colors == ((0, 0, 0), (128, 0, 0))


@pytest.mark.parametrize(
    "text", ["strides=(" + "9" * 5000 + ")", "strides=(" + "1" * 100_000, "strides=(" + "1," * 100_000, "strides=(,)"]
)
def test_a_configuration_is_not_trusted(text):
    assert "output_stride" not in mmseg._told(text)


def test_names_that_are_no_text_are_not_written_out():
    """Twenty lists, each twice the one before: a megabyte to write out, as thirty would be a gigabyte."""
    nested: list = []
    for _ in range(20):
        nested = [nested, nested]
    tracemalloc.start()
    try:
        assert class_names([nested, "b"], 2, "CLASSES")[0] is None
        assert tracemalloc.get_traced_memory()[1] < 2**18
    finally:
        tracemalloc.stop()


def test_more_classes_than_masks_can_hold_leave_placeholders():
    many = [f"class {index}" for index in range(300)]
    assert class_names(many, 300, "CLASSES")[0] is None
    assert huggingface.classes({"id2label": dict(enumerate(many))}, 300) is None


@pytest.mark.parametrize("mean", [[float("nan")] * 3, [float("inf")] * 3])
def test_preprocessing_that_is_not_finite_is_refused(mean):
    with pytest.raises(AtrousError, match=r"preprocessor_config\.json"):
        huggingface.preprocessing({"image_mean": mean}, 3)


def test_reports_never_overwrite_inputs(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(1)}, path)
    (tmp_path / "config.json").write_text("{}")
    before = path.read_bytes()
    with pytest.raises(AtrousError, match=r"json is .*, the file to convert"):
        atrous.convert(path, json=path)
    with pytest.raises(AtrousError, match=r"json is .*, the file to convert"):
        atrous.convert(tmp_path, json=tmp_path / "config.json")
    with pytest.raises(AtrousError, match="out and json are both"):
        atrous.convert(path, out=tmp_path / "new.safetensors", json=tmp_path / "new.safetensors")
    assert path.read_bytes() == before
    assert (tmp_path / "config.json").read_text() == "{}"


@pytest.mark.needs("links")
def test_links_are_followed_as_hubs_keep_their_files(tmp_path):
    (tmp_path / "blobs").mkdir()
    save_file({"w": torch.ones(2)}, tmp_path / "blobs" / "0a1b")
    (tmp_path / "blobs" / "2c3d").write_text('{"model_type": "mobilenet_v2"}')
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to("../blobs/0a1b")
    (folder / "config.json").symlink_to("../blobs/2c3d")
    found = read(folder)
    assert isinstance(found, Foreign)
    assert (found.config["model_type"], found.state["w"].tolist()) == ("mobilenet_v2", [1.0, 1.0])
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    with pytest.raises(AtrousError, match="no file at"):
        read(tmp_path / "loop.pth")


def test_shapes_are_read(tmp_path):
    shapes = [torch.Size(size) for size in ((), (3,), (2, 3), (2, 3, 4), (2, 3, 4, 5), (70_000, 2**40))]
    torch.save({"w": torch.ones(2), "shapes": shapes, "again": shapes}, tmp_path / "a.pth")
    torch.save({"w": torch.ones(2), "shapes": shapes}, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    for name in ("a.pth", "b.pth"):
        assert read_torch(tmp_path / name)["shapes"] == shapes
