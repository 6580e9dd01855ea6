"""The module that maps a raw batch to a loss, for training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from atrous.checked_arguments import as_dict, checked
from atrous.errors import AtrousError, shown
from atrous.learning.batch import TEACHER, Batch
from atrous.learning.depthwise_backward import FastDepthwise
from atrous.learning.losses.terms import Terms
from atrous.models import SegmentationModel
from atrous.models.layers import Normalize
from atrous.models.model_checks import check_model

if TYPE_CHECKING:
    from atrous.learning.crf_layer import CrfLayer
    from atrous.learning.low_rank import LowRank

#: Function of (N×C×H×W raw images, targets by name) that returns the images to train on, of the same shape.
Disturb = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
#: Function of N×C×H×W raw images that returns the N×K×h×w scores of another model.
ScoresOfTeacher = Callable[[Tensor], Tensor]


class TrainingStep(nn.Module):
    """Normalises a batch, runs the model and computes the loss; a module, so that DistributedDataParallel can wrap it.

    Args:
        model: model with `.scores` and `.info`.
        terms: terms of the loss, by name; their sum is minimised. Each is called with the model's outputs and the batch
            and returns a scalar. `atrous.learning.losses.terms.supervised_terms` returns the terms for supervised
            training.
        precision: number format of the network; bfloat16 and float16 use autocast. Terms are called outside autocast;
            those of `supervised_terms` convert the outputs to float32.
        crf: last layer of the model, applied to the main output before the terms; None for no CRF.
        disturb: function called with the raw images and the targets before the network; it returns other images of the
            same shape, such as adversarial ones.
        teacher: function called with the raw images on which the network runs, after `disturb`. Terms find its result
            in `batch.more["teacher"]`.
        low_rank: low-rank changes of the model's weights that are trained; None to train the weights themselves.

    Attributes:
        values: values of the terms in the last forward pass, by name.

    Raises:
        AtrousError: the model is not a model of atrous, there are no terms, or a value is out of range.
    """

    @checked
    def __init__(
        self,
        model: SegmentationModel,
        terms: Terms,
        precision: torch.dtype = torch.float32,
        *,
        crf: CrfLayer | None = None,
        disturb: Disturb | None = None,
        teacher: ScoresOfTeacher | None = None,
        low_rank: LowRank | None = None,
    ) -> None:
        super().__init__()
        check_model(model)
        given = as_dict(terms, "terms")
        if not given or not all(callable(term) for term in given.values()):
            raise AtrousError(
                "terms must be a dict of functions of (outputs, batch) by name, such as supervised_terms(loss, model) "
                f"of atrous.learning.losses.terms; got {shown(terms)}."
            )
        if not isinstance(precision, torch.dtype) or precision not in (torch.float32, torch.bfloat16, torch.float16):
            raise AtrousError(
                f"precision must be torch.float32, torch.bfloat16 or torch.float16, got {shown(precision)}."
            )
        if crf is not None and not callable(crf):
            raise AtrousError(f"crf must be a CrfLayer or None, got {shown(crf)}.")
        if disturb is not None and not callable(disturb):
            raise AtrousError(f"disturb must be a function of (images, targets) or None, got {shown(disturb)}.")
        if teacher is not None and not callable(teacher):
            raise AtrousError(f"teacher must be a function of raw images or None, got {shown(teacher)}.")
        self.model = model
        self.terms = dict(given)
        self.values: dict[str, Tensor] = {}
        self.terms_that_learn = nn.ModuleList(term for term in given.values() if isinstance(term, nn.Module))
        self.precision = precision
        self.crf = crf
        self.disturb = disturb
        self.teacher = teacher
        self.low_rank = low_rank
        self.normalize = Normalize.of(model.info.preprocessing)

    def forward(self, batch: Batch) -> Tensor:
        """Returns the loss of a batch, summed over the terms.

        Args:
            batch: batch on the model's device; its images are unnormalised, of any dtype.

        Returns:
            A float32 scalar.

        Raises:
            AtrousError: a term does not return a scalar, or `disturb` changes the images' shape.
        """
        if self.disturb is not None:
            batch = replace(batch, images=_disturbed(self.disturb, batch))
        if self.teacher is not None:  # before the network, whose activations fill the memory until the backward pass
            batch = replace(batch, more={**batch.more, TEACHER: self.teacher(batch.images)})
        images = self.normalize(batch.images)
        mixed = self.precision != torch.float32
        autocast = torch.autocast(images.device.type, dtype=self.precision if mixed else None, enabled=mixed)
        weights = {} if self.low_rank is None else self.low_rank.weights()
        with autocast, FastDepthwise():
            if self.low_rank is None:
                scores = self.model.scores(images)
            else:
                scores = self.low_rank.scores(self.model, images, weights)
        if self.crf is not None:
            scores = {**scores, "main": self.crf(scores["main"], batch.images, self.model.align_corners)}
        values = {name: _scalar(name, term(scores, batch)) for name, term in self.terms.items()}
        self.values = {name: value.detach() for name, value in values.items()}
        return torch.stack(list(values.values())).sum()


def _disturbed(disturb: Disturb, batch: Batch) -> Tensor:
    images = disturb(batch.images, batch.targets)
    if not isinstance(images, Tensor) or images.shape != batch.images.shape:
        given = tuple(images.shape) if isinstance(images, Tensor) else shown(images)
        raise AtrousError(f"disturb must return images of shape {tuple(batch.images.shape)}, got {given}.")
    return images


def _scalar(name: str, value: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
        raise AtrousError(f"the term '{name}' must return a scalar tensor, got {given}.")
    return value.reshape(()).float()
