import torch

import atrous
from atrous.learning.losses import CrossEntropy
from atrous.learning.step import TrainingStep


def make(**arguments):
    torch.manual_seed(0)
    return atrous.create_model("deeplabv3plus", backbone="mobilenetv2_035", num_classes=3, dropout=0.0, **arguments)


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
        step = TrainingStep(model, CrossEntropy())
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1) for v in (model.info.preprocessing.mean, model.info.preprocessing.std)
        )
        expected = torch.nn.functional.cross_entropy(model((raw - mean) / std), labels.long(), ignore_index=255)
        torch.testing.assert_close(step(raw, labels), expected, rtol=1e-5, atol=1e-5)


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
        step = TrainingStep(model, loss, auxiliary=weight)
        scores = model.scores(step.normalize(raw))
        expected = loss(scores["main"], labels) + weight * loss(scores["aux"], labels)
        torch.testing.assert_close(step(raw, labels), expected)


def test_every_scale_of_deeplabv2_has_its_loss():
    """A loss per scale and one of their maximum (arXiv:1606.00915 §4.1)."""
    torch.manual_seed(0)
    model, loss = atrous.create_model("deeplabv2", backbone="resnet18", num_classes=3).train(), CrossEntropy()
    raw, labels = batch()
    step = TrainingStep(model, loss)
    model.train()
    for module in model.modules():  # so that the second pass sees the same norms
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    scores = model.scores(step.normalize(raw))
    assert list(scores) == ["main", "scale_1", "scale_0.5", "scale_0.75"]
    torch.testing.assert_close(step(raw, labels), sum(loss(output, labels) for output in scores.values()))


def test_bfloat16_is_near_float32_and_the_loss_stays_float32():
    raw, labels = batch()
    exact = TrainingStep(make().eval(), CrossEntropy())(raw, labels)
    rounded = TrainingStep(make().eval(), CrossEntropy(), torch.bfloat16)(raw, labels)
    assert rounded.dtype == torch.float32
    assert abs(rounded.item() - exact.item()) < 0.05 * exact.item()


def test_the_training_step_and_the_pipeline_normalise_alike():
    model = make().eval()
    raw, labels = batch()
    low = atrous.Pipeline(model)(raw)
    torch.testing.assert_close(TrainingStep(model, CrossEntropy())(raw, labels), CrossEntropy()(low, labels))
