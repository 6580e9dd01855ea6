"""Wrappers' words, losses, counters and other sets of weights beside a network change nothing of what is converted."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import seeded
import timm
import torch

import atrous
from atrous.errors import AtrousError
from atrous.models.wrapper_prefixes import without_wrappers
from atrous.weights import detect_source, stored_normalisation, weight_sets
from atrous.weights.adapter import set_aside
from atrous.weights.read_checkpoint import Foreign, from_state_dict

torchvision = pytest.importorskip("torchvision")
smp = pytest.importorskip("segmentation_models_pytorch")
transformers = pytest.importorskip("transformers")

State = dict[str, torch.Tensor]


def tensorflow_state() -> State:
    names = {
        "MobilenetV2/Conv/weights": (3, 3, 3, 8),
        "MobilenetV2/expanded_conv/depthwise/depthwise_weights": (3, 3, 8, 1),
        "image_pooling/weights": (1, 1, 8, 8),
        "logits/semantic/weights": (1, 1, 8, 3),
        "logits/semantic/biases": (3,),
    }
    return {name: torch.empty(shape) for name, shape in names.items()}


def transformers_state() -> State:
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, num_labels=3)
    return transformers.MobileNetV2ForSemanticSegmentation(config).state_dict()


BUILDERS = {
    "torchvision": lambda: torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None
    ).state_dict(),
    "smp": lambda: smp.DeepLabV3Plus("tu-mobilenetv2_050", encoder_weights=None).state_dict(),
    "huggingface": transformers_state,
    "tensorflow": tensorflow_state,
    "mmseg": lambda: seeded.hollow("mmseg_deeplabv3_r18-d8"),
    "vainf": lambda: seeded.hollow("vainf_deeplabv3_mobilenet"),
    "kazuto1011": lambda: seeded.hollow("kazuto1011_deeplabv2_resnet101"),
    "timm-backbone": lambda: timm.create_model("mobilenetv2_035").state_dict(),
    "vgg16": lambda: torchvision.models.vgg16().state_dict(),
}


@cache
def state_of(source: str) -> State:
    """A state dict of a source, small numbers in shapes that are not compared here."""
    with torch.device("meta"):
        state = BUILDERS[source]()
    return {key: torch.full((), index / 7).expand(tensor.shape) for index, (key, tensor) in enumerate(state.items())}


def contiguous(state: State) -> State:
    """Tensors with numbers of their own, as files have them; of one number each where only keys matter."""
    return {key: tensor.reshape(-1)[:1].clone() if tensor.numel() else tensor for key, tensor in state.items()}


def separator(source: str) -> str:
    return "/" if source == "tensorflow" else "."


PREFIXES = ("", "module.", "model.", "net.module.", "_orig_mod.segmentation_model.", "a.b.c.", "_forward_module.model.")
INFIXES = ("", "module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_some_wrapped_part")
BESIDE: tuple[State, ...] = (
    {},
    {"criterion.weight": torch.ones(3), "loss.pos_weight": torch.ones(1), "n_averaged": torch.tensor(4)},
    {"metrics.confusion": torch.zeros(3, 3), "total_ops": torch.zeros(1), "total_params": torch.zeros(1)},
    {
        f"{name}{kind}": torch.full((elements,), 0.4)
        for name, elements in (("depth_", 1), ("loss.", 3), ("profiler.", 1), ("criterion.target_", 3))
        for kind in ("mean", "std")
    },
)


@pytest.mark.slow
@pytest.mark.parametrize("source", detect_source.SOURCES)
def test_the_same_state_whatever_is_around_and_beside(source):
    """Of every source × prefix × word inside × what is beside."""
    plain = contiguous(state_of(source))
    mark = separator(source)
    for prefix, infix, beside in itertools.product(PREFIXES, INFIXES, BESIDE):
        wrapped = {}
        for key, tensor in plain.items():
            first, _, rest = key.partition(mark)
            inside = f"{first}{mark}{infix}{mark}{rest}" if infix and rest else key
            wrapped[prefix.replace(".", mark) + inside] = tensor
        chosen = weight_sets.choose(from_state_dict({"state_dict": wrapped | beside}))
        found = chosen.foreign.state
        # where nothing stands before the network's keys, the adapter leaves over what it does not know
        unknown = found.keys() - plain.keys()
        assert not unknown or not without_wrappers(f"{prefix}x").removesuffix("x")
        assert not plain.keys() - found.keys(), (prefix, infix)
        assert not [key for key in plain if not torch.equal(found[key], plain[key])]
        assert detect_source.recognising(chosen.foreign) == [source]
        assert {*chosen.beside, *unknown} == beside.keys() - {"n_averaged"}
        assert stored_normalisation.pairs(wrapped | beside, 3) == []
        assert chosen.notes == ()


@pytest.mark.parametrize("source", sorted(set(detect_source.SOURCES) - {"tensorflow"}))
def test_what_no_source_knows_is_left_over_by_each(source):
    """Beside the network and in its parts, where nothing stands before its keys."""
    plain, given = state_of(source), {"backbone": "mobilenetv2_035"} if source == "timm-backbone" else {}
    first = next(iter(plain)).rpartition(".")[0]
    beside = {
        "criterion.weight": torch.ones(3),
        "metrics.confusion": torch.ones(3, 3),
        f"{first}.spread": torch.ones(4),
    }
    adapter = detect_source.adapter_of(source)
    files = [weight_sets.choose(Foreign(state)).foreign for state in (plain, {**plain, **beside})]
    found = [adapter.adapt(file, given) for file in files]
    with torch.device("meta"):
        ours = atrous.create_model(found[0].architecture, **found[0].arguments).state_dict()
    without, among = (set_aside(each, ours, file.state) for each, file in zip(found, files, strict=True))
    assert without.arguments == among.arguments
    assert without.state.keys() == among.state.keys()
    assert set(among.left_over) - set(without.left_over) == beside.keys()


@pytest.mark.parametrize("source", detect_source.SOURCES)
def test_counters_in_a_networks_parts_are_left_over(source):
    plain, mark = contiguous(state_of(source)), separator(source)
    parts = {key.rpartition(mark)[0] for key in plain}
    counters = {f"{part}{mark}{name}": torch.zeros(1) for part in parts for name in ("total_ops", "total_params")}
    chosen = weight_sets.choose(from_state_dict(plain | counters))
    assert chosen.foreign.state.keys() == plain.keys()
    assert set(chosen.beside) == counters.keys()


@pytest.mark.parametrize("source", detect_source.SOURCES)
@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (("state_dict", "state_dict_ema"), "state_dict"),
        (("state_dict_ema", "state_dict"), "state_dict"),
        (("model", "ema"), "model"),
        (("teacher", "student"), "student"),
        (("first", "second"), "first"),
    ],
)
@pytest.mark.parametrize("nested", [True, False], ids=["dicts", "prefixes"])
def test_of_several_sets_one_is_taken_by_rule_and_both_are_named(source, names, taken, nested):
    """The first that is not named as an average or a teacher; or the one that the user names."""
    base, mark = contiguous(state_of(source)), separator(source)
    made = {name: {key: tensor + index + 1 for key, tensor in base.items()} for index, name in enumerate(names)}
    flat = {f"{name}{mark}{key}": tensor for name, state in made.items() for key, tensor in state.items()}
    foreign = from_state_dict(made if nested else flat)
    chosen = weight_sets.choose(foreign)
    key = next(iter(base))
    assert torch.equal(chosen.foreign.state[key], made[taken][key].float())
    (note,) = chosen.notes
    assert all(name in note for name in names)
    assert f"Taken: {taken}." in note
    (other,) = set(names) - {taken}
    assert chosen.beside == (f"{other}.*",)
    named = weight_sets.choose(foreign, weights=other)
    assert torch.equal(named.foreign.state[key], made[other][key].float())
    assert named.beside == (f"{taken}.*",)
    with pytest.raises(AtrousError, match=f"unknown set of weights '{other}s'. Did you mean '{other}'"):
        weight_sets.choose(foreign, weights=f"{other}s")


def test_an_average_around_the_same_names_is_a_set_of_its_own():
    plain = contiguous(state_of("torchvision"))
    chosen = weight_sets.choose(from_state_dict(plain | {f"module.{key}": tensor + 1 for key, tensor in plain.items()}))
    key = next(iter(plain))
    assert torch.equal(chosen.foreign.state[key], plain[key])
    assert chosen.beside == ("module.*",)


def test_a_backbone_in_another_segmenter_is_not_taken_for_all_of_it():
    with torch.device("meta"):
        unet = smp.Unet("resnet18", encoder_weights=None).state_dict()
    unet = {key: torch.zeros(tensor.shape) for key, tensor in unet.items()}
    for state in (unet, {f"model.{key}": tensor for key, tensor in unet.items()}):
        with pytest.raises(AtrousError, match="no source recognises"):
            atrous.convert(state)
    with pytest.raises(AtrousError, match="holds no set of weights that a source recognises"):
        atrous.convert(unet, weights="ema")


def test_words_are_dropped_as_parts_of_names_alone():
    assert without_wrappers("module.a._orig_mod.b.module.weight") == "a.b.weight"
    assert without_wrappers("model/module/Conv/weights") == "model/Conv/weights"
    for key in ("modules.0.weight", "encoder._conv_stem.weight", "my_module.weight", "a.module", "encoder._blocks.0.x"):
        assert without_wrappers(key) == key


@cache
def mobilenet(num_classes: int = 3, aux: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    build = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large
    return build(weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=aux).eval()


def test_pruned_and_weight_normalised_networks_are_whole_again():
    state = mobilenet().state_dict()
    conv, last = "backbone.0.0.weight", "classifier.4.weight"
    mask = (state[conv] > 0).float()
    wrapped = {key: tensor for key, tensor in state.items() if key not in (conv, last)}
    wrapped |= {f"{conv}_orig": state[conv], f"{conv}_mask": mask}
    length = torch.linalg.vector_norm(state[last], dim=(1, 2, 3), keepdim=True)
    wrapped |= {f"{last}_g": 2 * length, f"{last}_v": state[last]}
    found = atrous.convert(wrapped).state_dict()
    assert torch.equal(found["backbone.net.conv_stem.weight"], state[conv] * mask)
    torch.testing.assert_close(found["classifier.weight"], 2 * state[last])


@pytest.mark.slow
def test_the_command_takes_the_set_that_is_named(tmp_path, capsys):
    from atrous.cli import main

    state = mobilenet().state_dict()
    averaged = {key: tensor + 1 if key == "classifier.4.bias" else tensor for key, tensor in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": averaged}, tmp_path / "both.pth")
    out = tmp_path / "model.safetensors"
    assert main(["convert", str(tmp_path / "both.pth"), "--weights", "state_dict_ema", "--out", str(out)]) == 0
    assert torch.equal(atrous.load(out).state_dict()["classifier.bias"], averaged["classifier.4.bias"])
    assert atrous.load(out).info.provenance["left_over"] == ["state_dict.*"]
    assert "other sets of weights, too: state_dict." in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "both.pth")]) == 0
    assert "Taken: state_dict. Averages" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("wrap", [False, True])
def test_an_auxiliary_head_of_another_size_is_left_over(wrap, tmp_path):
    resnet = torchvision.models.segmentation.deeplabv3_resnet50
    with torch.device("meta"):
        state = resnet(weights=None, weights_backbone=None, aux_loss=True, num_classes=21).state_dict()
        main = resnet(weights=None, weights_backbone=None, num_classes=3).state_dict()
    state |= {key: tensor for key, tensor in main.items() if key.startswith("classifier.4.")}
    if wrap:
        state = {f"model.{key}": tensor for key, tensor in state.items()}
    chosen = weight_sets.choose(from_state_dict(state))
    adapted = detect_source.adapter_of("torchvision").adapt(chosen.foreign, {})
    with torch.device("meta"):
        ours = atrous.create_model(adapted.architecture, **adapted.arguments).state_dict()
    fitting = set_aside(adapted, ours, chosen.foreign.state)
    assert fitting.arguments["auxiliary"] is False
    assert {key.partition(".")[0] for key in fitting.left_over} == {"aux_classifier"}
    assert "aux_classifier.4.weight" in fitting.left_over
    assert "21 outputs instead of 3" in fitting.notes[0]


def averaged_state() -> State:
    """TF-slim's, with an average of each trained variable beside it; statistics of norms have none."""
    state = {name: torch.full(shape.shape, 1.0) for name, shape in tensorflow_state().items()}
    state["MobilenetV2/Conv/BatchNorm/moving_mean"] = torch.full((8,), 3.0)
    averages = {
        f"{name}/ExponentialMovingAverage": torch.full(tensor.shape, 2.0)
        for name, tensor in state.items()
        if "moving" not in name
    }
    return (
        state
        | averages
        | {"global_step": torch.tensor(7), "MobilenetV2/Conv/weights/Momentum": torch.zeros(3, 3, 3, 8)}
    )


def test_tensorflows_averages_are_a_set_of_their_own():
    state = averaged_state()
    chosen = weight_sets.choose(from_state_dict(state))
    assert (chosen.foreign.state["MobilenetV2/Conv/weights"] == 1).all()
    assert "main, ExponentialMovingAverage" in chosen.notes[0]
    assert "ExponentialMovingAverage.*" in chosen.beside
    named = weight_sets.choose(from_state_dict(state), weights="ExponentialMovingAverage").foreign.state
    assert (named["MobilenetV2/Conv/weights"] == 2).all()
    assert (named["MobilenetV2/Conv/BatchNorm/moving_mean"] == 3).all()
    assert not any("ExponentialMovingAverage" in key for key in (*named, *chosen.foreign.state))


def test_averages_alone_are_the_weights():
    trained = {name: tensor for name, tensor in averaged_state().items() if "Exponential" in name or "moving" in name}
    chosen = weight_sets.choose(from_state_dict(trained))
    assert (chosen.foreign.state["MobilenetV2/Conv/weights"] == 2).all()
    assert chosen.notes == ()
