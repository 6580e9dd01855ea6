"""Weights in several files are read by their index, and an index that lies is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import atrous
from atrous.errors import AtrousError
from atrous.weights import read_checkpoint

transformers = pytest.importorskip("transformers")

STATE = {f"layer{index}.weight": torch.full((2, 2), float(index)) for index in range(4)}
KINDS = {"model.safetensors": ".safetensors", "pytorch_model.bin": ".bin"}


def write(folder, kind="model.safetensors", state=STATE, change=None) -> dict:
    """Two shards and their index, as Hugging Face's libraries write them."""
    stem, suffix = kind.split(".")[0], KINDS[kind]
    keys = sorted(state)
    halves = keys[: len(keys) // 2], keys[len(keys) // 2 :]
    named = {}
    for number, half in enumerate(halves, start=1):
        file = f"{stem}-{number:05d}-of-00002{suffix}"
        part = {key: state[key].contiguous() for key in half}
        save_file(part, folder / file) if suffix == ".safetensors" else torch.save(part, folder / file)
        named |= dict.fromkeys(half, file)
    index = {"metadata": {"total_size": 64}, "weight_map": named}
    (change or (lambda index: None))(index)
    (folder / f"{kind}.index.json").write_text(json.dumps(index))
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps({"model_type": "mobilenet_v2"}))
    return index


@pytest.mark.parametrize("kind", KINDS)
def test_all_shards_are_read(tmp_path, kind):
    write(tmp_path, kind)
    for path in (tmp_path, tmp_path / f"{kind}.index.json"):
        found = read_checkpoint.read(path)
        assert found.state.keys() == STATE.keys()
        assert all(torch.equal(found.state[key], STATE[key]) for key in STATE)
        assert found.config == {"model_type": "mobilenet_v2"}


def test_a_sharded_folder_of_transformers_converts(tmp_path):
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, num_labels=3)
    torch.manual_seed(0)
    model = transformers.MobileNetV2ForSemanticSegmentation(config)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert not (tmp_path / "model.safetensors").exists()
    ours = atrous.convert(tmp_path).state_dict()
    whole = atrous.convert(model.state_dict(), output_stride=config.output_stride).state_dict()
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def lies(**weights):
    return lambda index: index["weight_map"].update(weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lies(x="../model-00001-of-00002.safetensors"), r"lists the file '\.\./model"),
        (lies(x="/etc/passwd"), "lists the file '/etc/passwd'"),
        (lies(x="..\\model.safetensors"), "lists the file"),
        (lies(x=".."), r"lists the file '\.\.'"),
        (lies(x="model-00003-of-00003.safetensors"), "lacks model-00003-of-00003.safetensors, which"),
        (lies(x="model-00001-of-00002.safetensors"), "00001-of-00002.safetensors lacks 'x'"),
        (
            lambda index: index["weight_map"].pop("layer0.weight"),
            "the index does not list it, 'layer0.weight'",
        ),
        (lambda index: index.pop("weight_map"), "not an index of weights"),
        (lambda index: index.update(weight_map=[]), "not an index of weights"),
        (lies(x=3), "not an index of weights"),
        (
            lambda index: [index["weight_map"].pop(key) for key in ("layer2.weight", "layer3.weight")],
            "contains model-00002-of-00002.safetensors, which model.safetensors.index.json does not list",
        ),
    ],
)
def test_an_index_that_does_not_fit_its_folder_is_refused(tmp_path, change, message):
    write(tmp_path, change=change)
    with pytest.raises(AtrousError, match=message):
        read_checkpoint.read(tmp_path)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"weight_map": {"a": "b", "a": "c"}}', "3"])
def test_an_index_that_is_none(tmp_path, text):
    write(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(AtrousError, match=r"model\.safetensors\.index\.json (cannot be read as JSON|is not)"):
        read_checkpoint.read(tmp_path)


def test_one_shard_alone_is_no_model(tmp_path):
    write(tmp_path)
    with pytest.raises(AtrousError, match="contains only a part of the weights: give the folder"):
        read_checkpoint.read(tmp_path / "model-00001-of-00002.safetensors")


def test_shards_are_inputs_which_nothing_overwrites(tmp_path):
    write(tmp_path)
    for file in ("model-00002-of-00002.safetensors", "model.safetensors"):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        with pytest.raises(AtrousError, match="the file to convert; give another name"):
            atrous.convert(tmp_path, out=tmp_path / file, overwrite=True)
