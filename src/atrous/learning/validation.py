"""Validation during training: measures the model, logs example pictures and saves the best model."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from atrous import model_file
from atrous.charts import confusion_picture
from atrous.data.dataset import Dataset, Item
from atrous.data.raster_items import largest_window
from atrous.device import precision_name
from atrous.inference.picture_input import middle_slice
from atrous.inference.prediction import Prediction
from atrous.inference.segmenter import Segmenter
from atrous.inference.value_range import PictureWarning
from atrous.learning.confusion_matrix import ConfusionMatrix, none_if_nan
from atrous.learning.distributed import ProcessGroup
from atrous.learning.evaluation import measure, prepared
from atrous.learning.recipe import Recipe
from atrous.learning.run_log import RunLog
from atrous.learning.trainer import Progress
from atrous.learning.training_step import TrainingStep
from atrous.logger import suppressed
from atrous.models import SegmentationModel
from atrous.version import __version__

#: Number of validation pictures that are logged to TensorBoard and Weights & Biases.
SHOWN = 3
#: Name of the file with the best model, in a run's folder.
BEST = "best.safetensors"
#: Name of the file with the changes of the best model to its base, in the folder of a run with low-rank changes.
ADAPTER = "adapter.safetensors"


class Validation:
    """Measures a model on the validation split, logs example pictures, and saves the best model.

    Args:
        recipe: recipe of the run, which names the validation split.
        run: folder of the run, for best.safetensors.
        dataset: dataset with the split.
        step: training step, whose precision and CRF are used.
        processes: processes that share the pictures; process 0 writes the files.
        factors: averaged factors of the step's low-rank changes, for the adapter; None for the factors of the step.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        dataset: Dataset,
        step: TrainingStep,
        processes: ProcessGroup,
        factors: nn.ModuleList | None = None,
    ) -> None:
        self.recipe, self.run, self.dataset, self.step, self.processes = recipe, run, dataset, step, processes
        self.factors = factors
        self.items: tuple[Item, ...] = dataset.split(recipe.data.val)

    def __call__(self, judged: SegmentationModel, progress: Progress, log: RunLog) -> float:
        """Returns the mean IoU on the validation split, 0–1, the same in every process."""
        device, precision = next(judged.parameters()).device, precision_name(self.step.precision)
        segmenter = Segmenter(judged, engine="torch", device=device, precision=precision, crf=self._crf())
        confusion = measure(segmenter, self.dataset, self.items).confusion
        if self.processes.first:
            self._log(segmenter, confusion, progress, log)
            if confusion.miou > progress.best_miou:
                self._keep(judged, confusion, progress)
        return confusion.miou

    def _log(self, segmenter: Segmenter, confusion: ConfusionMatrix, progress: Progress, log: RunLog) -> None:
        names, epoch = segmenter.info.classes, progress.epochs_begun
        log.validation(
            step=progress.step,
            epoch=epoch,
            seconds=progress.seconds,
            per_class={name: none_if_nan(iou) for name, iou in zip(names, confusion.iou, strict=True)},
            **confusion.summary(),
        )
        log.picture("val/confusion", confusion_picture(confusion.counts, names), progress.step)
        taken = self.dataset.taking_inputs(segmenter.info.preprocessing.inputs)
        for item in self.items[:SHOWN]:
            with suppressed(PictureWarning):  # the same warnings were printed before the training
                shown = _predicted(segmenter, taken, item).overlay()
            log.picture(f"val/{item.name}", np.asarray(shown), progress.step)
        best = " (best)" if confusion.miou > progress.best_miou else ""
        weights = " of the averaged weights" if self.recipe.train.ema else ""
        log.say(
            f"epoch {epoch}/{self.recipe.train.epochs}: val mIoU {confusion.miou:.4f}{best}{weights}, computed in "
            f"{segmenter.engine.precision}, {progress.seconds / 60:.1f} min of training"
        )

    def _keep(self, judged: SegmentationModel, confusion: ConfusionMatrix, progress: Progress) -> None:
        """Saves the model with its scores and its provenance as the best model, and its low-rank changes."""
        before, distill = judged.info, self.recipe.distill
        provenance = {
            "made_by": f"atrous {__version__}, torch {torch.__version__}",
            "made_on": time.strftime("%Y-%m-%d"),
            "recipe": self.recipe.name,
            "data": Path(self.recipe.data.root).name,
            **({"groups": self.recipe.data.groups} if self.recipe.data.groups else {}),
            **({} if (window := largest_window(self.items)) is None else {"window": window}),
            **({"teacher": Path(distill.teacher).name, "teacher_sha256": distill.sha256} if distill.teacher else {}),
            "epoch": progress.epochs_begun,
            "training_minutes": round(progress.seconds / 60, 1),
        }
        scores = {self.recipe.data.val: confusion.summary()}
        judged.info = replace(before, scores=scores, crf=self._crf() or before.crf, provenance=provenance)
        model_file.save_built(judged, self.run / BEST)
        if (low_rank := self.step.low_rank) is not None:
            low_rank.save_adapter(judged, self.factors, self.run / ADAPTER)
        judged.info = before

    def _crf(self) -> dict[str, Any] | None:
        """Returns the settings of a trained CRF, as they are used after training; None if no CRF is trained."""
        return self.step.crf.learned() if self.step.crf is not None else None


def _predicted(segmenter: Segmenter, dataset: Dataset, item: Item) -> Prediction:
    """Returns the prediction for an item.

    If volumes are resampled, the sample is read by the dataset, because the path of a slice names a slice of the stored
    volume.
    """
    image = segmenter.info.preprocessing.image
    if image.spacing is None:
        return segmenter(dataset.scene(item))
    sample = dataset.read(item)
    mask = segmenter.any_size(prepared(segmenter, sample), sample.valid, name=item.name)
    return Prediction(mask, middle_slice(sample.image, image), segmenter.info)
