"""An uploaded picture: estimates its memory, decodes it, and encodes its mask."""

from __future__ import annotations

import numpy as np

from atrous.data.pictures import TooLarge, decode_pixels, decoded_size
from atrous.errors import AtrousError
from atrous.inference.picture_input import doubts_of
from atrous.inference.prediction import Prediction
from atrous.inference.value_range import ASK_FOR_RANGE
from atrous.input_spec import IMAGE, Input
from atrous.serving import response_formats
from atrous.serving.inference_queue import Job
from atrous.serving.request_limits import Limits
from atrous.serving.request_settings import RequestSettings
from atrous.serving.upload_format_check import packing_of, volume_format

#: Number of copies of a prepared picture in memory; bytes per pixel of a mask and its encoded response together.
COPIES, ANSWER_BYTES = 2, 16


class PictureUpload:
    """An uploaded picture. Call `memory`, `decode` and `encode` in this order, and `close` at the end.

    Args:
        content: bytes of one file for each input of the model.
        settings: settings of the request.
        limits: limits on requests.
        upload_hint: sentence that shows how to send a picture.
    """

    def __init__(self, content: tuple[bytes, ...], settings: RequestSettings, limits: Limits, upload_hint: str) -> None:
        self._content, self._settings, self._hint = content, settings, upload_hint
        # At scales below 1, the limit applies to the picture itself, because the full-size picture is in memory, too.
        self._most_pixels = int(limits.pixels / max(settings.pixel_factor, 1.0))

    def memory(self) -> float:
        """Returns the peak memory from decoding to response, in bytes, without the memory that the network needs.

        Raises:
            TooLarge: the picture has more pixels than allowed.
            AtrousError: the file is not a picture; the message shows how to send one.
        """
        preprocessing = self._settings.model.segmenter.info.preprocessing
        try:
            sizes = [
                decoded_size(file, self._most_pixels, _name_of(one), one.pages)
                for file, one in zip(self._content, preprocessing.inputs, strict=True)
            ]
        except (TooLarge, MemoryError):
            raise
        except AtrousError as error:
            raise AtrousError(self._reason(error)) from error
        pixels, decoded = sizes[0][0], sum(size for _, size in sizes)
        prepared = preprocessing.channels * np.dtype(preprocessing.dtype).itemsize
        return 2 * decoded + pixels * (COPIES * prepared + ANSWER_BYTES)

    def _reason(self, error: AtrousError) -> str:
        """Returns the error message about a file that is not a picture."""
        if (volume := volume_format(self._content[0])) is not None:
            return (
                f"this is {volume}, and the model {self._settings.model.name} segments pictures: send the volume to a "
                "model that was trained on volumes, or send a picture."
            )
        packing = packing_of(self._content[0])
        return str(error) if packing is None else f"this is {packing}, not a picture. {self._hint}"

    def decode(self) -> tuple[Job, str | None]:
        """Decodes the picture; returns the job for the inference queue, and a note for the client or None.

        Raises:
            AtrousError: the picture is damaged or too large, or the model does not accept its number of channels.
        """
        # This is done here, in a worker thread, because loading the first CRF takes seconds.
        segmenter = self._settings.model.segmenter_for(self._settings.options)
        preprocessing = segmenter.info.preprocessing
        stored = {
            one.name: decode_pixels(file, self._most_pixels, _name_of(one), one.pages)
            for file, one in zip(self._content, preprocessing.inputs, strict=True)
        }
        found = segmenter.found(stored)
        doubts = [note.message for note in doubts_of("the picture", stored[IMAGE], preprocessing)]
        doubt = segmenter.preparation.doubt_of(found.image, ASK_FOR_RANGE, found.valid)
        doubts += [doubt] if doubt else []
        self._shown, self._info = found.shown, segmenter.info
        job = Job(segmenter, segmenter.preparation.filled(found, ASK_FOR_RANGE), found.valid)
        return job, " ".join(doubts) or None

    def encode(self, mask: np.ndarray) -> bytes:
        """Returns the body of the response.

        Args:
            mask: H×W uint8 class indices of the picture.

        Raises:
            AtrousError: the format cannot store this mask.
        """
        return response_formats.write(Prediction(mask, self._shown, self._info), self._settings.response)

    def close(self) -> None:
        """Does nothing: a picture has no temporary file."""


def _name_of(one: Input) -> str:
    """Returns the name of an input in messages."""
    return "the picture" if one.name == IMAGE else f"the {one.name}"
