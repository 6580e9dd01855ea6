"""Segments the pictures of a split, and returns one confusion matrix per group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atrous.console import progress_bar
from atrous.data.dataset import Dataset, Item
from atrous.data.prefetch import in_background
from atrous.errors import AtrousError
from atrous.inference.segmenter import Segmenter
from atrous.inference.slice_views import for_picture
from atrous.learning.bootstrap import grouped_counts
from atrous.learning.class_matching import matching_classes
from atrous.learning.confusion_matrix import ConfusionMatrix
from atrous.learning.evaluation import prepared, reader_for


def confusion_by_group(segmenter: Segmenter, dataset: Dataset, items: Sequence[Item]) -> np.ndarray:
    """Segments every picture, and returns one confusion matrix per group, in the order of the groups' first pictures.

    The masks are the same as in `measure`. All pictures are segmented in this process, and volumes are not resampled.

    Args:
        segmenter: segmenter to measure, of a model of pictures.
        dataset: dataset of the items.
        items: labelled pictures, at least one. A picture without a group is its own group.

    Returns:
        G×K×K int64 counts of G groups; row = truth, column = prediction.

    Raises:
        AtrousError: there are no items, or the data has classes that the model does not have.
    """
    if not items:
        raise AtrousError("the split has no pictures to measure on.")
    remap, classes = matching_classes(dataset.classes, segmenter.info.classes), len(segmenter.info.classes)
    found = []
    with progress_bar() as progress:
        task = progress.add_task("evaluating", total=len(items), note="")
        for item, sample in zip(items, in_background(reader_for(segmenter, dataset), items), strict=True):
            run = for_picture(segmenter.any_size, item.image)
            one = ConfusionMatrix(classes)
            one.update(remap[sample.label], run(prepared(segmenter, sample), sample.valid, name=item.name))
            found.append(one.counts)
            progress.update(task, advance=1)
    return grouped_counts(found, [item.group for item in items])
