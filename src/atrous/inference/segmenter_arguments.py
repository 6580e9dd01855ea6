"""Checks of the arguments of a segmenter's methods, except pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from atrous.checked_arguments import attribute_of
from atrous.data.file_headers import Note
from atrous.errors import AtrousError, shown
from atrous.inference.picture_input import Found
from atrous.models.picture_checks import check_picture


def check_found(found: Any) -> Found:
    """A picture as `Segmenter.read` gives it.

    Args:
        found: value to check.

    Raises:
        AtrousError: the value has another type.
    """
    if not isinstance(found, Found):
        raise AtrousError(f"what was read is wanted, segmenter.read(picture), got {shown(found)}.")
    return found


def check_notes(notes: Any) -> list[Note]:
    """Notes on files, as `picture_input.doubts_of_files` gives them.

    Args:
        notes: value to check.

    Raises:
        AtrousError: the value has another type.
    """
    listed = list(notes) if isinstance(notes, list | tuple | Iterator) else [notes]
    if not all(isinstance(note, Note) for note in listed):
        raise AtrousError(f"notes are a list of Note, as picture_input.doubts_of_files gives them, got {shown(notes)}.")
    return listed


def check_crf(crf: Any) -> Any:
    """A CRF, or None.

    Args:
        crf: value to check.

    Raises:
        AtrousError: the value has another type.
    """
    if crf is not None:
        from atrous.crf import DenseCRF  # with torch, which a path on OpenVINO does without

        if not isinstance(crf, DenseCRF):
            raise AtrousError(f"crf must be an atrous.DenseCRF or None, got {shown(crf)}.")
    return crf


def check_pooled(pooled: Any, views: int, pools: bool) -> Sequence[np.ndarray] | None:
    """Checks the mean features of a whole picture for each view, or None.

    Args:
        pooled: value to check.
        views: number of views.
        pools: whether the network has image pooling that takes means.

    Raises:
        AtrousError: no rows of numbers, another count than of views, or means for a network that takes none.
    """
    if pooled is None:
        return None
    if not pools:
        raise AtrousError("pooled is for models with image pooling (segmenter.pools): leave it out for this one.")
    sound = isinstance(pooled, list | tuple) and all(
        isinstance(mean, np.ndarray) and mean.ndim == 1 and mean.dtype.kind == "f" for mean in pooled
    )
    if not sound or len(pooled) != views:
        raise AtrousError(
            f"pooled is a list of {views}, each the mean of `features` over all places, got {shown(pooled)}."
        )
    return pooled


def check_scores(scores: Any, classes: int) -> Sequence[np.ndarray]:
    """Logits as `Segmenter.scores` gives them.

    Args:
        scores: value to check.
        classes: of the model; of two there may be one logit.

    Raises:
        AtrousError: no arrays of h×w×K floats.
    """
    known = (classes, 1) if classes == 2 else (classes,)
    sound = isinstance(scores, list | tuple) and all(
        isinstance(one, np.ndarray) and one.ndim == 3 and one.dtype == np.float32 and one.size and one.shape[2] in known
        for one in scores
    )
    if not sound or len({one.shape[2] for one in scores}) != 1:
        raise AtrousError(
            f"scores are those of segmenter.scores(image), of each view h×w×{classes} float32, got {shown(scores)}."
        )
    return scores


def check_together(images: Any, channels: int, possible: bool) -> np.ndarray:
    """Pictures of one size and type, stacked.

    Args:
        images: value to check.
        channels: C of the model.
        possible: whether this segmenter takes several together.

    Returns:
        N×H×W×C.

    Raises:
        AtrousError: no list, an empty one, what is no picture, different sizes or types, or not possible.
    """
    if not possible:
        raise AtrousError("pictures together are for one scale without flip or CRF: call segment for each picture.")
    if not isinstance(images, list | tuple) or not images:
        raise AtrousError(f"a list of pictures of one size is wanted, got {shown(images)}.")
    images = [check_picture(image, channels) for image in images]
    if len({(image.shape, image.dtype) for image in images}) > 1:
        raise AtrousError("pictures together are of one size and one type: call segment for each picture.")
    return np.stack(images)


def check_progress(progress: Any) -> None:
    """Refuses a `progress` that cannot be called.

    Args:
        progress: value to check; None passes.

    Raises:
        AtrousError: the value is not a function.
    """
    if progress is not None and not callable(progress):
        raise AtrousError(f"progress must be a function of two numbers, got {shown(progress)}.")


def check_say(say: Any) -> None:
    """Refuses a `say` that cannot be called.

    Args:
        say: value to check.

    Raises:
        AtrousError: the value is not a function.
    """
    if not callable(say):
        raise AtrousError(f"say must be a function that takes a line, got {shown(say)}.")


def check_source_and_sink(source: Any, sink: Any) -> None:
    """Refuses a source or a sink without the methods for windows.

    Args:
        source: value to check.
        sink: value to check.

    Raises:
        AtrousError: the value has another type.
    """
    shape = attribute_of(source, "shape")
    sized = isinstance(shape, tuple | list) and len(shape) == 3 and all(isinstance(side, int) for side in shape)
    if not (sized and callable(attribute_of(source, "read")) and callable(attribute_of(sink, "write"))):
        raise AtrousError(
            f"a source and a sink are those of atrous.data.sources, got {shown(source)} and {shown(sink)}."
        )


def check_places(places: Any, pixels: int) -> np.ndarray:
    """Indices of pixels.

    Args:
        places: value to check.
        pixels: how many the picture has.

    Raises:
        AtrousError: no row of whole numbers, or one out of range.
    """
    if not isinstance(places, np.ndarray) or places.ndim != 1 or places.dtype.kind not in "iu":
        raise AtrousError(f"places are a row of whole numbers, an index of a pixel each, got {shown(places)}.")
    if places.size and not 0 <= places.min() <= places.max() < pixels:
        raise AtrousError(f"places are 0 to {pixels - 1} in this picture, got {places.min()} to {places.max()}.")
    return places
