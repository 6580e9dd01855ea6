"""What all four papers' modules promise alike."""

import inspect
import json
import shutil
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from atrous import models
from atrous.errors import AtrousError
from atrous.models import Info, SegmentationModel

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "v1": ("deeplabv1", {"fov_channels": 16}),
    "v1 msc": ("deeplabv1", {"fov_channels": 16, "multi_scale": True}),
    "v1 resnet": ("deeplabv1", {"fov_channels": 16, "backbone": "resnet18"}),
    "v2 vgg": ("deeplabv2", {"fov_channels": 8, "backbone": "vgg16", "atrous_rates": (2, 4, 8, 12)}),
    "v2 resnet": ("deeplabv2", {"backbone": "resnet18"}),
    "v3": ("deeplabv3", {"aspp_channels": 16, "backbone": "resnet18"}),
    "v3 cascaded": ("deeplabv3", {"cascade": 2, "backbone": "resnet18"}),
    "v3 mobile": ("deeplabv3", {"aspp_channels": 16, "backbone": "google_mobilenetv2_035"}),
    "v3plus": ("deeplabv3plus", {"aspp_channels": 16, "low_channels": 8, "backbone": "resnet18"}),
    "v3plus mobile": ("deeplabv3plus", {"aspp_channels": 16, "low_channels": 8, "backbone": "mobilenetv2_035"}),
}
WITH_NORM = [name for name in VARIANTS if name not in ("v1", "v1 msc", "v2 vgg")]
PRIMES = [(73, 79), (101, 31), (127, 53), (2, 97), (149, 3)]


def build(variant: str, **arguments: Any) -> SegmentationModel:
    architecture, own = VARIANTS[variant]
    torch.manual_seed(0)
    model = models.build(architecture, {"num_classes": 3, **own, **arguments})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # timm starts the last norm of a residual block at zero
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return model


@pytest.fixture(scope="module", params=VARIANTS)
def model(request) -> SegmentationModel:
    return build(request.param).eval()


@pytest.fixture(params=VARIANTS)
def variant(request) -> str:
    return request.param


def picture(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.slow
@torch.no_grad()
def test_any_size_from_one_pixel_on_comes_out_in_its_own_size(model):
    for size in [*((side, side) for side in range(1, 71)), *PRIMES]:
        logits = model(torch.zeros(1, 3, *size))
        assert logits.shape == (1, 3, *size)
        assert logits.isfinite().all()


def test_gradient_reaches_every_parameter(variant):
    model = build(variant, auxiliary=True, dropout=0.0).train()
    scores = model.scores(picture(2, 3, 97, 97))
    sum(score.square().sum() for score in scores.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_training_step_with_a_batch_of_one(variant):
    model = build(variant).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    before = [parameter.clone() for parameter in model.parameters()]
    loss = model(picture(1, 3, 66, 70)).square().mean()
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("variant", WITH_NORM)
def test_one_picture_too_small_to_train_on_is_refused(variant):
    with pytest.raises(AtrousError, match=r"one picture of 32×70 px .* or frozen_norm"):
        build(variant).train()(picture(1, 3, 32, 70))
    build(variant, frozen_norm=True).train()(picture(1, 3, 32, 70))
    build(variant).eval()(picture(1, 3, 32, 70))


def test_frozen_norm_keeps_its_statistics_and_still_learns(variant):
    model = build(variant, frozen_norm=True, dropout=0.0).train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    images = picture(2, 3, 65, 65)
    trained = model.scores(images)["main"]
    trained.sum().backward()
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    assert all(norm.weight.grad is not None for norm in norms)
    torch.testing.assert_close(trained, model.eval().scores(images)["main"])
    assert model.train() is model


@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (5, 2)])
def test_channels_and_classes(variant, channels, classes):
    model = build(variant, in_channels=channels, num_classes=classes).eval()
    assert model(picture(1, channels, 34, 47)).shape == (1, classes, 34, 47)
    assert len(model.info.preprocessing.mean) == channels
    assert len(model.info.classes) == 2


@pytest.mark.parametrize("classes", [0, -3, 2.5, "'21'"])
def test_no_classes_are_refused(variant, classes):
    with pytest.raises(AtrousError, match=f"num_classes must be a whole number, 1 .*got {classes}"):
        build(variant, num_classes=classes.strip("'") if isinstance(classes, str) else classes)


@pytest.mark.parametrize("shape", [(1, 4, 33, 33), (3, 33, 33)])
def test_pictures_of_another_shape_are_refused(variant, shape):
    with pytest.raises(AtrousError, match=f"takes pictures of N×3×H×W, got {'×'.join(map(str, shape))}"):
        build(variant).eval()(torch.zeros(shape))


@pytest.mark.slow
@torch.no_grad()
def test_output_stride_changes_density_on_one_set_of_weights(variant):
    model, images = build(variant, output_stride=16).eval(), picture(1, 3, 65, 97)
    before = model(images)
    sizes = {}
    for output_stride in (8, 32, 16):
        model.set_output_stride(output_stride)
        assert model.info.arguments["output_stride"] == output_stride
        sizes[output_stride] = model.scores(images)["main"].shape[-1]
        other = build(variant, output_stride=output_stride).eval()
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(model(images), other(images))
    torch.testing.assert_close(model(images), before)
    stride_of_scores = {8: 4, 16: 4, 32: 4} if variant.startswith("v3plus") else {8: 8, 16: 16, 32: 32}
    assert sizes == {output_stride: -(-97 // stride) for output_stride, stride in stride_of_scores.items()}


@pytest.mark.slow
@torch.no_grad()
def test_both_dilation_rules_on_one_set_of_weights(variant):
    previous = build(variant, output_stride=8, dilation_rule="previous").eval()
    full = build(variant, output_stride=8, dilation_rule="full").eval()
    full.load_state_dict(previous.state_dict())
    images = picture(1, 3, 65, 80)
    same = torch.allclose(previous(images), full(images), atol=1e-5)
    assert same is (variant in ("v1", "v1 msc", "v2 vgg"))  # VGG's strides are its pools': nothing keeps an old rate


@torch.no_grad()
def test_corner_convention_of_every_resize(variant):
    model, images = build(variant, align_corners=True).eval(), picture(1, 3, 50, 70)
    low = model.scores(images)["main"]
    for corner in [(0, 0), (-1, -1), (0, -1)]:
        torch.testing.assert_close(model(images)[..., corner[0], corner[1]], low[..., corner[0], corner[1]])
    other = build(variant, align_corners=False).eval()
    other.load_state_dict(model.state_dict())
    assert not torch.allclose(model(images), other(images), atol=1e-4)


def test_auxiliary_head_speaks_in_training_only(variant):
    model, images = build(variant, auxiliary=True), picture(2, 3, 65, 65)
    scores = model.train().scores(images)
    assert scores["aux"].shape[:2] == scores["main"].shape[:2]
    assert list(model.eval().scores(images)) == ["main"]
    assert "aux" not in build(variant).train().scores(images)


def test_norms_of_the_heads_are_set(variant):
    model = build(variant, norm=(1e-3, 0.003), auxiliary=True)
    heads = [m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and "backbone" not in name]
    assert heads
    assert {(norm.eps, norm.momentum) for norm in heads} == {(1e-3, 0.003)}


def test_info_rebuilds_the_model_after_a_trip_through_json(variant):
    model = build(variant, dilation_rule="full", auxiliary=True, align_corners=True, output_stride=8).eval()
    info = Info.from_dict(json.loads(json.dumps(model.info.to_dict())))
    assert info == model.info
    again = models.build(info.architecture, info.arguments).eval()
    assert again.info == info
    again.load_state_dict(model.state_dict())
    images = picture(1, 3, 35, 48)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


@pytest.mark.slow
@torch.no_grad()
def test_exports_with_dynamic_shapes(model):
    shapes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    exported = torch.export.export(model, (picture(2, 3, 65, 97),), dynamic_shapes=(shapes,)).module()
    for shape in [(1, 3, 65, 97), (3, 3, 40, 41), (1, 3, 128, 77), (2, 3, 19, 50)]:
        torch.testing.assert_close(exported(picture(*shape)), model(picture(*shape)), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_compiles_in_one_graph(model):
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    images = picture(1, 3, 65, 97)
    torch.testing.assert_close(compiled(images), model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
def test_compiles_to_machine_code():
    """All variants are traced by the test above; one suffices here, because the compiler takes a minute."""
    torch.compiler.reset()
    model, images = build("v3plus", dropout=0.0).train(), picture(2, 3, 65, 97)
    expected = model.scores(images)["main"]
    torch.testing.assert_close(torch.compile(model.scores)(images)["main"], expected, atol=1e-3, rtol=1e-3)


OUT_OF_RANGE = [
    *(
        (architecture, {name: value})
        for architecture in models.ARCHITECTURES
        for name, value in [
            ("dropout", 2.0),
            ("dropout", float("nan")),
            ("norm", (-1, 5)),
            ("norm", (1e-5,)),
            ("norm", 3),
            ("output_stride", 16.0),
            ("output_stride", "16"),
            ("in_channels", 1.5),
        ]
    ),
    ("deeplabv1", {"fov_channels": 0}),
    ("deeplabv1", {"atrous_rate": 0}),
    ("deeplabv2", {"atrous_rates": ()}),
    ("deeplabv2", {"fov_channels": -1}),
    ("deeplabv2", {"scales": (0.5, 0.9999999, 1)}),
    ("deeplabv2", {"scales": (0.5, 0.5, 1)}),
    ("deeplabv3", {"cascade": -1}),
    ("deeplabv3", {"multi_grid": (-1, 2)}),
    *(
        (architecture, {name: value})
        for architecture in ("deeplabv3", "deeplabv3plus")
        for name, value in [
            ("aspp_channels", 0),
            ("projection_kernel", 0),
            ("projection_kernel", 2),
            ("atrous_rates", (-6,)),
            ("atrous_rates", 6),
            ("multi_grid", (1, float("nan"), 4)),
        ]
    ),
    ("deeplabv3plus", {"decoder_convs": 0}),
    ("deeplabv3plus", {"low_channels": 0}),
]


@pytest.mark.parametrize(("architecture", "arguments"), OUT_OF_RANGE, ids=str)
def test_values_out_of_range_are_named(architecture, arguments):
    own = {"backbone": "resnet18", **arguments}
    with torch.device("meta"), pytest.raises(AtrousError, match=rf"^{next(iter(arguments))} must "):
        models.ARCHITECTURES[architecture](**own)


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_none_is_refused_where_an_argument_has_another_default(architecture):
    signature = inspect.signature(models.ARCHITECTURES[architecture])
    defaults = {name: one.default for name, one in signature.parameters.items()}
    flags = [name for name, default in defaults.items() if isinstance(default, bool)] + ["multi_grid", "cascade"]
    names = [name for name, default in defaults.items() if default is not None and name not in flags]
    assert "output_stride" in names and flags
    for name in names:
        with pytest.raises(AtrousError, match=f"^{name} must not be None: leave it out for its default"):
            models.build(architecture, {"backbone": "mobilenetv2_035", name: None})
    recorded = {name: None for name in flags if name in defaults}  # as in files of earlier versions
    models.build(architecture, {"backbone": "mobilenetv2_035", **recorded})
