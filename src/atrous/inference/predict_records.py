"""The record of one job (the prediction of one picture or volume), and the summary of many records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atrous.data.mask_value_map import IGNORE_INDEX
from atrous.errors import counted
from atrous.models.info import Info

#: Largest number of classes that a summary names.
MOST_SHOWN = 8


@dataclass(frozen=True)
class Record:
    """The result of a job.

    Args:
        image: path or URL of the picture; URLs are without user, password and query.
        mask: path or URL of the mask, in the same form; None if the mask was not written completely.
        error: error message; None if nothing failed.
        share: share of each class among the pixels with data, 0–1, by class name; None if there is no mask.
        no_data: share of the picture's pixels without data, 0–1.
        work: for a windowed picture, the numbers of tiles, seconds and pixels; see `tiled_inference.Work`.
    """

    image: str
    mask: str | None = None
    error: str | None = None
    share: Mapping[str, float] | None = None
    no_data: float = 0.0
    work: Mapping[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values for JSON, without fields that are empty, 0 or None."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True)
class Summary:
    """The results of many jobs.

    Args:
        masks: number of jobs without an error.
        failed: records of the jobs with an error.
        share: mean share of each class over the pictures that have data, 0–1, by class name.
        no_data: mean share of pixels without data over all pictures, 0–1.
    """

    masks: int
    failed: tuple[Record, ...]
    share: Mapping[str, float]
    no_data: float

    @property
    def classes(self) -> str:
        """Text with the shares of the most frequent classes and of pixels without data; "" if there are no shares."""
        largest = sorted((name for name in self.share if self.share[name]), key=lambda name: -self.share[name])
        more = f" and {len(largest) - MOST_SHOWN} more classes" if len(largest) > MOST_SHOWN else ""
        named = ", ".join(f"{name} {self.share[name]:.1%}" for name in largest[:MOST_SHOWN]) + more
        return "; ".join(part for part in (named, f"{self.no_data:.1%} without data" if self.no_data else "") if part)

    def __str__(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{counted(self.masks, 'mask')}{failed}{f': {self.classes}' if self.classes else ''}"


def summarise(records: Sequence[Record]) -> Summary:
    """Summarises the records of all workers; the order of the records does not matter.

    Args:
        records: records of any number of jobs.
    """
    done = [record for record in records if record.error is None]
    shares = [record.share for record in done if record.share and record.no_data < 1]
    names = dict.fromkeys(name for share in shares for name in share)
    means = {name: sum(share.get(name, 0.0) for share in shares) / len(shares) for name in names}
    failed = tuple(record for record in records if record.error is not None)
    return Summary(len(done), failed, means, sum(record.no_data for record in done) / max(len(done), 1))


def class_shares(counts: np.ndarray, info: Info) -> dict[str, Any]:
    """Returns the fields `share` and `no_data` of a `Record`, by name.

    Args:
        counts: number of pixels of each of the 256 labels.
        info: metadata of the model.
    """
    of_classes = counts[: len(info.classes)]
    total = max(int(of_classes.sum()), 1)
    share = {name: count / total for name, count in zip(info.classes, of_classes.tolist(), strict=True)}
    return {"share": share, "no_data": int(counts[IGNORE_INDEX]) / max(int(counts.sum()), 1)}
