"""Finds the mean and standard deviation of pictures that training code stores as buffers next to the network.

smp's Lightning examples have `mean` and `std`, detectron2 has `pixel_mean` and `pixel_std`, others `normalize.mean`.
The network was trained with these values, so they replace the default of a source. If the file's configuration states
a normalisation, these values are not used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from atrous.models import Preprocessing
from atrous.weights.adapter import IMAGENET_MEAN, Adapted

#: Name of a mean, with optional words before and after it.
MEAN = re.compile(r"((?:[A-Za-z0-9]+_)*)(means?)((?:_[A-Za-z0-9]+)*)")
#: Words that may stand before or after "mean" in the name of a mean of pictures; "mean" alone is also such a name.
OF_PICTURES = re.compile(r"pixels?|images?|img|inputs?|rgb|bgr|\w*normali[sz]\w*|\w*preprocess\w*", re.IGNORECASE)
#: Parts of the names of other statistics, which may have the same number of values.
OF_OTHERS = re.compile(
    "loss|criteri|metric|accura|error|profil|monitor|track|logger|observer|statist|target|label|class|output|head|"
    "logit|score|weight|grad|optim|sampl|batch|running|moving|latent|prior|embed|proto|anchor|box|regress|reward|"
    "depth|dispar|height|thermal|lidar|radar|audio|flow",
    re.IGNORECASE,
)
#: Word of the mean → words of its standard deviation.
DEVIATIONS = {"mean": ("std", "stdev", "stddev", "std_dev"), "means": ("stds", "std")}
#: Two means are treated as equal if they differ by less than this in every channel, on the scale 0–255.
SAME = 1.5


@dataclass(frozen=True)
class Stored:
    """A mean and a standard deviation that are stored as buffers.

    Args:
        names: names of the mean and, if there is one, of the deviation.
        preprocessing: the normalisation by these values, on the scale 0–255; None if it cannot be determined.
        doubt: reason why the normalisation cannot be determined; "" if it is known.
    """

    names: tuple[str, ...]
    preprocessing: Preprocessing | None
    doubt: str = ""


def applied(adapted: Adapted, default: Preprocessing, tensors: Mapping[str, Tensor]) -> Adapted:
    """Applies the normalisation that is stored next to the network, or adds a note that states why it is not applied.

    Args:
        adapted: the checkpoint; only its left-over names are searched.
        default: normalisation that is used if the source has no normalisation.
        tensors: left-over name → tensor.

    Returns:
        The checkpoint with the stored normalisation, or with a note.
    """
    own = adapted.preprocessing or default
    found = pairs({name: tensors[name] for name in adapted.left_over if name in tensors}, len(own.mean))
    notes = [f"{_named(pair)}, stored next to the network, {pair.doubt}: not used." for pair in found if pair.doubt]
    known = [(pair, pair.preprocessing) for pair in found if pair.preprocessing is not None]
    if not known:
        return replace(adapted, notes=(*adapted.notes, *notes))
    pair, stored = known[0]
    different = [_named(other) for other, preprocessing in known if not _alike(preprocessing, stored)]
    if different:
        notes.append(
            f"{_named(pair)} and {', '.join(different)} contradict each other and are not used. Used: mean "
            f"{_numbers(own.mean)}."
        )
        return replace(adapted, notes=(*adapted.notes, *notes))
    if _alike(stored, own):
        used = [name for one, _ in known for name in one.names]
        left = tuple(name for name in adapted.left_over if name not in used)
        return replace(adapted, left_over=left, notes=(*adapted.notes, *notes))
    if adapted.preprocessing_told:
        notes.append(
            f"{_named(pair)}, stored next to the network, give mean {_numbers(stored.mean)} and std "
            f"{_numbers(stored.std)}. The file's configuration has mean {_numbers(own.mean)} and std "
            f"{_numbers(own.std)}, which is used."
        )
        return replace(adapted, notes=(*adapted.notes, *notes))
    notes.append(
        f"Mean {_numbers(stored.mean)} and std {_numbers(stored.std)} of pictures, in 0–255, are taken from "
        f"{_named(pair)}, stored next to the network."
    )
    used = [name for one, _ in known for name in one.names]
    return replace(
        adapted,
        preprocessing=own.normalized_by(stored.mean, stored.std),
        left_over=tuple(name for name in adapted.left_over if name not in used),
        notes=(*adapted.notes, *notes),
    )


def pairs(tensors: Mapping[str, Tensor], channels: int) -> list[Stored]:
    """Finds the means and deviations of pictures among tensors, by their names and sizes.

    Args:
        tensors: name → tensor; parts of names are separated by `.` or `/`.
        channels: number of channels of the pictures.
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
            found.append(Stored((name, beside), None, f"do not have one value for each of {channels} channels"))
        elif "bgr" in leaf.lower().split("_"):
            found.append(Stored((name, beside), None, "are in BGR order, but the weights are converted as RGB"))
        else:
            found.append(_meaning((name, beside), _row(mean), _row(tensors[beside])))
    return found


def _is_of_pictures(name: str, match: re.Match[str]) -> bool:
    """Returns whether a name may belong to a mean of pictures, by all its parts and the words in the last part."""
    words = [word for word in f"{match[1]}{match[3]}".split("_") if word]
    return OF_OTHERS.search(name) is None and all(OF_PICTURES.fullmatch(word) for word in words)


def _meaning(names: tuple[str, ...], mean: tuple[float, ...], std: tuple[float, ...]) -> Stored:
    """Determines the scale of a mean and deviation, 0–1 or 0–255, by their values."""
    shares = all(0 <= value <= 1 for value in mean) and all(0 < value <= 1 for value in std)
    values = all(0 <= value <= 255 for value in mean) and all(0 < value <= 255 for value in std)
    if shares and max(mean) == 0 and min(std) == 1:
        return Stored(names, None, "are 0 and 1, which fits the scale 0–255 as well as 0–1")
    if not shares and not (values and (max(mean) > 1 or max(mean) == 0)):
        return Stored(
            names, None, f"have the values {_numbers(mean)} and {_numbers(std)}, which fit neither 0–255 nor 0–1"
        )
    factor = 255 if shares else 1
    mean, std = (tuple(factor * value for value in values) for values in (mean, std))
    if len(mean) == 3 and _close(mean, IMAGENET_MEAN[::-1]):
        return Stored(
            names, None, f"are ImageNet's in BGR order ({_numbers(mean)}), but the weights are converted as RGB"
        )
    return Stored(names, Preprocessing.of_pictures(mean, std))


def _row(tensor: Tensor) -> tuple[float, ...]:
    """Returns the values of a tensor, rounded to the precision of float32."""
    return tuple(float(f"{value:.7g}") for value in tensor.detach().flatten().double().tolist())


def _alike(one: Preprocessing, other: Preprocessing) -> bool:
    return _close(one.mean, other.mean) and _close(one.std, other.std)


def _close(one: Iterable[float], other: Iterable[float]) -> bool:
    return all(abs(here - there) < SAME for here, there in zip(one, other, strict=True))


def _named(pair: Stored) -> str:
    return " and ".join(f"'{name}'" for name in pair.names)


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.5g}" for value in values)
