"""An uploaded volume on its way through the server: its temporary file, its decoding, and the encoding of its mask.

Messages and notes never contain the name of the upload, which may name a patient, and never the name of its temporary
file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from atrous.data.formats.decoder_errors import TooLarge, in_words
from atrous.data.volumes.dicom_seg_write import check_sources
from atrous.data.volumes.dicom_series import SeveralSeries
from atrous.data.volumes.read_volume import decode_volume, volume_shape
from atrous.data.volumes.resampling import target_grid
from atrous.data.volumes.scratch import scratch_file, scratch_folder
from atrous.data.volumes.series_places import is_series
from atrous.data.volumes.volume import Volume
from atrous.data.volumes.volume_view import view_of
from atrous.data.volumes.write_mask import MaskFormat, check_mask_format, write_volume_mask
from atrous.errors import AtrousError
from atrous.inference.segment_volume import IN_MEMORY
from atrous.serving.inference_queue import Job
from atrous.serving.request_limits import Limits, Problem
from atrous.serving.request_settings import RequestSettings
from atrous.serving.upload_format_check import volume_format, volume_suffix

#: Bytes per value of a volume while it is decoded: as stored, scaled to float64 and to float32.
VALUE_BYTES = 20
#: Bytes per voxel of a mask: the mask, the booleans of voxels with data, and four copies while the mask is written.
MASK_BYTES = 8
#: Largest number of voxels of a view; larger volumes are shown with every n-th voxel.
VIEW_VOXELS = 2**26
#: Bytes per shown voxel while a view is made: the scan, the mask, their copies, and the compressed copy.
VIEW_BYTES = 8
#: File name suffixes of the mask formats.
SUFFIXES: dict[MaskFormat, str] = {"nifti": ".nii.gz", "dicom-seg": ".dcm"}


class VolumeUpload:
    """An uploaded volume. Call `memory`, `decode` and `encode` in this order, and `close` at the end.

    The upload is stored in a temporary file that only the server's user can read; `close` removes it.

    Args:
        content: bytes of the file, the only item of a tuple.
        settings: settings of the request.
        limits: limits on requests.
        upload_hint: sentence that shows how to send a volume.
    """

    def __init__(self, content: tuple[bytes, ...], settings: RequestSettings, limits: Limits, upload_hint: str) -> None:
        self._content, self._settings, self._limits, self._hint = content, settings, limits, upload_hint
        self._files, self._path = ExitStack(), Path()
        self._form = settings.response.form
        self._volume: Volume | None = None

    def memory(self) -> float:
        """Stores the upload; returns the peak memory from decoding to response, in bytes, without that of the network.

        Raises:
            TooLarge: the volume has more voxels than allowed.
            AtrousError: the file is not a volume or has a format that is not served, or it is damaged; the message
                shows how to send a volume.
            Problem: 503, the file cannot be stored.
        """
        suffix = volume_suffix(self._content[0])
        if suffix is None:
            given = volume_format(self._content[0])
            words = (
                "this file is not a volume, and this model was trained on slices of volumes"
                if given is None
                else f"this is {given}, which a server does not take"
            )
            raise AtrousError(f"{words}. Give a NIfTI file (.nii or .nii.gz) or a zip of a DICOM series. {self._hint}")
        self._path = self._files.enter_context(_stored(self._content[0], suffix))
        with self._anonymous():
            grid, contrasts = volume_shape(self._path)
            if self._form == "dicom-seg":
                check_mask_format("dicom-seg", [self._path], self._settings.model.segmenter.info.table, raw=False)
        info = self._settings.model.segmenter.info
        planes, spacing = len(info.preprocessing.image.planes), info.preprocessing.image.spacing
        voxels = int(np.prod(grid.shape, dtype=np.int64))
        run = voxels if spacing is None else int(np.prod(target_grid(grid, spacing).shape, dtype=np.int64))
        for count, words in (
            (voxels * contrasts, "values"),
            (run * planes * max(self._settings.pixel_factor, 1.0), "voxels over all planes, scales and views"),
        ):
            if count > self._limits.voxels:
                size = "×".join(map(str, grid.shape))
                raise TooLarge(
                    f"the volume of {size} voxels has {count / 1e6:.4g} million {words}; the limit of this server is "
                    f"{self._limits.voxels / 1e6:.4g} million: send a smaller volume."
                )
        sums = min(IN_MEMORY, 4 * run * len(info.classes)) if planes > 1 or spacing is not None else 0
        sums += min(IN_MEMORY, 4 * run * contrasts) if run != voxels else 0
        shown = min(voxels, VIEW_VOXELS) * VIEW_BYTES if self._form == "view" else 0
        return voxels * (contrasts * VALUE_BYTES + MASK_BYTES) + sums + shown

    def decode(self) -> tuple[Job, str | None]:
        """Decodes the volume; returns the job for the inference queue, and a note for the client or None.

        Raises:
            AtrousError: the volume is damaged, or no DICOM-SEG can reference it.
        """
        segmenter = self._settings.model.segmenter_for(self._settings.options)
        with self._anonymous():
            if self._form == "dicom-seg":
                check_sources(self._path, segmenter.info.table)
            volume = decode_volume(self._path)
        self._volume = volume if self._form == "view" else None
        return Job(segmenter, volume=volume), self._without_names(" ".join(volume.notes)) or None

    def encode(self, mask: np.ndarray) -> bytes:
        """Returns the body of the response.

        Args:
            mask: X×Y×Z uint8 class indices of the volume.
        """
        with self._anonymous():
            if self._form == "view":
                return self._view(mask)
            return self._file(mask, "dicom-seg" if self._form == "dicom-seg" else "nifti")

    def _file(self, mask: np.ndarray, form: MaskFormat) -> bytes:
        """Returns the file of a mask."""
        classes = self._settings.model.segmenter.info.table
        with scratch_file(SUFFIXES[form]) as file:
            write_volume_mask(file, mask, self._path, classes, format=form, raw=False)
            return file.read_bytes()

    def _view(self, mask: np.ndarray) -> bytes:
        """Returns the data for the page: scan and mask as 8-bit arrays, and the files of the mask."""
        assert self._volume is not None
        info, files = self._settings.model.segmenter.info, {SUFFIXES["nifti"]: self._file(mask, "nifti")}
        if is_series(self._path):
            # no DICOM-SEG if it cannot be written for this series, or if the required packages are not installed
            with suppress(AtrousError):
                files[SUFFIXES["dicom-seg"]] = self._file(mask, "dicom-seg")
        return view_of(self._volume, [mask], window=info.preprocessing.image.windows[0], voxels=VIEW_VOXELS).packed(
            files
        )

    def close(self) -> None:
        """Removes the temporary file and frees the volume."""
        self._volume = None
        self._files.close()

    @contextmanager
    def _anonymous(self) -> Iterator[None]:
        """Turns every error of a decoder into an AtrousError without the names of files and folders."""
        try:
            with in_words("the volume"):
                yield
        except SeveralSeries as error:
            raise AtrousError(
                f"the zip contains several series: {error.listed}. Send a zip of the slices of one of them."
            ) from None
        except AtrousError as error:
            raise type(error)(self._without_names(str(error))) from None

    def _without_names(self, text: str) -> str:
        for name in (str(self._path), self._path.name):
            text = text.replace(name, "the volume")
        return text.replace(str(scratch_folder()), "the server's folder of temporary files")


@contextmanager
def _stored(content: bytes, suffix: str) -> Iterator[Path]:
    """Provides a temporary file with this content.

    Raises:
        Problem: 503, it cannot be written.
    """
    with ExitStack() as files:
        try:
            file = files.enter_context(scratch_file(suffix))
            file.write_bytes(content)
        except (OSError, AtrousError) as error:
            raise Problem(
                503, "the server cannot store the volume in a temporary file.", {"Retry-After": "10"}
            ) from error
        yield file
