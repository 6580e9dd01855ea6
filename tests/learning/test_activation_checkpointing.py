import copy

import pytest
import torch

from atrous import create_model
from atrous.learning.activation_checkpointing import recompute_blocks
from atrous.learning.batch import Batch
from atrous.learning.losses.pixel import CrossEntropy
from atrous.learning.losses.terms import supervised_terms
from atrous.learning.training_step import TrainingStep

CASES = [
    ("deeplabv1", "vgg16"),
    ("deeplabv2", "resnet18"),
    ("deeplabv3", "resnet18"),
    ("deeplabv3plus", "mobilenetv2_050"),
    ("deeplabv3plus", "tf_efficientnet_lite0"),
    ("deeplabv3plus", "mobilenetv3_small_050"),
    ("deeplabv3plus", "convnext_atto"),
]


def step_of(model, precision=torch.float32):
    return TrainingStep(model, supervised_terms(CrossEntropy(), model), precision)


def saved_bytes(step, images, labels):
    """What the forward pass keeps for the backward pass, parameters aside."""
    kept = {}
    own = {part.untyped_storage().data_ptr() for part in step.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(Batch(images, {"labels": labels}))
    return sum(kept.values())


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "backbone"), CASES)
def test_gradients_and_statistics_are_those_of_plain_training(architecture, backbone):
    torch.manual_seed(0)
    plain = create_model(architecture, backbone=backbone, num_classes=4).train()
    sparing = copy.deepcopy(plain)
    assert recompute_blocks(sparing) > (0 if backbone == "vgg16" else 3)
    images = torch.randint(0, 256, (2, 3, 97, 81), dtype=torch.uint8)
    labels = torch.randint(0, 4, (2, 97, 81), dtype=torch.uint8)
    for model in (plain, sparing):
        step = step_of(model)
        for _ in range(2):
            torch.manual_seed(1)  # dropout drops the same
            step(Batch(images, {"labels": labels})).backward()
    for (name, mine), theirs in zip(plain.named_parameters(), sparing.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        if mine.grad is not None:
            assert torch.equal(mine.grad, theirs.grad), name
    state = sparing.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_it_keeps_much_less(precision):
    torch.manual_seed(0)
    model = create_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=4).train()
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    labels = torch.randint(0, 4, (2, 128, 128), dtype=torch.uint8)
    plain = saved_bytes(step_of(model, precision), images, labels)
    recompute_blocks(model)
    step = step_of(model, precision)
    assert saved_bytes(step, images, labels) < 0.5 * plain
    step(Batch(images, {"labels": labels})).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_outside_training_nothing_changes():
    model = create_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=4).eval()
    images = torch.randn(1, 3, 65, 65)
    before = model(images)
    recompute_blocks(model)
    assert torch.equal(model(images), before)
    names = create_model("deeplabv3plus", backbone="mobilenetv2_050", num_classes=4).state_dict().keys()
    assert model.state_dict().keys() == names
