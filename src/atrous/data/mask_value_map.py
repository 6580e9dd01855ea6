"""The class table: the only map from the raw values of mask files to labels, and from labels to raw values."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from atrous.atomic_write import write_text
from atrous.checked_arguments import checked, checked_fields
from atrous.data.class_codes import Codes, check_codes
from atrous.data.class_colors import Color, packed_colors, unpacked_color
from atrous.data.class_yaml import table_fields, table_text
from atrous.data.raw_values import Raw, is_number_text, is_triple, is_whole, numbers_of, smallest_dtype, tupled
from atrous.data.text_files import read_text_file
from atrous.errors import AtrousError, counted, named, shown
from atrous.json_yaml import parse_yaml
from atrous.overwrite_checks import TABLE_MARK, check_replaceable, is_our_table

IGNORE_INDEX = 255
#: Usual names of the class that is no object, in lower case.
BACKGROUND_NAMES = frozenset({"background", "_background_", "__background__", "bg", "backgrnd", "???"})
MAX_CLASSES = 255  # labels are uint8, and 255 is the ignore index

UNKNOWN = 256  # the label that `look_up` returns for raw values that are not in the table; labels are at most 255


@checked_fields
@dataclass(frozen=True)
class ClassTable:
    """The classes of a dataset: their names, their colours and their raw values in masks.

    Attributes:
        names: one name per class, K of them, 1 ≤ K ≤ 255.
        colors: one (red, green, blue) per class, 0–255.
        raw: the raw values of each class; `decode` writes the first of them. All raw values are signed integers of up
            to 64 bits or, for colour-coded masks, all are (red, green, blue) triples.
        ignore: raw values of pixels that belong to no class.
        codes: coded meanings of each class, as in `class_codes`; () if no class has any.
        segments: for each class, the labels of segments (DICOM-SEG) and the names of contours (RT-STRUCT) that belong
            to the class, besides its own name; () if no class has any.
        overlap: "" to refuse segments of different classes that overlap; "last" to give their voxels to the class that
            is later in the table.
        attribute: name of the attribute of polygons in vector files that contains their class; "" to find it.
        ignored_values: values of this attribute whose polygons belong to no class; "" for polygons without a value.
        unwritten: indices of the classes for which classes.yaml gives no raw value, so that it is their position;
            known only if ``attribute`` is given.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    raw: tuple[tuple[Raw, ...], ...]
    ignore: tuple[Raw, ...] = ()
    codes: tuple[Codes, ...] = ()
    segments: tuple[tuple[str, ...], ...] = ()
    overlap: str = ""
    attribute: str = ""
    ignored_values: tuple[str, ...] = ()
    unwritten: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("colors", "raw", "ignore", "codes", "segments", "ignored_values", "unwritten"):
            if not isinstance(rows := getattr(self, name), tuple | list):
                raise AtrousError(f"{name} of a class table must be a tuple, got {shown(rows)}.")
            object.__setattr__(self, name, tupled(rows))
        if not 1 <= len(self.names) <= MAX_CLASSES:
            raise AtrousError(f"{len(self.names)} classes given; a class table has 1 to {MAX_CLASSES}.")
        if not len(self.names) == len(self.colors) == len(self.raw):
            raise AtrousError(
                f"{len(self.names)} names, {len(self.colors)} colours and {len(self.raw)} lists of raw "
                "values given; there must be one of each per class."
            )
        for name in self.names:
            if self.names.count(name) > 1:
                raise AtrousError(f"the class name '{name}' is given twice; names must differ.")
        for name, color, raw in zip(self.names, self.colors, self.raw, strict=True):
            if not (is_triple(color) and all(0 <= part <= 255 for part in color)):
                raise AtrousError(f"class '{name}' has the colour {named(color)}; give three whole numbers, 0–255.")
            if not isinstance(raw, tuple) or not raw:
                raise AtrousError(f"class '{name}' has no raw value in a tuple; give a tuple of at least one value.")
        if self.codes and len(self.codes) != len(self.names):
            raise AtrousError(
                f"{len(self.codes)} lists of codes given for {len(self.names)} classes; give one per class."
            )
        named_codes = zip(self.names, self.codes, strict=False)
        checked_codes = tuple(check_codes(codes, f"class '{name}'") for name, codes in named_codes)
        object.__setattr__(self, "codes", checked_codes if any(checked_codes) else ())
        self._check_raw_values()
        self._check_segments()

    def _check_raw_values(self) -> None:
        owners: dict[Raw, str] = {}
        for name, values in [*zip(self.names, self.raw, strict=True), ("ignore", self.ignore)]:
            for value in values:
                if not (is_whole(value) or is_triple(value)):
                    raise AtrousError(
                        f"the raw value {shown(value)} of '{name}' is neither a whole number nor [r, g, b]."
                    )
                if value in owners:
                    hint = " If masks are colour coded, write raw: [[r, g, b]]." if owners[value] == name else ""
                    raise AtrousError(
                        f"the raw value {value} is given for '{owners[value]}' and again for '{name}'; "
                        f"give each value only once.{hint}"
                    )
                owners[value] = name
        coded = [is_triple(value) for value in owners]
        if any(coded) and not all(coded):
            raise AtrousError("raw values mix numbers and [r, g, b] colours; give only numbers or only colours.")

    def _check_segments(self) -> None:
        if self.overlap not in ("", "last"):
            raise AtrousError(f"overlap must be 'last', or be left out, got {shown(self.overlap)}.")
        if self.segments and len(self.segments) != len(self.names):
            raise AtrousError(
                f"{len(self.segments)} lists of segments given for {len(self.names)} classes; give one per class."
            )
        if not all(isinstance(value, str) for value in self.ignored_values):
            raise AtrousError(f"ignored_values must be a tuple of texts, got {shown(self.ignored_values)}.")
        for value in filter(is_number_text, self.ignored_values):
            raise AtrousError(
                f"the ignored value {value!r} is a whole number, given as text. Give a number, in classes.yaml under "
                f"ignore: without quotes: {value}"
            )
        owners: dict[str, str] = dict.fromkeys(self.ignored_values, "ignore")
        for name, labels in zip(self.names, self.segments, strict=False):
            for label in labels:
                if owners.setdefault(label, name) != name:
                    raise AtrousError(f"the segment {label!r} is given for '{owners[label]}' and again for '{name}'.")
        object.__setattr__(self, "segments", self.segments if any(self.segments) else ())

    def __len__(self) -> int:
        return len(self.names)

    @property
    def color_coded(self) -> bool:
        """Whether masks are H×W×3 colours rather than H×W numbers."""
        return is_triple(self.raw[0][0])

    @cached_property
    def listed_numbers(self) -> frozenset[int]:
        """All raw values of classes and all ignored values; none if the masks are colour coded."""
        return frozenset(numbers_of(value for values in (*self.raw, self.ignore) for value in values))

    @checked
    def encode(self, raw_mask: np.ndarray, nodata: int | None = None, corner: tuple[int, int] = (0, 0)) -> np.ndarray:
        """Maps a mask's raw values to labels.

        Args:
            raw_mask: H×W of any integer dtype, or H×W×3 colours. A grey mask with three equal channels counts as H×W.
            nodata: the nodata value that the mask's file declares, or None. Pixels with this value become 255 = ignore,
                unless the table lists the value.
            corner: (x, y) of the first pixel, for positions in messages: the corner of a window in its scene.

        Returns:
            H×W ``uint8`` of class indices 0…K−1, with 255 = ignore.

        Raises:
            AtrousError: the mask contains values that are not in the table, colours instead of numbers, or numbers
                instead of colours. For unknown values, the message names the values and the position of the first.
        """
        codes = self._codes_of(raw_mask)
        labels = self._look_up(codes)
        unknown = labels == UNKNOWN
        if nodata is not None and not self.color_coded:
            void = unknown & (codes == nodata)
            labels, unknown = np.where(void, np.uint16(IGNORE_INDEX), labels), unknown & ~void
        if unknown.any():
            raise AtrousError(self._describe_unknown(codes, unknown, corner))
        return labels.astype(np.uint8)

    @checked
    def look_up(self, raw_mask: np.ndarray) -> np.ndarray:
        """Maps raw values to labels like ``encode``, but marks unknown values instead of raising an error.

        Args:
            raw_mask: H×W of any integer dtype, or H×W×3 colours. A grey mask with three equal channels counts as H×W.

        Returns:
            H×W ``uint16`` of class indices 0…K−1, 255 = ignore and ``UNKNOWN`` = 256.

        Raises:
            AtrousError: the mask contains colours instead of numbers, or numbers instead of colours.
        """
        return self._look_up(self._codes_of(raw_mask))

    @checked
    def decode(self, label: np.ndarray) -> np.ndarray:
        """Maps each class index to the first raw value of its class, the reverse of ``encode``.

        Args:
            label: H×W integers: class indices 0…K−1, and 255 = ignore.

        Returns:
            H×W of the smallest integer dtype that can represent every raw value in use, or H×W×3 ``uint8`` colours.
            Ignored pixels get the first ignore value. If the table has no ignore value, they get 255, or white in
            colours, unless a class uses this value.

        Raises:
            AtrousError: the label contains an index without a class, or ignored pixels that have no raw value.
        """
        if not isinstance(label, np.ndarray) or label.ndim != 2 or label.dtype.kind not in "biu":
            raise AtrousError(f"a label must be an array of H×W whole numbers, got {shown(label)}.")
        first = [values[0] for values in self.raw]
        ignore = self._ignore_value()
        wrong = (label != IGNORE_INDEX) & ((label < 0) | (label >= len(self)))
        if wrong.any():
            raise AtrousError(
                f"the label holds the index {label[wrong][0]}; there are {len(self)} classes, "
                f"0 to {len(self) - 1}, and {IGNORE_INDEX} for ignored pixels."
            )
        if ignore is None:
            if (label == IGNORE_INDEX).any():
                raise AtrousError(
                    "the label has ignored pixels, or pixels without data, but the class table gives no value to "
                    "write for them; add one under ignore: in classes.yaml, or write class indices, without --raw."
                )
            ignore = first[0]  # fills the rest of the table, which no label of this mask uses
        table = np.empty((256, 3) if self.color_coded else 256, dtype=smallest_dtype([*first, ignore]))
        table[: len(self)] = first
        table[len(self) :] = ignore
        return table[label]

    @classmethod
    @checked
    def from_yaml(cls, path: Path | str) -> ClassTable:
        """Reads a ``classes.yaml``.

        The file has ``classes``, a list of ``{name, color, raw}``, and optionally ``ignore``, a list of raw
        values, and of values of polygons as text. ``color`` defaults to the Pascal VOC colour of the index and ``raw``
        to the index itself; for colour-coded masks ``raw`` is a list of ``[r, g, b]``. ``code`` and ``category``, each
        ``[scheme, value, meaning]``, are optional: the coded meaning of the class for DICOM. ``segments`` and
        ``overlap`` are optional, too; see the attributes.

        Args:
            path: the file.

        Raises:
            AtrousError: the file is missing, is not YAML, or has unknown or invalid entries.
        """
        path = Path(path)
        if not path.exists():
            raise AtrousError(f"{path}: no such file.")
        content = parse_yaml(read_text_file(path), f"{path}:")
        try:
            return cls(**table_fields(content))
        except AtrousError as error:
            raise AtrousError(f"{path}: {error}") from error

    def yaml_text(self) -> str:
        """Returns the table as the text of a ``classes.yaml``, one class per line."""
        return table_text({one.name: getattr(self, one.name) for one in fields(self)})

    @checked
    def to_yaml(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Writes the table atomically to ``path``, in the form that ``from_yaml`` reads.

        Args:
            path: the file; a table that this function wrote is replaced.
            overwrite: whether to replace also a file that this function did not write.

        Raises:
            AtrousError: ``path`` is a folder, or a file that this function did not write and ``overwrite`` is False.
        """
        check_replaceable(path, "class table", is_our_table, overwrite=overwrite)
        write_text(path, f"{TABLE_MARK}\n{self.yaml_text()}")

    @property
    def has_ignore_value(self) -> bool:
        """Whether `decode` has a raw value for ignored pixels."""
        return self._ignore_value() is not None

    def _ignore_value(self) -> Raw | None:
        if self.ignore:
            return self.ignore[0]
        fallback: Raw = (255, 255, 255) if self.color_coded else IGNORE_INDEX
        return None if any(fallback in values for values in self.raw) else fallback

    def _codes_of(self, raw_mask: np.ndarray) -> np.ndarray:
        """Returns one number per pixel: the H×W values of the mask, or its colours packed into ``int64``."""
        if not isinstance(raw_mask, np.ndarray) or raw_mask.dtype.kind not in "biu" or raw_mask.ndim not in (2, 3):
            raise AtrousError(f"a mask must be an array of H×W or H×W×3 whole numbers, got {shown(raw_mask)}.")
        if raw_mask.ndim == 3 and raw_mask.shape[2] < (3 if self.color_coded else 1):
            raise AtrousError(f"a mask of colours must be H×W×3, got the shape {raw_mask.shape}.")
        if self.color_coded:
            if raw_mask.ndim == 2:
                raise AtrousError(
                    "the mask holds one number per pixel, but the class table lists [r, g, b] colours; run "
                    "`atrous doctor` for a table that fits."
                )
            return packed_colors(raw_mask)
        if raw_mask.ndim == 3:
            if not np.array_equal(raw_mask[:, :, :1].repeat(2, axis=2), raw_mask[:, :, 1:]):
                raise AtrousError(
                    "the mask holds colours, but the class table lists numbers; give raw: [[r, g, b]] "
                    "per class, or run `atrous doctor` for a table that fits."
                )
            return raw_mask[:, :, 0]
        return raw_mask

    @cached_property
    def _known(self) -> tuple[np.ndarray, np.ndarray]:
        """All raw values as sorted ``int64`` codes, and the label of each as ``uint16``."""
        pairs = [(value, index) for index, values in enumerate(self.raw) for value in values]
        pairs += [(value, IGNORE_INDEX) for value in self.ignore]
        values = np.array([value for value, _ in pairs], dtype=np.int64)
        codes = packed_colors(values) if self.color_coded else values
        order = np.argsort(codes)
        return codes[order], np.array([label for _, label in pairs], dtype=np.uint16)[order]

    @cached_property
    def _byte_table(self) -> np.ndarray:
        """The label of every raw value 0–255; ``UNKNOWN`` for values that are not in the table."""
        return self._search(np.arange(256))

    def _look_up(self, codes: np.ndarray) -> np.ndarray:
        return self._byte_table[codes] if codes.dtype == np.uint8 else self._search(codes)

    def _search(self, codes: np.ndarray) -> np.ndarray:
        # Masks consist of runs of one value; one search per run is ten times faster than one per pixel.
        flat = codes.ravel()
        starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] + 1))
        runs = flat[starts].astype(np.int64)
        known, labels = self._known
        at = np.minimum(np.searchsorted(known, runs), len(known) - 1)
        found = np.where(known[at] == runs, labels[at], np.uint16(UNKNOWN))
        return np.repeat(found, np.diff(starts, append=flat.size)).reshape(codes.shape)

    def _describe_unknown(self, codes: np.ndarray, unknown: np.ndarray, corner: tuple[int, int]) -> str:
        values, counts = np.unique(codes[unknown], return_counts=True)
        y, x = np.argwhere(unknown)[0]
        shown = ", ".join(
            f"{self._raw_of(value)} ({counted(count, 'pixel')})"
            for value, count in zip(values[:5], counts[:5], strict=True)
        )
        more = f" and {len(values) - 5} more" if len(values) > 5 else ""
        noun = "value" if len(values) == 1 else f"{len(values)} values"
        return (
            f"the mask holds the {noun} {shown}{more}, which no class lists; the first is "
            f"{self._raw_of(codes[y, x])} at pixel x={x + corner[0]}, y={y + corner[1]}. "
            "Add each missing value to classes.yaml, or run `atrous doctor` for a table that fits."
        )

    def _raw_of(self, code: Any) -> Raw:
        return unpacked_color(int(code)) if self.color_coded else int(code)
