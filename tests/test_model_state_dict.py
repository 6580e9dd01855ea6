"""What is saved is what load reads again; what could not be read leaves the file that was there."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import atrous
from atrous.data.mask_value_map import ClassTable
from atrous.errors import AtrousError


def model() -> nn.Module:
    torch.manual_seed(0)
    return atrous.create_model("deeplabv3plus", backbone="mobilenetv2_035", num_classes=3, aspp_channels=8).eval()


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def compiled_inside(net):
    net.backbone = torch.compile(net.backbone)
    return net


def pruned(net):
    prune.l1_unstructured(net.classifier, "weight", amount=0.5)
    with torch.no_grad():
        net.classifier.weight_orig += 1  # the attribute that the last forward left is of older numbers
    return net


def parametrised(net):
    parametrize.register_parametrization(net.classifier, "weight", Twice())
    return net


def shared(net):
    net.classifier.bias = nn.Parameter(net.classifier.weight.detach().view(-1)[:3])
    return net


WRAPPED = {
    "compiled": torch.compile,
    "compiled twice around": lambda net: nn.DataParallel(torch.compile(net)),
    "parallel": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "compiled inside": compiled_inside,
    "pruned": pruned,
    "parametrised": parametrised,
    "shared memory": shared,
    "double": lambda net: net.double(),
    "bfloat16": lambda net: net.bfloat16(),
    "half": lambda net: net.half(),
    "channels last": lambda net: net.to(memory_format=torch.channels_last),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_what_tools_put_around_is_taken_off(wrap, good):
    before = model().state_dict()
    atrous.save(wrap(model()), good)
    after = atrous.load(good).state_dict()
    assert after.keys() == before.keys()
    changed = {"classifier.weight", "classifier.bias"} if wrap in (pruned, parametrised, shared) else set()
    for name in before.keys() - changed:
        torch.testing.assert_close(after[name], before[name], atol=1e-2, rtol=1e-2)
    if wrap is pruned:
        assert (after["classifier.weight"] == 0).sum() == 12
        assert after["classifier.weight"].max() > 0.9
    if wrap is parametrised:
        assert torch.equal(after["classifier.weight"], 2 * before["classifier.weight"])


def replaced_head(net):
    net.classifier = nn.Conv2d(8, 5, 1)
    return net


def replaced_info(**changes):
    def replace_info(net):
        net.info = replace(net.info, **changes)
        return net

    return replace_info


def replaced_table(**changes):
    def replace_table(net):
        net.info = net.info.with_table(replace(net.info.table, **changes))
        return net

    return replace_table


def with_buffer(net):
    net.register_buffer("counter", torch.zeros(2))
    return net


def filled(name, value):
    def fill(net):
        net.state_dict()[name].view(-1)[0] = value
        return net

    return fill


def without_part(net):
    net.aspp_conv, net.decoder = nn.Identity(), nn.Identity()
    return net


REFUSED = {
    "replaced head": (replaced_head, "'classifier.bias' has the shape|'classifier.weight' has the shape"),
    "further part": (with_buffer, "not in the network of its record: 'counter'"),
    "part taken out": (without_part, "lacks weights: 'decoder"),
    "NaN": (filled("classifier.weight", float("nan")), "'classifier.weight' has values that are not finite"),
    "infinite": (filled("backbone.net.bn1.running_var", float("inf")), "running_var' has values that are not finite"),
    "meta": (lambda net: net.to("meta"), "is on the meta device"),
    "NaN in the record": (replaced_info(scores={"val": float("nan")}), "cannot be written as JSON"),
    "an object in the record": (replaced_info(provenance={"x": object()}), "cannot be written as JSON"),
    "a long record": (replaced_info(provenance={"x": "y" * 2**24}), "that a model file can store"),
    "no raw values": (replaced_table(raw=((), (), ())), "no raw value in a tuple"),
    "raw values that are none": (replaced_table(raw=(None, None, None)), "no raw value in a tuple"),
    "raw texts": (replaced_table(raw=(("a",), ("b",), ("c",))), "raw value 'a' of 'class 0' is neither"),
    "raw fractions": (replaced_table(raw=((0.5,), (1,), (2,))), "raw value 0.5 of 'class 0' is neither"),
    "raw booleans": (replaced_table(raw=((False,), (True,), (2,))), "raw value False of 'class 0' is neither"),
    "raw values twice": (replaced_table(raw=((0,), (0,), (0,))), "raw value 0 is given for 'class 0' and again"),
    "raw values of two kinds": (replaced_table(raw=((0,), ((1, 2, 3),), (2,))), "mix numbers and"),
    "raw values beyond 64 bits": (
        replaced_table(raw=((10**400,), (1,), (2,))),
        "raw must be a number within",
    ),
    "an ignored value that is a class": (replaced_table(ignore=(2,)), "raw value 2 is given for 'class 2' and again"),
    "ignored texts": (replaced_table(ignore=("x",)), "raw value 'x' of 'ignore' is neither"),
    "nothing ignored, by None": (replaced_table(ignore=None), "ignore of a class table must be a tuple, got None"),
    "names twice": (replaced_table(names=("a", "a", "b")), "class name 'a' is given twice"),
    "colours that are true": (replaced_table(colors=((True, 0, 0), (1, 1, 1), (2, 2, 2))), "has the colour"),
    "a CRF of unknown settings": (
        replaced_info(crf={"zzz": 1}),
        "the CRF in the model's info is not valid: unknown CRF setting",
    ),
    "a CRF out of range": (replaced_info(crf={"prune": -1}), "is not valid: prune must be 0"),
    "a CRF of texts": (replaced_info(crf={"iterations": "many"}), "CRF's iterations must be a number"),
    "a CRF of other classes": (
        replaced_info(crf={"compatibility": [[0, 1], [1, 0]]}),
        "compatibility matrix for 2 classes",
    ),
    "an unknown architecture": (replaced_info(architecture="deeplabv9"), "unknown architecture"),
    "None": (lambda net: None, "a model must come from atrous.*got None"),
    "a state dict": (lambda net: net.state_dict(), "a state dict contains only weights"),
    "another network": (lambda net: nn.Conv2d(3, 3, 1), "Conv2d is not a model of atrous"),
    "another network in parallel": (lambda net: nn.DataParallel(nn.Conv2d(3, 3, 1)), "Conv2d is not a model of atrous"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_could_not_be_read_again_leaves_the_old_file(make, message, good):
    before = hashlib.sha256(good.read_bytes()).digest()
    with pytest.raises(AtrousError, match=message):
        atrous.save(make(model()), good)
    assert hashlib.sha256(good.read_bytes()).digest() == before
    assert [path.name for path in good.parent.iterdir()] == ["good.safetensors"]


@pytest.mark.parametrize("count", [256, 300, True, 0, 2.0])
def test_numbers_of_classes_that_a_mask_cannot_hold(count):
    with pytest.raises(AtrousError, match=r"num_classes must be a whole number, 1 .* to 255"):
        atrous.create_model("deeplabv3plus", backbone="mobilenetv2_035", num_classes=count)


def test_the_most_classes(tmp_path):
    most = atrous.create_model("deeplabv3plus", backbone="mobilenetv2_035", num_classes=255, aspp_channels=8)
    atrous.save(most, tmp_path / "most.safetensors")
    assert len(atrous.load(tmp_path / "most.safetensors").info.classes) == 255
    with pytest.raises(AtrousError, match="a class table has 1 to 255"):
        ClassTable(("a",) * 300, ((0, 0, 0),) * 300, ((0,),) * 300)


def test_a_foreign_network_of_300_classes_is_refused():
    torchvision = pytest.importorskip("torchvision")
    build = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large
    with pytest.raises(AtrousError, match="to 255"):
        atrous.convert(build(weights=None, weights_backbone=None, num_classes=300).state_dict())
