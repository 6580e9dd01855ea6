"""Examines a data set with a progress bar, for `atrous doctor` and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
from rich.markup import escape

from atrous.console import console, progress_bar
from atrous.data.doctor.examine import Diagnosis, examine
from atrous.data.doctor.judge import Finding


def examine_with_progress(
    data: Path,
    layout: str | None,
    *,
    train: str = "train",
    val: str = "val",
    pages: str = "first",
    in_channels: int | None = None,
    inputs: Mapping[str, str] | None = None,
    groups: str | None = None,
    planes: Sequence[str] = (),
    slices: int | None = None,
    window: int | None = None,
) -> Diagnosis:
    """Examines a dataset, and shows a progress bar with the remaining time; arguments as in `examine`."""
    # OpenCV's messages about damaged files would break the progress bar; they are not needed, because the findings name
    # these files.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    with progress_bar() as bar:
        task = bar.add_task("reading", total=None, note="")
        return examine(
            data,
            layout,
            lambda done, total: bar.update(task, completed=done, total=total),
            train=train,
            val=val,
            pages=pages,
            in_channels=in_channels,
            inputs=inputs,
            groups=groups,
            planes=planes,
            slices=slices,
            window=window,
        )


def show_finding(finding: Finding, level: str) -> None:
    """Prints a finding, which is one kind of problem, with its first examples.

    Args:
        finding: finding to print.
        level: severity, in the console's markup, such as "[yellow]warning[/]".
    """
    count = f" × {finding.count}" if finding.count > 1 else ""
    console.print(f"\n{level} {finding.kind}{count}: {escape(finding.message)}", highlight=False)
    for example in finding.examples:
        console.print(f"  {escape(example)}", highlight=False, soft_wrap=True)
    if finding.count > len(finding.examples) > 0:
        console.print(f"  … and {finding.count - len(finding.examples)} more")
