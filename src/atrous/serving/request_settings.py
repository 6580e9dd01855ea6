"""The settings of one request: its model, the options of inference, and the format of the response."""

from __future__ import annotations

from collections.abc import Collection

from atrous.inference.tile_grid import overlap_of
from atrous.serving import response_formats
from atrous.serving.model_store import InferenceOptions, Model
from atrous.serving.request_limits import Problem


class RequestSettings:
    """Settings of one request to segment a picture or a volume.

    Args:
        model: model that segments the upload.
        options: scales, flip, CRF, value range and tiles.
        response: format of the response.
        parameters: names of all query parameters, for messages about forms.

    Attributes:
        volumes: whether the model segments volumes.
        noun: kind of the upload, for messages: "picture" or "volume".
        pixel_factor: number of pixels that the network computes for each pixel of the picture; for example, 2 with the
            mirrored picture, or 4 for a model that enlarges pictures twofold.

    Raises:
        Problem: the overlap is more than half a tile.
    """

    def __init__(
        self,
        model: Model,
        options: InferenceOptions,
        response: response_formats.ResponseOptions,
        parameters: Collection[str] = (),
    ) -> None:
        self.model, self.options, self.response, self.parameters = model, options, response, parameters
        self.volumes = bool(model.segmenter.info.preprocessing.image.planes)
        self.noun = "volume" if self.volumes else "picture"
        tile, overlap = options.tile, options.overlap
        if overlap is not None and 2 * overlap > (tile or 512):
            raise Problem(
                422,
                f"an overlap of {overlap} px is more than half of a tile of {tile or 512} px: give a smaller "
                "overlap or a larger tile.",
            )
        again = (1 / (1 - overlap_of(tile, overlap) / tile)) ** 2 if tile else 1.0
        if tile and model.segmenter.pools:  # image pooling needs a first pass over all tiles
            again *= 2
        enlarged = model.segmenter.info.preprocessing.enlarge**2
        self.pixel_factor = sum(scale**2 for scale in options.scales) * (2 if options.flip else 1) * again * enlarged
