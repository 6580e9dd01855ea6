"""Drawn weights and pictures, and what a converted model has to share with the foreign one.

Where the foreign package is installed, its own model is drawn, settled and compared on the spot. Where it exists as a
repository alone, a golden holds what it answered: two small files in `golden/`, `NAME.json` with the foreign keys and
shapes, and `NAME.npz` with logits and running means, of weights and pictures that any machine draws alike.
`golden/make.py` made them, from checkouts of these projects.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atrous.weights import detect_source
from atrous.weights.read_checkpoint import from_state_dict

FOLDER = Path(__file__).parent / "golden"

#: Rows and columns of the logits that a golden keeps: every 12th, and the last.
STEP = 12


@dataclass(frozen=True)
class Golden:
    """What a foreign network, of these keys and shapes and drawn weights, gave.

    Attributes:
        name: of its files.
        shapes: foreign key → shape.
        gains: foreign key → factor on its drawn weights, which keeps the logits of order one.
        mean: what the foreign project takes off each RGB channel of a 0–255 picture.
        std: what it then divides by.
        sizes: (H, W) of the pictures.
        facts: arrays: `logits_HxW` (K×h×w, at the rows and columns that `kept` names), `means_HxW` (K, over all
            pixels), and running means by their foreign keys, after a step of training on two pictures of the first
            size.
    """

    name: str
    shapes: dict[str, tuple[int, ...]]
    gains: dict[str, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sizes: list[tuple[int, int]]
    facts: dict[str, np.ndarray]

    def state(self) -> dict[str, Tensor]:
        """The foreign state dict, drawn."""
        return draw(self.shapes, self.gains)

    def pictures(self, size: Sequence[int], count: int = 1) -> Tensor:
        """N×3×H×W, RGB 0–255, normalised as the foreign project does."""
        raw = pictures(size, count)
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (raw - mean[:, None, None]) / std[:, None, None]


def read(name: str) -> Golden:
    """A golden by name."""
    about = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(FOLDER / f"{name}.npz") as file:
        facts = dict(file)
    return Golden(
        name=name,
        shapes=shapes(name),
        gains=about["gains"],
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        sizes=[(height, width) for height, width in about["sizes"]],
        facts=facts,
    )


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Foreign key → shape."""
    about = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return {key: tuple(shape) for key, shape in about["shapes"].items()}


def hollow(name: str) -> dict[str, Tensor]:
    """A state dict of a golden's keys and shapes, without values."""
    return {key: torch.empty(shape, device="meta") for key, shape in shapes(name).items()}


def draw(sizes: Mapping[str, Sequence[int]], gains: Mapping[str, float]) -> dict[str, Tensor]:
    """A state dict from key → shape; each tensor depends on its key, shape and gain alone."""
    return {key: _draw(key, tuple(shape)) * gains.get(key, 1) for key, shape in sizes.items()}


def _draw(key: str, shape: tuple[int, ...]) -> Tensor:
    # RandomState, because its streams are frozen for ever; default_rng's may change with numpy.
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if len(shape) > 1:
        bound = math.sqrt(3 / math.prod(shape[1:]))
        values = random.uniform(-bound, bound, shape)
    elif key.endswith("running_var"):
        values = random.uniform(0.8, 1.2, shape)
    elif key.endswith("weight"):
        values = random.uniform(0.5, 1.5, shape)
    else:
        values = random.normal(0, 0.1, shape)
    return torch.from_numpy(values.astype(np.float32))


def pictures(size: Sequence[int], count: int = 1) -> Tensor:
    """N×3×H×W float, RGB 0–255: coarse blocks, fine noise, and a brightness per picture."""
    height, width = size
    random = np.random.RandomState(height * 1000 + width)
    drawn = np.empty((count, 3, height, width), np.float32)
    for picture in drawn:
        coarse = random.uniform(0, 1, (3, height // 16 + 1, width // 16 + 1))
        blocks = np.kron(coarse, np.ones((16, 16)))[:, :height, :width]
        fine = random.uniform(0, 1, (3, height, width))
        picture[:] = np.round(255 * random.uniform(0.4, 1) * (0.6 * blocks + 0.4 * fine))
    return torch.from_numpy(drawn)


def kept(side: int) -> list[int]:
    """The rows, or columns, of a picture's logits that a golden keeps."""
    return sorted({*range(0, side, STEP), side - 1})


def summary(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What a golden keeps of 1×K×H×W logits: K×h×w of them, and the K means over all pixels."""
    whole = logits[0].detach()
    some = whole[:, kept(whole.shape[1])][:, :, kept(whole.shape[2])]
    return some.numpy(), whole.double().mean((1, 2)).numpy()


def without_chance(model: nn.Module) -> nn.Module:
    """The same model, which drops nothing in training: neither features nor, under any name, residual branches."""
    for module in model.modules():
        for name in ("p", "drop_prob", "_drop_connect_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def check_eval(golden: Golden, model: Any) -> None:
    """A converted model expects the foreign normalisation, and gives the golden's logits at every size."""
    model.eval()
    assert model.info.preprocessing.mean == golden.mean
    assert model.info.preprocessing.std == golden.std
    for height, width in golden.sizes:
        with torch.no_grad():
            some, means = summary(model(golden.pictures((height, width))))
        expected = golden.facts[f"logits_{height}x{width}"]
        assert 0.1 < expected.std() < 10
        np.testing.assert_allclose(some, expected, atol=1e-4, rtol=0)
        np.testing.assert_allclose(means, golden.facts[f"means_{height}x{width}"], atol=1e-4, rtol=0)


def check_training(golden: Golden, model: Any, names: Mapping[str, str]) -> None:
    """A step of training moves the running means as the foreign project's does.

    Ours are computed in float64, so that the difference does not depend on the machine: it is the rounding of the
    golden, which the foreign project computed in float32. A norm after the image pooling rounds most, because the
    pooling's own norm divides by the deviation of two values.

    Args:
        golden: what to compare with.
        model: changed in place.
        names: foreign norm → ours, for each whose running mean the golden has.
    """
    running = {key.removesuffix(".running_mean") for key in golden.facts if key.endswith("running_mean")}
    assert running == set(names)
    without_chance(model).train().double()
    with torch.no_grad():
        model(golden.pictures(golden.sizes[0], 2).double())
    after = model.state_dict()
    for theirs, ours in names.items():
        expected = golden.facts[f"{theirs}.running_mean"]
        atol = 2e-5 if ours.startswith("aspp.project") else 1e-5
        np.testing.assert_allclose(after[f"{ours}.running_mean"].numpy(), expected, atol=atol, rtol=0, err_msg=ours)


def settle(model: nn.Module, classifier: str, size: Sequence[int], channels: int = 3) -> nn.Module:
    """The same model in evaluation mode, every norm drawn, with the statistics that it measures on noise.

    Drawn statistics would not do: with them what the deep layers add fades against what is passed around them, and a
    wrong dilation there changes the logits by 1e-7.

    Args:
        model: changed in place.
        classifier: path of its last convolution, which is scaled so that the logits deviate by one.
        size: (H, W) of the noise.
        channels: C of the noise.
    """
    torch.manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.normal_(norm.bias, 0, 0.1)
        norm.momentum = 1.0
    last, spread = model.get_submodule(classifier), []
    hook = last.register_forward_hook(lambda module, given, logits: spread.append(logits.std()))
    with torch.no_grad():
        without_chance(model).train()(noise(size, 4, channels))
        for parameter in last.parameters():
            parameter /= spread[0]
    hook.remove()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def noise(size: Sequence[int], count: int = 1, channels: int = 3) -> Tensor:
    """N×C×H×W of normal noise, on which every model has the statistics that it was settled with."""
    height, width = size
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(count, channels, height, width, generator=generator)


def check_logits(
    theirs: Callable[[Tensor], Tensor], ours: nn.Module, sizes: Sequence[Sequence[int]], channels: int = 3
) -> None:
    """Both give the same logits, of order one, at the size of every picture."""
    for size in sizes:
        images = noise(size, channels=channels).to(next(ours.parameters()))
        with torch.no_grad():
            expected = theirs(images)
            assert 0.1 < expected.std() < 10
            torch.testing.assert_close(ours(images), expected, atol=1e-4, rtol=0)


def check_training_step(
    theirs: nn.Module, ours: nn.Module, source: str, size: Sequence[int], **given: Any
) -> tuple[Any, dict[str, Tensor]]:
    """A step of training on two pictures moves every running mean and variance alike.

    Args:
        theirs: changed in place.
        ours: changed in place.
        source: whose adapter says which statistics are which.
        size: (H, W) of the pictures.
        given: what the adapter was given.

    Returns:
        What each answered, theirs and the scores of ours.
    """
    images = noise(size, 2).to(next(ours.parameters()))
    before = {name: tensor.clone() for name, tensor in _statistics(ours.state_dict()).items()}
    with torch.no_grad():
        answers = without_chance(theirs).train()(images), without_chance(ours).train().scores(images)
    expected = _statistics(detect_source.adapter_of(source).adapt(from_state_dict(theirs.state_dict()), given).state)
    after = _statistics(ours.state_dict())
    assert after.keys() == expected.keys()
    for name, tensor in after.items():
        assert not torch.equal(tensor, before[name]), name
        relative = 1e-5 if name.endswith("var") else 0
        named = partial("{}: {}".format, name)
        torch.testing.assert_close(tensor, expected[name].to(tensor), atol=1e-5, rtol=relative, msg=named)
    return answers


def _statistics(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.endswith(("running_mean", "running_var"))}
