"""Mean and standard deviation of pictures that training code keeps as buffers beside its network.

smp's Lightning examples have `mean` and `std`, detectron2 `pixel_mean` and `pixel_std`, others `normalize.mean`. They
are what the network was trained with, so they count over a source's default; a configuration counts over them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from atrous.models import Preprocessing
from atrous.weights.adapter import IMAGENET_MEAN, Adapted

#: The name of a mean, with words before and after it.
MEAN = re.compile(r"((?:[A-Za-z0-9]+_)*)(means?)((?:_[A-Za-z0-9]+)*)")
#: What these words may be where the mean is one of pictures; where there are none, it may be one, too.
OF_PICTURES = re.compile(r"pixels?|images?|img|inputs?|rgb|bgr|\w*normali[sz]\w*|\w*preprocess\w*", re.IGNORECASE)
#: Parts of a module's name or of a mean's that tell of statistics of something else, also with as many numbers.
OF_OTHERS = re.compile(
    "loss|criteri|metric|accura|error|profil|monitor|track|logger|observer|statist|target|label|class|output|head|"
    "logit|score|weight|grad|optim|sampl|batch|running|moving|latent|prior|embed|proto|anchor|box|regress|reward|"
    "depth|dispar|height|thermal|lidar|radar|audio|flow",
    re.IGNORECASE,
)
#: What a deviation is called where the mean is "mean" and where it is "means".
DEVIATIONS = {"mean": ("std", "stdev", "stddev", "std_dev"), "means": ("stds", "std")}
#: By how much two means may differ, in steps of 8-bit pictures, and be the same.
SAME = 1.5


@dataclass(frozen=True)
class Stored:
    """A pair of buffers.

    Args:
        names: of the mean and, where there is one, of the deviation.
        preprocessing: what they mean, in 0–255; None where that cannot be told.
        doubt: why not.
    """

    names: tuple[str, ...]
    preprocessing: Preprocessing | None
    doubt: str = ""


def applied(adapted: Adapted, default: Preprocessing, tensors: Mapping[str, Tensor]) -> Adapted:
    """The checkpoint with the normalisation that is stored beside its network, or with a note why not.

    Args:
        adapted: the checkpoint; its left-over names are looked through.
        default: the normalisation where the source has none of its own.
        tensors: what these names stand for.
    """
    own = adapted.preprocessing or default
    found = pairs({name: tensors[name] for name in adapted.left_over if name in tensors}, len(own.mean))
    notes = [f"{_named(pair)} beside the network {pair.doubt}: not used." for pair in found if pair.doubt]
    known = [(pair, pair.preprocessing) for pair in found if pair.preprocessing is not None]
    if not known:
        return replace(adapted, notes=(*adapted.notes, *notes))
    pair, stored = known[0]
    different = [_named(other) for other, preprocessing in known if not _alike(preprocessing, stored)]
    if different:
        notes.append(
            f"{_named(pair)} and {', '.join(different)} contradict each other: not used; mean {_numbers(own.mean)} is."
        )
        return replace(adapted, notes=(*adapted.notes, *notes))
    if _alike(stored, own):
        used = [name for one, _ in known for name in one.names]
        left = tuple(name for name in adapted.left_over if name not in used)
        return replace(adapted, left_over=left, notes=(*adapted.notes, *notes))
    if adapted.preprocessing_told:
        notes.append(
            f"{_named(pair)} beside the network say mean {_numbers(stored.mean)} and std {_numbers(stored.std)}, the "
            f"file's configuration mean {_numbers(own.mean)} and std {_numbers(own.std)}, which is used."
        )
        return replace(adapted, notes=(*adapted.notes, *notes))
    notes.append(
        f"Mean {_numbers(stored.mean)} and std {_numbers(stored.std)} of pictures, in 0–255, are those of "
        f"{_named(pair)} beside the network."
    )
    used = [name for one, _ in known for name in one.names]
    return replace(
        adapted,
        preprocessing=own.normalized_by(stored.mean, stored.std),
        left_over=tuple(name for name in adapted.left_over if name not in used),
        notes=(*adapted.notes, *notes),
    )


def pairs(tensors: Mapping[str, Tensor], channels: int) -> list[Stored]:
    """The means and deviations of pictures among tensors, as their names and their sizes tell.

    Args:
        tensors: by name; parts of names are separated by `.` or `/`.
        channels: C of the pictures.
    """
    found = []
    for name, mean in tensors.items():
        place, leaf = re.fullmatch(r"((?:.*[./])?)([^./]*)", name, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
        match = MEAN.fullmatch(leaf)
        if match is None or mean.numel() != channels or mean.is_complex() or not _is_of_pictures(name, match):
            continue
        before, word, after = match.groups()
        names = (f"{place}{before}{deviation}{after}" for deviation in DEVIATIONS[word])
        beside = next((other for other in names if other in tensors), None)
        if beside is None:
            found.append(Stored((name,), None, "has no deviation"))
        elif tensors[beside].numel() != channels or tensors[beside].is_complex():
            found.append(Stored((name, beside), None, f"are not of {channels} channels each"))
        elif "bgr" in leaf.lower().split("_"):
            found.append(Stored((name, beside), None, "are in the order of BGR, and the weights are taken as RGB"))
        else:
            found.append(_meaning((name, beside), _row(mean), _row(tensors[beside])))
    return found


def _is_of_pictures(name: str, match: re.Match[str]) -> bool:
    """Whether a mean's whole name, and the words in its last part, may be those of pictures."""
    words = [word for word in f"{match[1]}{match[3]}".split("_") if word]
    return OF_OTHERS.search(name) is None and all(OF_PICTURES.fullmatch(word) for word in words)


def _meaning(names: tuple[str, ...], mean: tuple[float, ...], std: tuple[float, ...]) -> Stored:
    """In which units they are, by their size."""
    shares = all(0 <= value <= 1 for value in mean) and all(0 < value <= 1 for value in std)
    values = all(0 <= value <= 255 for value in mean) and all(0 < value <= 255 for value in std)
    if shares and max(mean) == 0 and min(std) == 1:
        return Stored(names, None, "(0 and 1) are of pictures in 0–255 or in 0–1, which they do not tell")
    if not shares and not (values and (max(mean) > 1 or max(mean) == 0)):
        return Stored(
            names, None, f"({_numbers(mean)} and {_numbers(std)}) are neither of pictures in 0–255 nor in 0–1"
        )
    factor = 255 if shares else 1
    mean, std = (tuple(factor * value for value in values) for values in (mean, std))
    if len(mean) == 3 and _close(mean, IMAGENET_MEAN[::-1]):
        return Stored(
            names, None, f"({_numbers(mean)}) are ImageNet's in the order of BGR, and the weights are taken as RGB"
        )
    return Stored(names, Preprocessing.of_pictures(mean, std))


def _row(tensor: Tensor) -> tuple[float, ...]:
    """The numbers, rounded to what float32 holds."""
    return tuple(float(f"{value:.7g}") for value in tensor.detach().flatten().double().tolist())


def _alike(one: Preprocessing, other: Preprocessing) -> bool:
    return _close(one.mean, other.mean) and _close(one.std, other.std)


def _close(one: Iterable[float], other: Iterable[float]) -> bool:
    return all(abs(here - there) < SAME for here, there in zip(one, other, strict=True))


def _named(pair: Stored) -> str:
    return " and ".join(f"'{name}'" for name in pair.names)


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.5g}" for value in values)
