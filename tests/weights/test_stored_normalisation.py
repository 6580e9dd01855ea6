"""Mean and deviation that lie beside a network are used, or named with the reason why not."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import atrous
from atrous.models import Preprocessing
from atrous.weights.adapter import Adapted
from atrous.weights.stored_normalisation import applied, pairs

smp = pytest.importorskip("segmentation_models_pytorch")

OWN = Preprocessing.of_pictures((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@cache
def network() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return smp.DeepLabV3Plus("tu-mobilenetv2_050", encoder_weights=None, classes=3).state_dict()


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize(
    "names",
    [
        ("mean", "std"),
        ("pixel_mean", "pixel_std"),
        ("normalize.mean", "normalize.std"),
        ("preprocess.mean", "preprocess.std"),
        ("module.data.image_means", "module.data.image_stds"),
        ("mean_rgb", "std_rgb"),
    ],
)
@pytest.mark.parametrize("unit", [1, 255])
def test_buffers_beside_the_network_are_its_normalisation(prefix, names, unit):
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    buffers = [row(*(unit * value for value in values)) for values in (mean, std)]
    state = {f"{prefix}{key}": tensor for key, tensor in network().items()} | dict(zip(names, buffers, strict=True))
    model = atrous.convert({"state_dict": state})
    assert model.info.preprocessing.mean == pytest.approx((25.5, 51, 76.5))
    assert model.info.preprocessing.std == pytest.approx((102, 127.5, 153))
    assert not {*names} & {*model.info.provenance["left_over"]}


def test_buffers_among_the_networks_own_names_count_too(capsys):
    state = {f"model.{key}": tensor for key, tensor in network().items()}
    model = atrous.convert(
        {**state, "model.mean": torch.tensor([10.0, 20.0, 30.0]), "model.std": torch.full((3,), 50.0)}
    )
    assert model.info.preprocessing.mean == (10, 20, 30)
    assert "'model.mean' and 'model.std', stored next to the network" in capsys.readouterr().out.replace("\n", " ")


def found(tensors: dict[str, torch.Tensor], preprocessing: Preprocessing | None = None, told: bool = False) -> Adapted:
    adapted = Adapted("deeplabv3", {}, {}, tuple(tensors), preprocessing, told)
    return applied(adapted, OWN, tensors)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"mean": row(0, 0, 0), "std": row(1, 1, 1)}, "0–255 as well as 0–1"),
        ({"mean": row(-1, 0, 0), "std": row(1, 1, 1)}, "neither"),
        ({"mean": row(1, 2, float("nan")), "std": row(1, 1, 1)}, "neither"),
        ({"mean": row(1, 2, 3), "std": row(0, 1, 1)}, "neither"),
        ({"mean": row(0.5, 0.5, 0.5), "std": row(58, 57, 57)}, "neither"),
        ({"pixel_mean": row(103.53, 116.28, 123.675), "pixel_std": row(1, 1, 1)}, "in BGR order"),
        ({"mean_bgr": row(1, 2, 3), "std_bgr": row(4, 5, 6)}, "in BGR order"),
        ({"pixel_mean": row(1, 2, 3)}, "has no deviation"),
        ({"mean": row(1, 2, 3), "std": row(1, 2)}, "for each of 3 channels"),
        ({"mean": row(1, 2, 3), "std": row(2, 2, 2), "a.mean": row(9, 9, 9), "a.std": row(2, 2, 2)}, "contradict"),
    ],
)
def test_what_cannot_be_used_is_named(tensors, said):
    adapted = found(tensors)
    assert adapted.preprocessing is None
    assert adapted.left_over == tuple(tensors)
    (note,) = adapted.notes
    assert said in note
    assert all(f"'{name}'" in note for name in tensors)


def test_a_configuration_counts_over_them_and_the_note_names_both():
    told = Preprocessing.of_pictures((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    adapted = found({"mean": row(50, 60, 70), "std": row(9, 9, 9)}, told, told=True)
    assert adapted.preprocessing == told
    assert "50, 60, 70" in adapted.notes[0]
    assert "1, 2, 3" in adapted.notes[0]


def test_equal_ones_need_no_words():
    adapted = found({"mean": row(0.485, 0.456, 0.406), "std": row(0.229, 0.224, 0.225)}, OWN, told=True)
    assert adapted.notes == ()
    assert adapted.left_over == ()


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ("depth_mean", "depth_std"),
        ("loss.mean", "loss.std"),
        ("profiler.mean", "profiler.std"),
        ("criterion.target_mean", "criterion.target_std"),
        ("loss.class_mean", "loss.class_std"),
        ("model.criterion.pixel_mean", "model.criterion.pixel_std"),
        ("train_metrics.mean", "train_metrics.std"),
        ("target_normalizer.mean", "target_normalizer.std"),
        ("label_mean", "label_std"),
        ("lidar_mean", "lidar_std"),
        ("FocalLoss/mean", "FocalLoss/std"),
        ("score_means", "score_stds"),
        ("mean_of_steps", "std_of_steps"),
    ],
)
@pytest.mark.parametrize("elements", [1, 3])
def test_statistics_of_something_else_are_left_over_and_change_nothing(mean, std, elements):
    tensors = {mean: torch.full((elements,), 0.4), std: torch.full((elements,), 0.2)}
    assert pairs(tensors, 3) == []
    adapted = found(tensors)
    assert adapted.preprocessing is None
    assert adapted.left_over == (mean, std)
    assert adapted.notes == ()


@pytest.mark.parametrize("name", ["{}", "pixel_{}", "normalize.{}"])
def test_one_number_is_no_mean_of_three_channels(name):
    tensors = {name.format("mean"): torch.tensor(0.4), name.format("std"): torch.tensor(0.2)}
    assert pairs(tensors, 3) == []
    assert len(pairs(tensors, 1)) == 1


@pytest.mark.slow
def test_what_lies_beside_a_whole_network_is_named_and_changes_nothing():
    state = {f"model.{key}": tensor for key, tensor in network().items()}
    beside = {"loss.mean": torch.ones(3) / 2, "loss.std": torch.ones(3) / 4, "profiler.mean": torch.tensor(9.0)}
    plain = atrous.convert({"state_dict": state})
    model = atrous.convert({"state_dict": {**state, **beside}})
    assert model.info.preprocessing == plain.info.preprocessing
    assert {*model.info.provenance["left_over"]} == {*beside}


def test_statistics_of_norms_and_features_are_no_pictures():
    tensors = {
        "bn.running_mean": torch.ones(3),
        "bn.moving_mean": torch.ones(3),
        "batch_mean": torch.ones(3),
        "features_mean": torch.ones(64),
        "meaning": torch.ones(3),
    }
    assert pairs(tensors, 3) == []
