import dataclasses

import pytest
import torch
from torch.nn import functional as F

import atrous
from atrous.crf import DenseCRF
from atrous.crf.settings import make_crf
from atrous.learning.batch import Batch
from atrous.learning.crf_layer import CrfLayer
from atrous.learning.losses.pixel import CrossEntropy
from atrous.learning.losses.terms import supervised_terms
from atrous.learning.optimizer import crf_group
from atrous.learning.recipe_sections import Crf
from atrous.learning.training_step import TrainingStep

SMALL = {"backbone": "mobilenetv2_035", "aspp_channels": 8, "low_channels": 8, "dropout": 0.0}
SETTINGS = Crf(trainable=True, bilateral_weight=2, bilateral_xy=10, bilateral_rgb=20, gaussian_xy=2, iterations=3)


def make(**arguments):
    torch.manual_seed(0)
    return atrous.create_model("deeplabv3plus", **{**SMALL, "num_classes": 3, **arguments}).eval()


def step_of(model, crf=None):
    return TrainingStep(model, supervised_terms(CrossEntropy(), model), crf=crf)


def batch(classes=3):
    """Two pictures whose classes differ in colour, with noise."""
    generator = torch.Generator().manual_seed(1)
    labels = (torch.arange(40) // 14)[None, None].expand(2, 33, 40) % classes
    raw = labels[:, None] * 80 + 20 + torch.randint(0, 40, (2, 3, 33, 40), generator=generator)
    return raw.byte(), labels.byte().clone()


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_loss_is_that_of_the_refined_probabilities(align_corners):
    model, layer = make(align_corners=align_corners), None
    layer = CrfLayer(SETTINGS, model.info)
    raw, labels = batch()
    labels[:, :4] = 255
    step = step_of(model, layer)
    logits = F.interpolate(
        model.scores(step.normalize(raw))["main"], (33, 40), mode="bilinear", align_corners=align_corners
    )
    crf = DenseCRF(2, 10, 20, 3, 2, 3)
    refined = torch.stack([crf(raw[i].permute(1, 2, 0), logits[i].softmax(0)) for i in range(2)])
    expected = F.nll_loss(refined.log(), labels.long(), ignore_index=255)
    torch.testing.assert_close(step(Batch(raw, {"labels": labels})), expected, rtol=1e-3, atol=1e-4)
    plain = step_of(model)(Batch(raw, {"labels": labels}))
    assert abs(plain - expected) > 0.001  # not vacuous


def test_only_the_main_output_is_refined():
    torch.manual_seed(0)
    model = atrous.create_model("deeplabv3", backbone="resnet18", num_classes=3, auxiliary=True, aspp_channels=8)
    model.train()
    for module in model.modules():  # so that the second pass sees the same
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout):
            module.eval()
    layer = CrfLayer(SETTINGS, model.info)
    raw, labels = batch()
    scores = model.scores(step_of(model).normalize(raw))
    loss = CrossEntropy()
    expected = loss(layer(scores["main"], raw), labels) + 0.4 * loss(scores["aux"], labels)
    torch.testing.assert_close(step_of(model, layer)(Batch(raw, {"labels": labels})), expected)


def test_one_logit_is_two_classes():
    one, two = make(num_classes=1), make(num_classes=2)
    raw, labels = batch(2)
    logit = torch.randn(2, 1, 9, 11, generator=torch.Generator().manual_seed(0))
    refined = CrfLayer(SETTINGS, one.info)(logit, raw)
    both = CrfLayer(SETTINGS, two.info)(torch.cat([0 * logit, logit], 1), raw)
    assert refined.shape == (2, 1, 33, 40)
    torch.testing.assert_close(refined.sigmoid()[:, 0], both.softmax(1)[:, 1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(CrossEntropy()(refined, labels), CrossEntropy()(both, labels), rtol=1e-4, atol=1e-5)


def test_sixteen_bits_are_eight():
    info = make().info
    deep = dataclasses.replace(info, preprocessing=info.preprocessing.with_image(dtype="uint16"))
    raw, _ = batch()
    scores = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    expected = CrfLayer(SETTINGS, info)(scores, raw)
    torch.testing.assert_close(CrfLayer(SETTINGS, deep)(scores, raw.float() * 257), expected, rtol=1e-3, atol=1e-3)


def test_scores_that_are_not_finite_make_such_a_loss():
    layer = CrfLayer(SETTINGS, make().info)
    raw, labels = batch()
    scores = torch.full((2, 3, 9, 11), torch.nan)
    assert CrossEntropy()(layer(scores, raw), labels).isnan()


@pytest.mark.slow
@pytest.mark.parametrize("compatibility", ["potts", "learned"])
def test_trained_end_to_end_all_parameters_move_and_the_loss_falls(compatibility):
    model = make().train()
    layer = CrfLayer(dataclasses.replace(SETTINGS, compatibility=compatibility), model.info)
    step = step_of(model, layer)
    optimizer = torch.optim.Adam([crf_group(layer, lr=0.05), {"params": [*model.parameters()], "lr": 0.003}])
    before = {name: value.detach().clone() for name, value in step.named_parameters()}
    raw, labels = batch()
    losses = []
    for _ in range(30):
        loss = step(Batch(raw, {"labels": labels}))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        layer.keep_in_range()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    moved = {name for name, value in step.named_parameters() if (value != before[name]).any()}
    names = {"crf.crf.bilateral_weight", "crf.crf.gaussian_weight", "model.classifier.weight"}
    assert names | ({"crf.crf.compatibility"} if compatibility == "learned" else set()) <= moved
    assert sum(name.startswith("model.backbone") for name in moved) > 20


def test_weights_stay_positive():
    layer = CrfLayer(SETTINGS, make().info)
    with torch.no_grad():
        layer.crf.bilateral_weight.fill_(-1.0)
        layer.crf.gaussian_weight.fill_(0.5)
    layer.keep_in_range()
    assert (layer.crf.bilateral_weight.item(), layer.crf.gaussian_weight.item()) == (0, 0.5)


def test_what_was_learned_makes_the_same_crf_with_ten_steps():
    layer = CrfLayer(SETTINGS, make().info)
    with torch.no_grad():
        layer.crf.compatibility[0, 1] = 0.3
        layer.crf.bilateral_weight.fill_(1.25)
    again = make_crf("model", layer.learned())
    assert again.iterations == 10
    assert (again.bilateral_weight.item(), again.bilateral_xy, again.gaussian_xy) == (1.25, 10, 2)
    assert torch.equal(again.compatibility, layer.crf.compatibility)
    assert (
        CrfLayer(dataclasses.replace(SETTINGS, compatibility="potts"), make().info).learned()["compatibility"]
        == "potts"
    )


def test_its_group_is_not_decayed():
    layer = CrfLayer(SETTINGS, make().info)
    group = crf_group(layer, lr=0.3)
    assert len(group.pop("params")) == 3
    assert group == {"part": "crf", "lr": 0.3, "base_lr": 0.3, "weight_decay": 0.0}
