"""Checks of the arguments of a segmenter and its methods, except pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atrous.checked_arguments import attribute_of
from atrous.data.file_headers import Note
from atrous.errors import AtrousError, shown
from atrous.inference.picture_input import Found
from atrous.models.model_checks import check_model
from atrous.models.picture_checks import check_picture
from atrous.paths import path_of

if TYPE_CHECKING:
    from atrous.models import SegmentationModel


def check_found(found: Any) -> Found:
    """Checks a picture from `Segmenter.read`, and returns it.

    Args:
        found: value to check.

    Raises:
        AtrousError: the value has another type.
    """
    if not isinstance(found, Found):
        raise AtrousError(f"give a picture from segmenter.read(picture), got {shown(found)}.")
    return found


def check_notes(notes: Any) -> list[Note]:
    """Checks notes on files from `picture_input.doubts_of_files`, and returns them as a list.

    Args:
        notes: value to check.

    Raises:
        AtrousError: the value has another type.
    """
    listed = list(notes) if isinstance(notes, list | tuple | Iterator) else [notes]
    if not all(isinstance(note, Note) for note in listed):
        raise AtrousError(f"notes must be a list of Note, as from picture_input.doubts_of_files, got {shown(notes)}.")
    return listed


def check_crf(crf: Any) -> Any:
    """Checks a CRF or None, and returns it.

    Args:
        crf: value to check.

    Raises:
        AtrousError: the value has another type.
    """
    if crf is not None:
        from atrous.crf import DenseCRF  # imports torch, which OpenVINO does not need

        if not isinstance(crf, DenseCRF):
            raise AtrousError(f"crf must be an atrous.DenseCRF or None, got {shown(crf)}.")
    return crf


def check_pooled(pooled: Any, views: int, pools: bool) -> Sequence[np.ndarray] | None:
    """Checks the mean features of a whole picture, one array per view, and returns them; None is also accepted.

    Args:
        pooled: value to check.
        views: number of views.
        pools: whether the network has image pooling that can use means.

    Raises:
        AtrousError: the value is not one array of floats per view, or the network cannot use means.
    """
    if pooled is None:
        return None
    if not pools:
        raise AtrousError("pooled is for models with image pooling (segmenter.pools): leave it out for this model.")
    sound = isinstance(pooled, list | tuple) and all(
        isinstance(mean, np.ndarray) and mean.ndim == 1 and mean.dtype.kind == "f" for mean in pooled
    )
    if not sound or len(pooled) != views:
        raise AtrousError(
            f"pooled must be a list of {views} arrays, each the mean of `features` over all positions, "
            f"got {shown(pooled)}."
        )
    return pooled


def check_scores(scores: Any, classes: int) -> Sequence[np.ndarray]:
    """Checks logits from `Segmenter.scores`, and returns them.

    Args:
        scores: value to check.
        classes: number of classes of the model; for two classes, one logit is also allowed.

    Raises:
        AtrousError: the value is not a list of h×w×K float32 arrays.
    """
    known = (classes, 1) if classes == 2 else (classes,)
    sound = isinstance(scores, list | tuple) and all(
        isinstance(one, np.ndarray) and one.ndim == 3 and one.dtype == np.float32 and one.size and one.shape[2] in known
        for one in scores
    )
    if not sound or len({one.shape[2] for one in scores}) != 1:
        raise AtrousError(
            f"scores must be a result of segmenter.scores(image), h×w×{classes} float32 for each view, "
            f"got {shown(scores)}."
        )
    return scores


def check_together(images: Any, channels: int, possible: bool) -> np.ndarray:
    """Checks pictures of one size and data type, and stacks them.

    Args:
        images: value to check.
        channels: number of channels of the model.
        possible: whether this segmenter can run several pictures as one batch.

    Returns:
        N×H×W×C.

    Raises:
        AtrousError: the value is not a list of pictures of one size and data type, or batches are not possible.
    """
    if not possible:
        raise AtrousError(
            "batches of pictures are only for scale 1 without flip and CRF: call segment for each picture."
        )
    if not isinstance(images, list | tuple) or not images:
        raise AtrousError(f"images must be a list of one or more pictures of one size, got {shown(images)}.")
    images = [check_picture(image, channels) for image in images]
    if len({(image.shape, image.dtype) for image in images}) > 1:
        raise AtrousError("pictures of a batch must have one size and one data type: call segment for each picture.")
    return np.stack(images)


def check_progress(progress: Any) -> None:
    """Checks that `progress` can be called.

    Args:
        progress: value to check; None is accepted.

    Raises:
        AtrousError: the value is not a function.
    """
    if progress is not None and not callable(progress):
        raise AtrousError(f"progress must be a function of two numbers, got {shown(progress)}.")


def check_say(say: Any) -> None:
    """Checks that `say` can be called.

    Args:
        say: value to check.

    Raises:
        AtrousError: the value is not a function.
    """
    if not callable(say):
        raise AtrousError(f"say must be a function that takes a line, got {shown(say)}.")


def check_source_and_sink(source: Any, sink: Any) -> None:
    """Checks that a source has `shape` and `read`, and that a sink has `write`.

    Args:
        source: value to check.
        sink: value to check.

    Raises:
        AtrousError: a method is missing, or the shape is not three whole numbers.
    """
    shape = attribute_of(source, "shape")
    sized = isinstance(shape, tuple | list) and len(shape) == 3 and all(isinstance(side, int) for side in shape)
    if not (sized and callable(attribute_of(source, "read")) and callable(attribute_of(sink, "write"))):
        raise AtrousError(
            "source and sink must have the methods of atrous.Source and atrous.Sink, "
            f"got {shown(source)} and {shown(sink)}."
        )


def check_places(places: Any, pixels: int) -> np.ndarray:
    """Checks indices of pixels, and returns them.

    Args:
        places: value to check.
        pixels: number of pixels of the picture.

    Raises:
        AtrousError: the value is not a one-dimensional array of integers, or an index is out of range.
    """
    if not isinstance(places, np.ndarray) or places.ndim != 1 or places.dtype.kind not in "iu":
        raise AtrousError(f"places must be a one-dimensional array of integer indices of pixels, got {shown(places)}.")
    if places.size and not 0 <= places.min() <= places.max() < pixels:
        raise AtrousError(f"places must be 0 to {pixels - 1} for this picture, got {places.min()} to {places.max()}.")
    return places


def path_or_module(model: Any, adapter: str | Path | None) -> Path | SegmentationModel:
    """Returns the path of a model file, or a module: a given one, or the one of an adapter.

    Args:
        model: path of a model file or of an exported file, or a module with `.info`.
        adapter: path of an adapter whose base is the model file; None for no adapter.

    Raises:
        AtrousError: the module is not a model of atrous or has no weights, or the adapter is not one of the model file.
    """
    if adapter is not None:
        if not isinstance(model, str | Path):
            raise AtrousError("an adapter changes a model file: give the path of the file, not a module.")
        from atrous.adapter_file import load_adapted

        return load_adapted(path_of(model, "model"), path_of(adapter, "adapter"))
    return path_of(model, "model") if isinstance(model, str | Path) else check_model(model, weights=True)
