"""Derives the number of channels of a model from training pictures, whose numbers of channels may differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from atrous.data.pixels import PictureKind, gives_channels
from atrous.errors import AtrousError


def channels_of(
    training: Sequence[tuple[PictureKind, str]],
    measured: Sequence[tuple[PictureKind, str]],
    in_channels: int | None = None,
) -> int:
    """Returns the number of input channels of a model, for `doctor` and for the start of `train`.

    If the recipe sets a number, the result is this number. Otherwise, if all training pictures have the same number of
    channels, the result is their number of channels. A mix of grey, RGB and four-band pictures gives 3 (RGB). If the
    numbers differ and all are above four, the smallest number is returned, because a model reads the first bands.

    Args:
        training: kind and name of each training picture, at least one.
        measured: kind and name of each validation picture; the best weights are chosen on these pictures.
        in_channels: the number of channels that the recipe sets; None if it sets none.

    Raises:
        AtrousError: no number of channels fits all training pictures, or the bands of a training or validation picture
            cannot be converted to this number; the message names files.
    """
    first = {kind.channels: name for kind, name in reversed(training)}
    mixed = len(first) > 1
    of_colour = set(first) <= {1, 3, 4}
    if in_channels is None and mixed and not of_colour and min(first) <= 4:
        named = ", ".join(f"{channels}: {first[channels]}" for channels in sorted(first))
        counts = counts_of_channels(kind.channels for kind, _ in training)
        raise AtrousError(
            f"the training pictures differ in their channels ({counts}), and no conversion between these numbers of "
            f"channels is defined (examples: {named}): convert the pictures, or set model.in_channels to a number of "
            "channels that all of them have."
        )
    chosen = in_channels or (3 if mixed and of_colour else min(first))
    for kind, name in (*training, *measured):
        if not gives_channels(kind.channels, kind.bands, chosen):
            fitting = [other for known, other in training if chosen in (known.channels, known.bands)]
            raise AtrousError(
                f"{name}: the picture has {kind.channels} channels, and the model takes {chosen}"
                + (" (model.in_channels)" if in_channels else "")
                + (f", as many as {fitting[0]} has" if fitting else "")
                + ". No conversion between these numbers is defined: convert the picture, or remove it from the "
                "dataset."
            )
    return chosen


def counts_of_channels(each: Iterable[int]) -> str:
    """Returns the number of pictures for each number of channels as text, such as "2 with 1, 9 with 3".

    Args:
        each: the number of channels of each picture.
    """
    return ", ".join(f"{count} with {channels}" for channels, count in sorted(Counter(each).items()))
