import copy
from dataclasses import replace
from functools import cache

import pytest
import torch

import atrous
from atrous.errors import AtrousError
from atrous.learning.transfer_weights import classwise_names, start_from


def make(seed, architecture="deeplabv3plus", classes=(), **arguments):
    """A small model; where classes are named, as many as it separates."""
    outputs = {"num_classes": len(classes) or 3, "backbone": "mobilenetv2_035", **arguments}
    model = copy.deepcopy(build(seed, architecture, tuple(outputs.items())))
    if classes:
        model.info = model.info.with_table(replace(model.info.table, names=tuple(classes)))
    return model


@cache
def build(seed, architecture, arguments):
    torch.manual_seed(seed)
    model = atrous.create_model(architecture, **dict(arguments))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # fresh biases are all zero
    return model.eval()


def test_the_same_model_is_copied_whole():
    model, source = make(0), make(1)
    said = start_from(model, source)
    assert "newly initialised" not in said
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])


def test_another_number_of_classes_keeps_all_but_the_classifier():
    model, source = make(0, num_classes=7), make(1)
    before = model.classifier.weight.clone()
    assert start_from(model, source).endswith("newly initialised: classifier.")
    assert torch.equal(model.classifier.weight, before)
    assert torch.equal(model.decoder.reduce[0].weight, source.decoder.reduce[0].weight)


@pytest.mark.slow
def test_a_file_does_as_well_as_a_model(tmp_path):
    source = make(1)
    atrous.save(source, tmp_path / "model.safetensors")
    for path in (tmp_path / "model.safetensors", str(tmp_path / "model.safetensors")):
        model = make(0, num_classes=4)
        assert atrous.start_from(model, path).endswith("newly initialised: classifier.")
        assert torch.equal(model.aspp.project[0].weight, source.aspp.project[0].weight)
    with pytest.raises(AtrousError, match="no model file at"):
        atrous.start_from(model, tmp_path / "absent.safetensors")


def test_the_input_scaling_comes_along_and_the_rest_of_the_info_stays():
    model, source = make(0, classes=("a", "b", "c")), make(1, classes=("b", "c", "d"))
    scaling = replace(source.info.preprocessing.normalized_by((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)), enlarge=3.0)
    source.info = replace(source.info, preprocessing=scaling)
    before = model.info
    start_from(model, source)
    assert model.info.preprocessing.mean == (1.0, 2.0, 3.0)
    assert model.info.preprocessing.std == (4.0, 5.0, 6.0)
    assert model.info.preprocessing.enlarge == before.preprocessing.enlarge
    assert model.info.classes == before.classes


def test_nothing_alike_is_refused():
    with pytest.raises(AtrousError, match="no weights of the given model fit"):
        start_from(make(0, backbone="resnet18", aspp_channels=24, low_channels=10), make(1))


VARIANTS = {
    "deeplabv3plus": ("deeplabv3plus", {"auxiliary": True}, {"classifier", "auxiliary.classifier"}),
    "deeplabv3": ("deeplabv3", {"auxiliary": True}, {"classifier", "auxiliary.classifier"}),
    "deeplabv2": ("deeplabv2", {"atrous_rates": (6, 12)}, {"aspp.branches.0", "aspp.branches.1"}),
    "deeplabv2 fc": (
        "deeplabv2",
        {"atrous_rates": (6, 12), "fov_channels": 16},
        {"aspp.branches.0.fc8", "aspp.branches.1.fc8"},
    ),
    "deeplabv1": ("deeplabv1", {"fov_channels": 16}, {"classifier"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_classes_of_the_same_name_keep_their_rows_everywhere(variant):
    architecture, arguments, layers = VARIANTS[variant]
    model = make(0, architecture, ("car", "tree", "road", "sky"), **arguments)
    source = make(1, architecture, ("road", "bus", "car"), **arguments)
    expected = {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")}
    assert classwise_names(model) == expected
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    said = start_from(model, source)
    for name, tensor in model.state_dict().items():
        given = source.state_dict()[name]
        if name not in expected:
            assert torch.equal(tensor, given), name
            continue
        assert torch.equal(tensor[0], given[2]), name  # car
        assert torch.equal(tensor[2], given[0]), name  # road
        assert torch.equal(tensor[[1, 3]], before[name][[1, 3]]), name
    assert (
        f"in {', '.join(sorted(layers))} the classes car, road keep their rows; newly initialised rows: tree, sky."
        in said
    )


def test_the_same_classes_in_another_order_give_the_same_scores():
    names = ("ground", "box", "disc")
    model, source = make(0, classes=("disc", "ground", "box")), make(1, classes=names)
    assert "newly initialised" not in start_from(model, source)
    images = torch.randn(1, 3, 33, 40)
    with torch.no_grad():
        torch.testing.assert_close(model(images), source(images)[:, [2, 0, 1]])


def test_other_names_of_the_same_number_match_nothing():
    model, source = make(0, classes=("a", "b")), make(1, classes=("c", "d"))
    before = model.classifier.weight.clone()
    assert start_from(model, source).endswith("newly initialised: classifier.")
    assert torch.equal(model.classifier.weight, before)


@pytest.mark.parametrize("named", ["model", "source"])
def test_a_placeholder_is_no_name(named):
    classes = ("class 0", "class 1", "sky")
    model = make(0, classes=classes if named == "model" else ())
    source = make(1, classes=classes if named == "source" else ())
    before = model.classifier.weight.clone()
    assert start_from(model, source).endswith("newly initialised: classifier.")
    assert torch.equal(model.classifier.weight, before)


def test_an_auxiliary_head_that_the_source_lacks_is_fresh():
    said = start_from(make(0, auxiliary=True), make(1))
    assert said.endswith("newly initialised: auxiliary.classifier, auxiliary.unit.0, auxiliary.unit.1.")


def one_logit(seed, first, second):
    return make(seed, classes=(first, second), num_classes=1)


def probability(model, name):
    """Of a class, per pixel, whichever way the model says it."""
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 33, 40, generator=torch.Generator().manual_seed(3)))
    index = model.info.classes.index(name)
    if logits.shape[1] == 1:
        return torch.sigmoid(logits[0, 0] if index else -logits[0, 0])
    return logits.softmax(1)[0, index]


@pytest.mark.parametrize(
    ("make_model", "make_source"),
    [
        (lambda: one_logit(0, "other", "road"), lambda: one_logit(1, "other", "road")),
        (lambda: one_logit(0, "road", "other"), lambda: one_logit(1, "other", "road")),
        (lambda: make(0, classes=("other", "road")), lambda: one_logit(1, "other", "road")),
        (lambda: make(0, classes=("road", "other")), lambda: one_logit(1, "other", "road")),
        (lambda: one_logit(0, "other", "road"), lambda: make(1, classes=("other", "road"))),
        (lambda: one_logit(0, "road", "other"), lambda: make(1, classes=("other", "road"))),
    ],
    ids=["one-one", "swapped", "one-two", "one-two swapped", "two-one", "two-one swapped"],
)
def test_one_logit_models_keep_their_probabilities(make_model, make_source):
    model, source = make_model(), make_source()
    assert "newly initialised" not in start_from(model, source)
    torch.testing.assert_close(probability(model, "road"), probability(source, "road"))


def test_one_logit_of_many_classes_is_the_difference_of_their_rows():
    model, source = one_logit(0, "car", "road"), make(1, classes=("sky", "road", "car"))
    assert "newly initialised" not in start_from(model, source)
    weight = source.classifier.weight
    torch.testing.assert_close(model.classifier.weight[0], weight[1] - weight[2])


def test_half_of_a_one_logit_models_classes_is_no_match():
    model, source = one_logit(0, "background", "road"), make(1, classes=("sky", "road", "car"))
    before = model.classifier.weight.clone()
    assert start_from(model, source).endswith("newly initialised: classifier.")
    assert torch.equal(model.classifier.weight, before)
