"""Files of other libraries: good ones are read, harmful ones run nothing, and every refusal is a sentence."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import atrous
from atrous.errors import AtrousError
from atrous.weights.read_checkpoint import from_state_dict, read
from atrous.weights.torch_unpickler import HARMLESS

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}


class Harm:
    """Unpickled, it would create a file."""

    def __init__(self, target: Path, call=os.system) -> None:
        self.target, self.call = target, call

    def __reduce__(self):
        return self.call, (f"touch {self.target}",) if self.call is os.system else (str(self.target), "w")


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".tar", ""])
def test_pytorch_files_by_their_content_not_their_name(tmp_path, zipped, suffix):
    path = tmp_path / f"weights{suffix}"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    assert same(read(path).state)
    assert read(path).name == path.name


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_safetensors(tmp_path, suffix):
    save_file(STATE, tmp_path / f"weights{suffix}")
    assert same(read(tmp_path / f"weights{suffix}").state)


@pytest.mark.parametrize("compressed", [True, False])
def test_npz(tmp_path, compressed):
    write = np.savez_compressed if compressed else np.savez
    write(tmp_path / "weights.npz", **{name: tensor.numpy() for name, tensor in STATE.items()})
    assert same(read(tmp_path / "weights.npz").state)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_hugging_face_folder_or_the_file_in_it(tmp_path, file):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mobilenet_v2"}))
    save_file(STATE, tmp_path / file) if file.endswith("safetensors") else torch.save(STATE, tmp_path / file)
    for path in (tmp_path, tmp_path / file):
        assert same(read(path).state)
        assert read(path).config == {"model_type": "mobilenet_v2"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": 0.5}))
    assert read(tmp_path).config == {"model_type": "mobilenet_v2", "preprocessor": {"image_mean": 0.5}}


def test_a_config_beside_another_file_is_not_its_own(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    torch.save(STATE, tmp_path / "weights.pth")
    assert read(tmp_path / "weights.pth").config == {}


@pytest.mark.parametrize(
    "wrapped",
    [
        {"state_dict": STATE},
        {"model_state": STATE, "optimizer_state": {"state": {}}, "cur_itrs": 30000},
        {"model": STATE, "epoch": 3, "args": argparse.Namespace(lr=0.02)},
        {"model_state_dict": STATE, "loss": torch.tensor(3.0)},
        {"net": {"state_dict": STATE}},
        {"ema": STATE},
        {"n_averaged": torch.tensor(3), **{f"module.{name}": tensor for name, tensor in STATE.items()}},
        {"state_dict": {f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()}},
        {"model": {f"model.{name}": tensor for name, tensor in STATE.items()}, "ema": {"other": torch.ones(1)}},
    ],
    ids=lambda wrapped: ",".join(wrapped)[:40],
)
def test_wrappers_and_prefixes_are_taken_off(tmp_path, wrapped):
    assert same(from_state_dict(wrapped).state)
    torch.save(wrapped, tmp_path / "checkpoint.pth")
    assert same(read(tmp_path / "checkpoint.pth").state)


def test_a_prefix_that_not_all_keys_share_is_a_name():
    state = {"model.weight": torch.ones(1), "head.weight": torch.ones(1)}
    assert from_state_dict(state).state.keys() == state.keys()


@pytest.fixture
def history_buffer(monkeypatch):
    """A class of mmengine's name, with its fields as mmengine.logging.history_buffer pickles them."""
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self) -> None:
            self._max_length = 1000000
            self._log_history = np.array([0.5, 0.25])
            self._count_history = np.array([1, 1])
            self._statistics_methods = {"mean": self.mean}

        def mean(self) -> float:
            return float(self._log_history.mean())

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    vars(module)["HistoryBuffer"] = HistoryBuffer
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    return HistoryBuffer


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_training_checkpoints_with_harmless_records(tmp_path, zipped, history_buffer, monkeypatch):
    checkpoint = {
        "state_dict": STATE,
        "best_score": np.float64(0.77),
        "meta": {"seed": np.int64(3), "palette": np.zeros((21, 3)), "folder": Path("runs/1"), "cfg": "model = …"},
        "message_hub": {"log_scalars": {"loss": history_buffer()}},
        "options": argparse.Namespace(lr=0.1, decay=[1, 2]),
    }
    torch.save(checkpoint, tmp_path / "iter_80000.pth", _use_new_zipfile_serialization=zipped)
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.delitem(sys.modules, name)  # whoever converts does not have it
    assert same(read(tmp_path / "iter_80000.pth").state)
    assert "mmengine" not in sys.modules


def test_reading_leaves_no_name_allowed(tmp_path):
    torch.save(STATE, tmp_path / "weights.pth")
    before = torch.serialization.get_safe_globals()
    read(tmp_path / "weights.pth")
    assert set(torch.serialization.get_safe_globals()) == set(before)


@pytest.mark.parametrize("call", [os.system, open, eval, exec], ids=lambda call: call.__name__)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", [".pth", ".bin"])
def test_a_malicious_pickle_runs_nothing(tmp_path, call, zipped, suffix):
    target, path = tmp_path / "harm", tmp_path / f"weights{suffix}"
    torch.save({**STATE, "x": Harm(target, call)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        AtrousError, match=r"holds more than weights: it names '[\w.]+', which is code. Nothing was run"
    ):
        read(path)
    assert not target.exists()


def test_the_malicious_pickle_is_a_real_one(tmp_path):
    pickle.loads(pickle.dumps(Harm(tmp_path / "harm")))
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".npz", ".pkl", ".safetensors", ".tflite"])
def test_a_bare_malicious_pickle_runs_nothing(tmp_path, suffix):
    target, path = tmp_path / "harm", tmp_path / f"weights{suffix}"
    path.write_bytes(pickle.dumps({"weight": Harm(target)}, protocol=2))
    with pytest.raises(AtrousError, match=str(path)):
        read(path)
    assert not target.exists()


def test_object_arrays_in_npz_run_nothing(tmp_path):
    target, path = tmp_path / "harm", tmp_path / "weights.npz"
    np.savez(path, weight=np.array([Harm(target)], dtype=object))
    with pytest.raises(AtrousError, match="Object arrays cannot be loaded"):
        read(path)
    assert not target.exists()


@pytest.mark.parametrize("name", ["builtins.getattr", "numpy._core.multiarray._reconstruct", "pathlib.PosixPath"])
def test_a_harmless_name_leads_to_nothing_harmful(tmp_path, name):
    """getattr(os, "system")-like chains begin with a name that is refused, and end in a stand-in that does nothing."""
    target = tmp_path / "harm"
    module, _, attribute = name.rpartition(".")
    # {"weight": name(("touch …",))}, then the result is called again
    words = b"".join(
        b"X" + len(word).to_bytes(4, "little") + word for word in (b"__import__", f"touch {target}".encode())
    )
    program = b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b"(" + words + b"tR" + b")R."
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
    assert name in HARMLESS
    with pytest.raises(AtrousError):
        read(path)
    assert not target.exists()


def test_a_whole_pickled_module_is_refused_with_what_to_do(tmp_path):
    torch.save(torch.nn.Conv2d(3, 4, 1), tmp_path / "model.pth")
    with pytest.raises(AtrousError, match=r"torch.nn.modules.conv.Conv2d.*torch.save\(model.state_dict\(\), file\)"):
        read(tmp_path / "model.pth")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.jit is deprecated, its files are not gone
def test_torchscript_is_refused_with_what_to_do(tmp_path):
    script = torch.jit.trace(torch.nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 8, 8))
    torch.jit.save(script, str(tmp_path / "model.pt"))
    with pytest.raises(AtrousError, match="is a TorchScript program"):
        read(tmp_path / "model.pt")


def whole(suffix: str, path: Path) -> bytes:
    if suffix == ".npz":
        np.savez(path, weight=np.ones((64, 64), np.float32))
    elif suffix == ".safetensors":
        save_file({"weight": torch.ones(64, 64)}, path)
    else:
        torch.save({"weight": torch.ones(64, 64)}, path, _use_new_zipfile_serialization=suffix == ".pth")
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.98])
@pytest.mark.parametrize("suffix", [".pth", ".legacy", ".safetensors", ".npz"])
def test_truncated(tmp_path, suffix, share):
    path = tmp_path / f"weights{suffix}"
    content = whole(suffix, path)
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(AtrousError, match=str(path)):
        read(path)


@pytest.mark.parametrize("suffix", [".pth", ".npz"])
def test_a_flipped_bit_in_a_zip_that_has_its_end(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    content = bytearray(whole(suffix, path))
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(AtrousError, match=str(path)):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: 0 bytes"),
        (b"<!DOCTYPE html><html><body>Quota exceeded</body></html>", "is a web page"),
        (b"\n <HTML>404", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "is a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "is an HDF5 file"),
        (b"\x1f\x8b\x08\0" + b"\0" * 64, "gzip"),
        (b"just some text, long enough to be read", "is a text file, not a checkpoint: it begins 'just some"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "is truncated or damaged, or not a checkpoint"),
        (os.urandom(4096), "weights.pth"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:16],
)
def test_other_things_saved_as_a_checkpoint(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(AtrousError, match=message):
        read(path)


def zipped_text() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return buffer.getvalue()


def test_another_zip_file(tmp_path):
    (tmp_path / "weights.zip").write_bytes(zipped_text())
    with pytest.raises(AtrousError, match="neither PyTorch's nor NumPy's"):
        read(tmp_path / "weights.zip")


def test_an_optimisers_state(tmp_path):
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pth")
    with pytest.raises(AtrousError, match="is the state of an optimiser"):
        read(tmp_path / "optimizer.pth")


@pytest.mark.parametrize("content", [3, [torch.ones(2)], {}, {"epoch": 3}, {"state_dict": {}}, {0: torch.ones(2)}])
def test_no_weights(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(AtrousError, match="holds no weights"):
        read(tmp_path / "weights.pth")


def test_nothing_there(tmp_path):
    with pytest.raises(AtrousError, match="no file at"):
        read(tmp_path / "absent.pth")
    with pytest.raises(AtrousError, match=r"without config\.json"):
        read(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AtrousError, match=r"has a config\.json but no weights"):
        read(tmp_path)


@pytest.mark.parametrize("config", ["{", "[1]", "[" * 100_000])
def test_a_folder_with_a_broken_config(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    save_file(STATE, tmp_path / "model.safetensors")
    with pytest.raises(AtrousError, match=r"config\.json (cannot be read as JSON|is not)"):
        read(tmp_path)


def test_our_own_files_are_told_apart(tmp_path):
    model = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_035", num_classes=2)
    atrous.save(model, tmp_path / "model.safetensors")
    with pytest.raises(AtrousError, match=r"is already a model file of atrous.*atrous predict"):
        read(tmp_path / "model.safetensors")
    save_file(STATE, tmp_path / "last.safetensors", {"atrous-checkpoint": "{}"})
    with pytest.raises(AtrousError, match=r"is a training checkpoint of atrous.*best\.safetensors"):
        read(tmp_path / "last.safetensors")


def test_a_module_is_no_state_dict():
    with pytest.raises(AtrousError, match=r"is a torch\.nn\.Module; give its state_dict\(\)"):
        from_state_dict(torch.nn.Linear(2, 2))  # pyright: ignore[reportArgumentType]
