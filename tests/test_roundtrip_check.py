"""What is saved gives the same scores when it is loaded; another model is refused, and left as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import atrous
from atrous.errors import AtrousError
from atrous.learning.activation_checkpointing import recompute_blocks
from atrous.learning.depthwise_backward import FastDepthwise
from atrous.roundtrip_check import check_rebuilt

ZOO = Path(__file__).parents[1] / "zoo"


def make(architecture="deeplabv3plus", **arguments):
    torch.manual_seed(0)
    small = {"deeplabv3plus": {"aspp_channels": 8, "low_channels": 4}, "deeplabv3": {"aspp_channels": 8}}
    given = {"backbone": "mobilenetv2_035", "num_classes": 3, **small.get(architecture, {}), **arguments}
    return atrous.create_model(architecture, **given)


def exchanged(kind, new):
    """Each layer of a kind is another one."""

    def exchange(net):
        for module in list(net.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, kind):
                    setattr(module, name, new(child))

    return exchange


def with_settings(kind, **settings):
    def change(net):
        for module in net.modules():
            if isinstance(module, kind):
                for name, value in settings.items():
                    setattr(module, name, value)

    return change


def wider_than_the_map(net):
    """The rate of an atrous branch, of which 3×3 features show the middle alone."""
    conv = net.aspp.atrous[1][0]
    conv.dilation = conv.padding = (2 * conv.dilation[0],) * 2


def hooked(net):
    net.register_forward_hook(lambda module, inputs, output: 2 * output)


def hooked_inside(net):
    net.decoder.register_forward_pre_hook(lambda module, inputs: (inputs[0], -inputs[1]))


def of_other_shape(net):
    net.classifier.register_forward_hook(lambda module, inputs, output: output[:, :2])


def other_scores(net):
    scores = net.scores
    net.scores = lambda images: {"main": scores(images)["main"].sigmoid()}


def other_forward(net):
    net.forward = lambda images: images.flatten()


def failing(net):
    net.classifier.register_forward_pre_hook(lambda module, inputs: 1 / 0)


def hooked_under_large_biases(net):
    with torch.no_grad():
        net.classifier.bias.copy_(torch.tensor([0.0, 1e4, -1e4]))  # beside which differences look small
        net.classifier.weight.fill_(1.0)
    net.aspp.register_forward_hook(lambda module, inputs, output: -output)


def striding(net):
    net.classifier = nn.Conv2d(8, 3, 1, stride=2)


class Off(nn.BatchNorm2d):
    def forward(self, input):
        return input


def record_of(**arguments):
    def change(net):
        net.info = replace(net.info, arguments={**net.info.arguments, **arguments})

    return change


REFUSED = {
    "another activation": (exchanged((nn.ReLU, nn.ReLU6), lambda old: nn.GELU()), "other scores .* up to"),
    "a bounded activation": (exchanged(nn.ReLU, lambda old: nn.Hardtanh(0, 1e-3)), "other scores"),
    "no norm": (exchanged(nn.BatchNorm2d, lambda old: Off(old.num_features)), "other scores"),
    "a striding head": (striding, "'classifier' has stride"),
    "eps": (with_settings(nn.BatchNorm2d, eps=1e-4), r"has eps 0\.0001, but 1e-05 in the model's record"),
    "padding with the border": (with_settings(nn.Conv2d, padding_mode="replicate"), "has padding_mode replicate"),
    "a rate": (
        wider_than_the_map,
        r"'aspp\.atrous\.1\.0' has padding \(24, 24\), but \(12, 12\) in the model's record",
    ),
    "a hook": (hooked, "other scores"),
    "a hook inside": (hooked_inside, "other scores"),
    "a hook under large biases": (hooked_under_large_biases, "other scores"),
    "another shape": (of_other_shape, r"this model gives Tensor of shape \(1, 2, 33, 33\)"),
    "another scores": (other_scores, "other scores"),
    "another forward": (other_forward, "this model gives Tensor of shape"),
    "a failing layer": (
        failing,
        r"this model fails \(division by zero\), but the network built from its record does not",
    ),
    "stride without the record": (lambda net: net.backbone.set_output_stride(8), "has (stride|dilation)"),
    "a record of other rates": (record_of(atrous_rates=(1, 2, 3)), "has (padding|dilation)"),
    "a record of other corners": (record_of(align_corners=True), "other scores"),
    "a record of another stride": (record_of(output_stride=32), "has (stride|dilation|padding)"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_its_file_would_not_give_is_refused_before_the_old_file_is_touched(change, message, good, written):
    model = make()
    change(model)
    with pytest.raises(AtrousError, match=message):
        atrous.save(model, good)
    assert good.read_bytes() == written
    assert [path.name for path in good.parent.iterdir()] == [good.name]


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def pruned(net):
    prune.l1_unstructured(net.classifier, "weight", amount=0.5)


def parametrised(net):
    parametrize.register_parametrization(net.classifier, "weight", Twice())


def silent_hook(net):
    net.aspp.register_forward_hook(lambda module, inputs, output: None)


def of_mixed_modes(net):
    net.train()
    net.backbone.eval()


TAKEN = {
    "training": lambda net: net.train(),
    "parts in training": of_mixed_modes,
    "frozen norms": lambda net: atrous.models.layers.freeze_norm(net.train()),
    "double": lambda net: net.double(),
    "bfloat16": lambda net: net.bfloat16(),
    "half": lambda net: net.half(),
    "channels last": lambda net: net.to(memory_format=torch.channels_last),
    "recomputing": lambda net: recompute_blocks(net.train()),
    "pruned": pruned,
    "parametrised": parametrised,
    "a hook that only looks": silent_hook,
    "no dropout": exchanged(nn.Dropout, lambda old: nn.Identity()),
    "another stride": lambda net: net.set_output_stride(8),
    "there and back": lambda net: (net.set_output_stride(8), net.set_output_stride(32), net.set_output_stride(16)),
    "without gradients": lambda net: net.requires_grad_(False),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", TAKEN.values(), ids=TAKEN)
def test_models_whose_file_gives_the_same_are_saved_and_stay_as_they_are(change, tmp_path):
    model = make()
    change(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    needed = [parameter.requires_grad for parameter in model.parameters()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    atrous.save(model, tmp_path / "m.safetensors")
    assert torch.equal(torch.rand(3), expected)  # no number of the global generator was drawn
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == needed
    assert all((parameter.grad == 1).all() for parameter in model.parameters() if parameter.requires_grad)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    again = atrous.load(tmp_path / "m.safetensors")
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        first = next(model.parameters())
        torch.testing.assert_close(
            again.to(first.dtype)(images.to(first.dtype)), model.eval()(images.to(first.dtype)), atol=1e-3, rtol=2e-2
        )


@pytest.mark.parametrize(
    "surrounded",
    [
        torch.no_grad,
        torch.enable_grad,
        torch.inference_mode,
        FastDepthwise,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
    ],
    ids=["no_grad", "enable_grad", "inference", "fast depthwise", "autocast", "meta"],
)
def test_it_does_not_matter_where_a_model_is_saved(surrounded, tmp_path):
    model = make()
    with surrounded():
        atrous.save(model, tmp_path / "m.safetensors")
    assert torch.equal(atrous.load(tmp_path / "m.safetensors").classifier.weight, model.classifier.weight)


def test_nothing_is_compiled_to_save_a_compiled_model(tmp_path):
    compiled = []

    def compiler(graph, inputs):
        compiled.append(graph)
        return graph

    model = make().train()
    model.compile(backend=compiler)
    model.backbone = torch.compile(model.backbone, backend=compiler)
    atrous.save(torch.compile(model, backend=compiler), tmp_path / "m.safetensors")
    assert not compiled and model.training
    atrous.load(tmp_path / "m.safetensors")


def test_a_nan_that_weights_make_is_the_same_there():
    model = make()
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([torch.inf, torch.nan, 0.0]))
    check_rebuilt(model)
    model.register_forward_hook(lambda module, inputs, output: output.nan_to_num())
    with pytest.raises(AtrousError, match="other scores"):
        check_rebuilt(model)


PAPERS = {
    "V1": ("deeplabv1", {"fov_channels": 8}),
    "V1 of one logit": ("deeplabv1", {"fov_channels": 8, "num_classes": 1, "in_channels": 5, "auxiliary": True}),
    "V2": ("deeplabv2", {"scales": (0.5, 0.75, 1.0)}),
    "V2 fov": ("deeplabv2", {"fov_channels": 8, "output_stride": 16, "align_corners": True}),
    "V3": ("deeplabv3", {"backbone": "resnet18", "multi_grid": (1, 2), "output_stride": 8, "auxiliary": True}),
    "V3 of Google": (
        "deeplabv3",
        {"backbone": "google_mobilenetv2_035", "atrous_rates": (), "backbone_arguments": {"padding": "tensorflow"}},
    ),
    "V3+ over EfficientNet": ("deeplabv3plus", {"backbone": "tf_efficientnet_lite0", "output_stride": 8}),
    "V3+ of others": ("deeplabv3plus", {"aspp_conv": True, "depthwise_norm": False, "projection_kernel": 3}),
    "V3+ plain": ("deeplabv3plus", {"separable": False, "decoder_convs": 1, "dilation_rule": "full"}),
    "V3+ MobileNetV3": ("deeplabv3plus", {"backbone": "mobilenetv3_small_050", "frozen_norm": True}),
    "V3+ RegNet": ("deeplabv3plus", {"backbone": "regnetx_002"}),
    "V3+ ConvNeXt": ("deeplabv3plus", {"backbone": "convnext_atto", "output_stride": 8}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "arguments"), PAPERS.values(), ids=PAPERS)
def test_every_paper_passes(architecture, arguments):
    model = make(architecture, **arguments)
    check_rebuilt(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    for stride in (32, 16):
        model.set_output_stride(stride)
        check_rebuilt(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("deeplabv1", {"backbone": "vgg16", "fov_channels": 16, "multi_scale": True}),
        ("deeplabv2", {"backbone": "vgg16", "fov_channels": 16}),
        ("deeplabv3", {"backbone": "resnet50", "multi_grid": (1, 2, 4), "cascade": 1}),
        ("deeplabv3plus", {"backbone": "xception41"}),
        ("deeplabv3plus", {"backbone": "res2net50_26w_4s"}),
    ],
)
def test_large_papers_pass(architecture, arguments):
    check_rebuilt(make(architecture, **arguments))


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(ZOO.glob("*.safetensors")), ids=lambda path: path.stem)
def test_the_zoo_is_saved_as_it_is(path, tmp_path):
    atrous.save(atrous.load(path), tmp_path / "again.safetensors")
    before, after = (atrous.load(file).state_dict() for file in (path, tmp_path / "again.safetensors"))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
