import pytest
import torch

import atrous
from atrous.errors import AtrousError
from atrous.learning.batch import Batch
from atrous.learning.losses.pixel import CrossEntropy
from atrous.learning.losses.terms import supervised_terms
from atrous.learning.training_step import TrainingStep


def make(**arguments):
    torch.manual_seed(0)
    return atrous.create_model("deeplabv3plus", backbone="mobilenetv2_035", num_classes=3, dropout=0.0, **arguments)


def step_of(model, precision=torch.float32):
    return TrainingStep(model, supervised_terms(CrossEntropy(), model), precision)


def batch():
    generator = torch.Generator().manual_seed(1)
    raw = torch.randint(0, 256, (2, 3, 49, 65), generator=generator).byte()
    labels = torch.randint(0, 3, (2, 49, 65), generator=generator).byte()
    labels[:, :5] = 255
    return raw, labels


def test_the_loss_is_that_of_the_models_own_full_size_logits():
    for align_corners in (False, True):
        model = make(align_corners=align_corners).eval()
        raw, labels = batch()
        step = step_of(model)
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1) for v in (model.info.preprocessing.mean, model.info.preprocessing.std)
        )
        expected = torch.nn.functional.cross_entropy(model((raw - mean) / std), labels.long(), ignore_index=255)
        torch.testing.assert_close(step(Batch(raw, {"labels": labels})), expected, rtol=1e-5, atol=1e-5)


def test_every_output_of_the_model_is_compared():
    class TwoHeads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.info, self.align_corners = make(), make().info, False

        def scores(self, images):
            main = self.inner.scores(images)["main"]
            return {"main": main, "aux": 2 * main}

    model, loss = TwoHeads().eval(), CrossEntropy()
    raw, labels = batch()
    for weight in (0.0, 0.4, 1.0):
        step = TrainingStep(model, supervised_terms(loss, model, weight))
        scores = model.scores(step.normalize(raw))
        expected = loss(scores["main"], labels) + weight * loss(scores["aux"], labels)
        torch.testing.assert_close(step(Batch(raw, {"labels": labels})), expected)


def test_every_scale_of_deeplabv2_has_its_loss():
    """A loss per scale and one of their maximum (arXiv:1606.00915 §4.1)."""
    torch.manual_seed(0)
    model, loss = atrous.create_model("deeplabv2", backbone="resnet18", num_classes=3).train(), CrossEntropy()
    raw, labels = batch()
    step = step_of(model)
    model.train()
    for module in model.modules():  # so that the second pass sees the same norms
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    scores = model.scores(step.normalize(raw))
    assert list(scores) == ["main", "scale_1", "scale_0.5", "scale_0.75"]
    torch.testing.assert_close(
        step(Batch(raw, {"labels": labels})), sum(loss(output, labels) for output in scores.values())
    )


def test_bfloat16_is_near_float32_and_the_loss_stays_float32():
    raw, labels = batch()
    exact = step_of(make().eval())(Batch(raw, {"labels": labels}))
    rounded = step_of(make().eval(), torch.bfloat16)(Batch(raw, {"labels": labels}))
    assert rounded.dtype == torch.float32
    assert abs(rounded.item() - exact.item()) < 0.05 * exact.item()


def test_the_training_step_and_the_pipeline_normalise_alike():
    model = make().eval()
    raw, labels = batch()
    low = atrous.Pipeline(model)(raw)
    torch.testing.assert_close(step_of(model)(Batch(raw, {"labels": labels})), CrossEntropy()(low, labels))


def test_the_loss_is_the_sum_of_its_terms():
    model, (raw, labels) = make().eval(), batch()
    terms = supervised_terms(CrossEntropy(), model)
    more = {"distances": torch.tensor([1.0, 2.0])}
    added = {"far": lambda outputs, batch: batch.more["distances"].sum(), "low": lambda o, b: o["main"].mean()}
    found = TrainingStep(model, {**terms, **added})(Batch(raw, {"labels": labels}, more))
    low = model.scores(TrainingStep(model, terms).normalize(raw))["main"].mean()
    torch.testing.assert_close(found, step_of(model)(Batch(raw, {"labels": labels})) + 3 + low)


def test_terms_that_are_modules_learn_and_others_need_not():
    model, (raw, labels) = make().eval(), batch()

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, outputs, batch):
            return self.scale * 3

    step = TrainingStep(model, {"scaled": Scaled(), "none": lambda outputs, batch: outputs["main"].sum() * 0})
    step(Batch(raw, {"labels": labels})).backward()
    (own,) = (value for name, value in step.named_parameters() if not name.startswith("model."))
    assert own.grad == 3


def test_a_disturbance_comes_before_the_network_and_sees_the_targets():
    model, (raw, labels) = make().eval(), batch()
    seen = []

    def invert(images, targets):
        seen.append(targets["labels"])
        return 255 - images

    disturbed = TrainingStep(model, supervised_terms(CrossEntropy(), model), disturb=invert)
    expected = step_of(model)(Batch(255 - raw, {"labels": labels}))
    assert disturbed(Batch(raw, {"labels": labels})) == expected
    assert seen[0] is labels
    smaller = TrainingStep(model, disturbed.terms, disturb=lambda images, targets: images[:, :, 1:])
    with pytest.raises(AtrousError, match=r"disturb must return images of shape \(2, 3, 49, 65\), got"):
        smaller(Batch(raw, {"labels": labels}))


@pytest.mark.parametrize(("value", "said"), [(torch.zeros(2), r"a tensor of shape \(2,\)"), (1.5, "1.5")])
def test_a_term_that_gives_no_scalar_is_named(value, said):
    model, (raw, labels) = make().eval(), batch()
    step = TrainingStep(model, {"mine": lambda outputs, batch: value})
    with pytest.raises(AtrousError, match=f"the term 'mine' must return a scalar tensor, got {said}"):
        step(Batch(raw, {"labels": labels}))


@pytest.mark.parametrize("terms", [CrossEntropy(), {}, {"a": 1}, None])
def test_what_are_no_terms_is_refused_with_what_to_give(terms):
    with pytest.raises(AtrousError, match=r"such as supervised_terms\(loss, model\)"):
        TrainingStep(make(), terms)
