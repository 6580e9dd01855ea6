"""How many channels a model takes of pictures that may differ in theirs."""

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
    """The channels that a model takes, asked by `doctor` before and by `train` at its start.

    Where grey and RGB are mixed it is RGB, where four bands are mixed with RGB or grey it is RGB, and of pictures with
    more than four bands the least, because of those the first are taken.

    Args:
        training: kind and name of each picture to learn from, at least one.
        measured: kind and name of each picture to choose the best weights on.
        in_channels: that the recipe gives; None where it gives none.

    Raises:
        AtrousError: there is no agreed way from a picture's bands to the channels; the message names files.
    """
    first = {kind.channels: name for kind, name in reversed(training)}
    mixed = len(first) > 1
    of_colour = set(first) <= {1, 3, 4}
    if in_channels is None and mixed and not of_colour and min(first) <= 4:
        named = ", ".join(f"{channels}: {first[channels]}" for channels in sorted(first))
        counts = counts_of_channels(kind.channels for kind, _ in training)
        raise AtrousError(
            f"the training pictures differ in their channels ({counts}), "
            f"between which there is no agreed way ({named}): convert them, or set model.in_channels to what all of "
            "them have."
        )
    chosen = in_channels or (3 if mixed and of_colour else min(first))
    for kind, name in (*training, *measured):
        if not gives_channels(kind.channels, kind.bands, chosen):
            fitting = [other for known, other in training if chosen in (known.channels, known.bands)]
            raise AtrousError(
                f"{name}: the picture has {kind.channels} channels and {chosen} are wanted"
                + (" (model.in_channels)" if in_channels else "")
                + (f", which {fitting[0]} has" if fitting else "")
                + ". There is no agreed way between them: convert the picture, or take it out."
            )
    return chosen


def counts_of_channels(each: Iterable[int]) -> str:
    """How many pictures have how many channels, such as "2 with 1, 9 with 3".

    Args:
        each: the channels of each picture.
    """
    return ", ".join(f"{count} with {channels}" for channels, count in sorted(Counter(each).items()))
