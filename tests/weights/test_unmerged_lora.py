"""Adapters beside a network's layers are a part of it: without them its masks are others, so they are to be merged."""

from __future__ import annotations

import pytest
import torch

import atrous
from atrous.errors import AtrousError
from atrous.weights.unmerged_lora import check_merged

torchvision = pytest.importorskip("torchvision")


def network() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    build = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large
    return build(weights=None, weights_backbone=None, num_classes=3).state_dict()


LAYER = "classifier.4"
ADAPTERS = {
    "loralib": {f"{LAYER}.lora_A": (4, 256), f"{LAYER}.lora_B": (3, 4)},
    "peft": {f"{LAYER}.lora_A.default.weight": (4, 256, 1, 1), f"{LAYER}.lora_B.default.weight": (3, 4, 1, 1)},
    "embeddings": {f"{LAYER}.lora_embedding_A.default": (4, 256), f"{LAYER}.lora_embedding_B.default": (3, 4)},
    "DoRA": {f"{LAYER}.lora_magnitude_vector.default.weight": (1, 3, 1, 1)},
    "diffusers": {f"{LAYER}.lora.down.weight": (4, 256), f"{LAYER}.lora.up.weight": (3, 4)},
    "kohya": {f"{LAYER}.lora_down.weight": (4, 256), f"{LAYER}.lora_up.weight": (3, 4)},
    "torchtune": {f"{LAYER}.lora_a.weight": (4, 256), f"{LAYER}.lora_b.weight": (3, 4)},
    "parametrization": {f"{LAYER}.parametrizations.weight.0.lora_A": (4, 256)},
    "LoHa": {f"{LAYER}.hada_w1_a.default": (3, 4), f"{LAYER}.hada_w1_b.default": (4, 256)},
    "LoKr": {f"{LAYER}.lokr_w1.default": (3, 4), f"{LAYER}.lokr_w2_a.default": (4, 16)},
    "IA3": {f"{LAYER}.ia3_l.default": (3, 1)},
    "OFT": {f"{LAYER}.oft_R.default.weight": (4, 6)},
}


@pytest.mark.parametrize("adapters", ADAPTERS.values(), ids=ADAPTERS)
@pytest.mark.parametrize("place", ["", "model.", "base_model.model."])
def test_unmerged_adapters_are_refused_with_how_to_merge_them(adapters, place):
    state = {f"{place}{key}": tensor for key, tensor in network().items()}
    state |= {f"{place}{key}": torch.zeros(shape) for key, shape in adapters.items()}
    with pytest.raises(AtrousError, match=r"not merged .*: .*classifier\.4\..*merge_and_unload\(\)"):
        atrous.convert({"state_dict": state})


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_peft_as_it_saves_a_whole_model(prefix):
    state = {}
    for key, tensor in network().items():
        layer, _, leaf = key.rpartition(".")
        state[f"{prefix}{layer}.base_layer.{leaf}" if layer == LAYER else f"{prefix}{key}"] = tensor
    with pytest.raises(AtrousError, match="base_layer"):
        atrous.convert(state)
    whole = {f"{prefix}{LAYER}.original_module.weight": torch.zeros(3, 256, 1, 1)}
    with pytest.raises(AtrousError, match="original_module"):
        atrous.convert({**network(), **whole})


def test_adapters_alone_are_named_as_such(tmp_path):
    """What peft's save_pretrained writes."""
    torch.save({f"base_model.model.{LAYER}.lora_A.weight": torch.zeros(4, 256)}, tmp_path / "adapter_model.bin")
    with pytest.raises(AtrousError, match=r"adapter_model\.bin holds adapters \(such as LoRA\)"):
        atrous.convert(tmp_path / "adapter_model.bin")


@pytest.mark.slow
def test_a_set_that_has_none_may_be_named():
    adapters = {f"{LAYER}.lora_A": torch.zeros(4, 256)}
    both = {"state_dict": {**network(), **adapters}, "merged": network()}
    with pytest.raises(AtrousError, match="lora_A"):
        atrous.convert(both)
    assert atrous.convert(both, weights="merged").info.arguments["num_classes"] == 3
    with pytest.raises(AtrousError, match="lora_A"):
        atrous.convert({"state_dict": network(), "lora": adapters})


@pytest.mark.parametrize(
    "key",
    [
        "backbone.base_layer.0.weight",  # of DLA
        "exploration.weight",
        "flora.conv.weight",
        "backbone.module.weight",
        "explorable_lora_free.weight",
        "base_layers.weight",
    ],
)
def test_other_names_are_none_of_adapters(key):
    check_merged([key], "")
