"""Training of low-rank changes: exact small cases, gradients, averages, resuming, adapters, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.commands.conftest import CLASSES, make_shapes
from tests.learning.test_fit import assert_same, recipe_for, stopped_in_an_epoch

import atrous
from atrous import AtrousError, Segmenter, fit, model_file
from atrous.adapter_file import load_adapted, read_adapter, save_adapter
from atrous.cli import main
from atrous.learning.activation_checkpointing import recompute_blocks
from atrous.learning.batch import Batch
from atrous.learning.checkpoint import checkpoint_of, last_weights
from atrous.learning.ema import WeightAverage
from atrous.learning.freezing import freeze
from atrous.learning.low_rank import LowRank, adaptable
from atrous.learning.optimizer import optimizer_for
from atrous.learning.training_step import TrainingStep

ARGUMENTS = {"backbone": "mobilenetv2_035", "num_classes": 3, "aspp_channels": 8, "low_channels": 8}


def small(seed=0, **arguments):
    torch.manual_seed(seed)
    return atrous.create_model("deeplabv3plus", pretrained=False, **{**ARGUMENTS, **arguments})


def changed(low_rank, seed=1):
    """Gives the factors random values; B is 0 at first."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for factor in low_rank.factors.parameters():
            factor.copy_(torch.randn_like(factor) * 0.1)
    return low_rank


def a_batch(seed=2):
    torch.manual_seed(seed)
    images = torch.randint(0, 256, (2, 3, 49, 65), dtype=torch.uint8)
    return Batch(images, {"labels": torch.randint(0, 3, (2, 49, 65))})


def loss(outputs, batch):
    return outputs["main"].square().mean()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model file with other classes than those of the data; not to be changed."""
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    model = small(num_classes=2)
    model_file.save(model, path)
    return path


def recipe_of(shapes, base, rank=2, **train):
    recipe = recipe_for(shapes, learn="lora", rank=rank, **train)
    return replace(recipe, model=replace(recipe.model, init=str(base)))


@pytest.fixture(scope="module")
def whole(shapes, base, tmp_path_factory) -> Path:
    """A run of two epochs that nothing stopped; not to be changed."""
    return fit(recipe_of(shapes, base), tmp_path_factory.mktemp("runs") / "whole").run


# Which weights, and their values


def test_large_dense_layers_are_changed_and_depthwise_ones_and_classes_are_not():
    model = small(aspp_channels=32)
    names = [name for name, _ in adaptable(model, 4)]
    modules = dict(model.named_modules())
    for name in names:
        module = modules[name.removesuffix(".weight")]
        assert isinstance(module, torch.nn.Conv2d) and module.groups == 1
        rows, columns = module.weight.flatten(1).shape
        assert 4 * (rows + columns) < rows * columns
    kept = [
        name
        for name, module in modules.items()
        if isinstance(module, torch.nn.Conv2d) and module.groups == 1 and f"{name}.weight" not in names
    ]
    assert "classifier" in kept and "aspp.project.0" in {name.removesuffix(".weight") for name in names}
    for name in kept:
        rows, columns = modules[name].weight.flatten(1).shape
        assert name == "classifier" or 4 * (rows + columns) >= rows * columns
    assert [name for name, _ in adaptable(model, 4, ["backbone"])] == [
        name for name in names if not name.startswith("backbone.")
    ]


def test_a_weight_is_its_base_plus_the_product_of_its_factors():
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    low_rank = LowRank(model, 2)
    assert all(torch.equal(weight, before[name]) for name, weight in low_rank.weights().items())
    changed(low_rank).merge_into(model)
    for name, factors in zip(low_rank.names, low_rank.factors, strict=True):
        down, up, base = factors.down.detach(), factors.up.detach(), before[name]
        expected = base.clone()
        for row in range(len(base)):  # the plain sum over the rank, filter by filter
            for index in range(2):
                expected[row] += up[row, index] * down[index].view_as(base[row])
        torch.testing.assert_close(model.get_parameter(name).detach(), expected)
        assert torch.linalg.matrix_rank((model.get_parameter(name) - base).flatten(1), atol=1e-5) <= 2
    others = before.keys() - set(low_rank.names)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in others)


def test_the_gradients_of_the_factors_are_those_of_the_weights_by_the_chain_rule():
    model = small().train()
    low_rank = changed(LowRank(model, 2))
    low_rank.merge_into(model)
    freeze(model, "lora", low_rank=low_rank)
    with_factors = TrainingStep(model, {"loss": loss}, low_rank=low_rank)
    torch.manual_seed(3)
    with_factors(a_batch()).backward()
    assert all(model.get_parameter(name).grad is None for name in low_rank.names)
    own = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.requires_grad_(True).zero_grad()
    torch.manual_seed(3)
    TrainingStep(model, {"loss": loss})(a_batch()).backward()
    for name, factors in zip(low_rank.names, low_rank.factors, strict=True):
        gradient = model.get_parameter(name).grad.flatten(1)
        torch.testing.assert_close(factors.down.grad, factors.up.T @ gradient, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(factors.up.grad, gradient @ factors.down.T, rtol=1e-3, atol=1e-6)
    assert own and all(torch.allclose(grad, model.get_parameter(name).grad) for name, grad in own.items())


@pytest.mark.parametrize(
    ("backbone", "frozen"),
    [("mobilenetv2_035", ()), ("resnet10t", ("backbone.net.conv1", "backbone.net.bn1")), ("convnext_atto", ())],
)
def test_recomputation_gives_the_same_gradients(backbone, frozen):
    """Also for linear layers, and for layers whose input needs no gradient."""
    found = []
    for recomputed in (False, True):
        model = small(backbone=backbone).train()
        low_rank = changed(LowRank(model, 2, frozen))
        low_rank.merge_into(model)
        freeze(model, "lora", frozen, low_rank)
        if recomputed:
            assert recompute_blocks(model, low_rank.names)
        torch.manual_seed(3)
        TrainingStep(model, {"loss": loss}, low_rank=low_rank)(a_batch()).backward()
        found.append([*(one.grad for one in low_rank.factors.parameters()), model.classifier.weight.grad])
        assert not any(model.get_parameter(name).requires_grad for name in low_rank.names)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_an_average_of_the_factors_is_of_low_rank():
    model = small()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    low_rank = LowRank(model, 2)
    average = WeightAverage(model, 0.5, low_rank)
    for step in range(3):
        changed(low_rank, step).merge_into(model)
        average.update(model, step + 100)
    for index, name in enumerate(low_rank.names):
        down = sum(share * _down(model, index, step) for step, share in ((0, 0.125), (1, 0.25), (2, 0.5)))
        assert torch.linalg.matrix_rank((average.module.get_parameter(name) - base[name]).flatten(1), atol=1e-5) <= 2
        start = _down(model, index, None)
        torch.testing.assert_close(average.factors[index].down, down + 0.125 * start)
    state = average.state_dict()
    other = WeightAverage(small(5), 0.5, LowRank(small(5), 2))
    other.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    assert all(torch.equal(one, state[name]) for name, one in other.state_dict().items())


def _down(model, index, seed):
    """The factor A of a fresh `LowRank`, or the one that `changed` sets."""
    low_rank = LowRank(small(), 2)
    return (low_rank if seed is None else changed(low_rank, seed)).factors[index].down.detach()


# Runs and their adapters


def test_a_run_trains_only_the_factors_and_the_small_weights(whole, base):
    with safe_open(checkpoint_of(whole), "pt") as file:
        names = set(file.keys())
    adapted = {name for name, _ in adaptable(small(), 2)}
    assert adapted and not any(f"optimizer.weights.{name}.exp_avg" in names for name in adapted)
    assert any(name.startswith("optimizer.low_rank.factors.0.down") for name in names)
    assert any(name.startswith("optimizer.weights.classifier") for name in names)
    given, last = model_file.load(base).state_dict(), last_weights(whole)
    for name in adapted:
        assert 1 <= torch.linalg.matrix_rank((last[name] - given[name]).flatten(1), atol=1e-6) <= 2


def test_base_and_adapter_are_the_best_model(whole, base):
    best = model_file.load(whole / "best.safetensors")
    model = load_adapted(base, whole / "adapter.safetensors")
    for name, tensor in best.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=1e-6)
    assert model.info == best.info and model.info.classes == CLASSES.names
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    masks = [
        Segmenter(base, adapter=whole / "adapter.safetensors", precision="float32")(picture).mask,
        Segmenter(whole / "best.safetensors", engine="torch", precision="float32")(picture).mask,
    ]
    assert np.array_equal(*masks)
    assert (whole / "adapter.safetensors").stat().st_size < 0.5 * (whole / "best.safetensors").stat().st_size


def test_merge_writes_one_model_file(whole, base, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    words = ["merge", str(base), str(whole / "adapter.safetensors"), "--out"]
    assert main([*words, str(out)]) == 0
    best = load_file(whole / "best.safetensors")
    assert all(torch.allclose(tensor, best[name], rtol=0, atol=1e-6) for name, tensor in load_file(out).items())
    for target in (base, whole / "adapter.safetensors"):
        before = target.read_bytes()
        assert main([*words, str(target)]) == 2
        assert target.read_bytes() == before
    assert main([*words, str(tmp_path / "model.txt")]) == 2
    assert "must end in .safetensors" in " ".join(capsys.readouterr().err.split())


def test_a_run_stopped_within_an_epoch_continues_to_the_bit(shapes, base, whole, tmp_path, monkeypatch):
    stopped_in_an_epoch(recipe_of(shapes, base), tmp_path / "run", monkeypatch, 3)
    monkeypatch.undo()
    fit(recipe_of(shapes, base), resume=tmp_path / "run")
    assert_same(tmp_path / "run", whole)
    names = ("best.safetensors", "adapter.safetensors")
    best = [[load_file(run / name) for name in names] for run in (tmp_path / "run", whole)]
    for own, other in zip(*best, strict=True):
        assert own.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in own.items())


def test_a_run_stopped_between_epochs_continues_to_the_bit_without_its_base(shapes, base, whole, tmp_path):
    run = fit(recipe_of(shapes, base), tmp_path / "run", epochs_now=1).run
    recipe = recipe_of(shapes, tmp_path / "gone.safetensors")
    fit(recipe, resume=run)
    assert_same(run, whole)
    adapters = [load_file(one / "adapter.safetensors") for one in (run, whole)]
    assert all(torch.equal(tensor, adapters[1][name]) for name, tensor in adapters[0].items())
    with pytest.raises(AtrousError, match=r"it was trained with train\.learn lora"):
        fit(recipe_for(shapes), resume=run)
    with pytest.raises(AtrousError, match=r"its train\.rank is 2, which must not change on resuming"):
        fit(recipe_of(shapes, base, rank=3), resume=run)
    with pytest.raises(AtrousError, match=r"its train\.frozen leaves other layers to adapt"):
        fit(recipe_of(shapes, base, frozen=["aspp"]), resume=run)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_adapter_contains_frozen_weights_that_are_not_those_of_the_base(shapes, base, tmp_path, ema):
    """The base has two classes, so the rows of the classifier are new, and are frozen here."""
    recipe = recipe_of(shapes, base, frozen=["classifier", "decoder"], epochs=1, ema=ema)
    run = fit(recipe, tmp_path / "run").run
    stored = read_adapter(run / "adapter.safetensors").tensors
    assert "classifier.weight" in stored
    assert not any(name.startswith("decoder.") and name.endswith("0.weight") for name in stored)
    assert_adapter_is_best(base, run)


def test_weights_that_are_frozen_later_are_kept_in_the_adapter(shapes, base, tmp_path):
    run = fit(recipe_of(shapes, base), tmp_path / "run", epochs_now=1).run
    norms = [name for name, module in small().named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    fit(recipe_of(shapes, base, frozen=norms[:20]), resume=run)
    assert_adapter_is_best(base, run)


def assert_adapter_is_best(base, run):
    best, model = model_file.load(run / "best.safetensors"), load_adapted(base, run / "adapter.safetensors")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in best.state_dict().items())


def test_the_learning_rate_of_the_backbone_applies_to_its_factors(shapes, base):
    model = small()
    low_rank = LowRank(model, 2)
    freeze(model, "lora", low_rank=low_rank)
    recipe = replace(recipe_of(shapes, base), optim=replace(recipe_of(shapes, base).optim, backbone_lr=0.25))
    rates = {
        id(one): group["lr"]
        for group in optimizer_for(recipe, model, low_rank=low_rank).param_groups
        for one in group["params"]
    }
    for name, factors in zip(low_rank.names, low_rank.factors, strict=True):
        expected = recipe.optim.lr * (0.25 if name.startswith("backbone.") else 1.0)
        assert [rates[id(one)] for one in factors.parameters()] == [expected, expected]
    assert not {id(one) for one in low_rank.base} & rates.keys()


# What is refused


def test_a_run_without_a_trained_model_is_refused(shapes, base, tmp_path):
    with pytest.raises(AtrousError, match=r"give its file with --init"):
        fit(recipe_for(shapes, learn="lora"), tmp_path / "run")
    recipe = recipe_of(shapes, base)
    other = replace(recipe, model=replace(recipe.model, arguments={**recipe.model.arguments, "aspp_channels": 16}))
    with pytest.raises(AtrousError, match=r"the weight .* has the shape .* shape in that file"):
        fit(other, tmp_path / "run")
    with pytest.raises(AtrousError, match=r"weights cannot be given with train\.learn lora"):
        fit(recipe, tmp_path / "run", weights=small().state_dict())
    with pytest.raises(AtrousError, match="finds no weight to adapt"):
        fit(recipe_of(shapes, base, rank=10_000), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_adapters_of_other_bases_and_damaged_ones_are_refused(whole, base, tmp_path, capsys):
    adapter = whole / "adapter.safetensors"
    other = tmp_path / "other.safetensors"
    model_file.save(small(7, num_classes=2), other)
    with pytest.raises(AtrousError, match="give the model file from which the training of the adapter started"):
        load_adapted(other, adapter)
    with pytest.raises(AtrousError, match="is not an adapter"):
        read_adapter(base)
    with pytest.raises(AtrousError, match="no adapter at"):
        read_adapter(tmp_path / "missing.safetensors")
    with pytest.raises(AtrousError, match="is an adapter, which needs the model file"):
        Segmenter(adapter)
    for words in (
        ["predict", str(adapter), "x.png"],
        ["convert", str(adapter)],
        ["train", "quickstart", "--init", str(adapter)],
    ):
        assert main(words) == 2
        assert "is an adapter" in " ".join(capsys.readouterr().err.split()), words
    assert main(["merge", str(base), str(adapter), "--out", str(adapter)]) == 2
    with pytest.raises(AtrousError, match="give the path of the file, not a module"):
        Segmenter(model_file.load(base), adapter=adapter)
    content = bytearray(adapter.read_bytes())
    content[-1] ^= 1
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(bytes(content))
    with pytest.raises(AtrousError, match="checksum does not match"):
        load_adapted(base, damaged)
    damaged.write_bytes(adapter.read_bytes()[:-100])
    with pytest.raises(AtrousError, match="altered or damaged"):
        load_adapted(base, damaged)


def test_factors_that_do_not_fit_the_base_are_refused(whole, base, tmp_path):
    given = read_adapter(whole / "adapter.safetensors")
    best = model_file.load(whole / "best.safetensors")
    name = next(iter(dict(adaptable(small(), 2))))
    path = tmp_path / "adapter.safetensors"
    save_adapter(best, {name: (torch.zeros(2, 5), torch.zeros(4, 2))}, [], given.base_sha256, path)
    with pytest.raises(AtrousError, match=f"the weight {name} is missing, is not finite, or has another shape"):
        load_adapted(base, path)
    (down, up) = (
        next(given.tensors[key] for key in given.tensors if key.endswith(end)) for end in (".lora_down", ".lora_up")
    )
    faults = {
        "of another type": {name: (down.half(), up)},
        "not finite": {name: (down * torch.nan, up)},
        "of a norm": {"aspp.project.1.weight": (torch.zeros(2, 8), torch.zeros(8, 2))},
    }
    for factors in faults.values():
        save_adapter(best, factors, [], given.base_sha256, path)
        with pytest.raises(AtrousError, match="does not fit"):
            load_adapted(base, path)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["atrous_adapter"])["base_sha256"] == given.base_sha256
