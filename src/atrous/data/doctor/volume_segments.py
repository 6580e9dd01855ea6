"""Proposes a class table for masks in DICOM-SEG and RT-STRUCT from the names of their segments or structures."""

from __future__ import annotations

from atrous.data.class_colors import default_colors
from atrous.data.doctor.propose_classes import Proposal
from atrous.data.doctor.scan import Pair
from atrous.data.mask_value_map import BACKGROUND_NAMES, MAX_CLASSES, ClassTable


def proposal_of_segments(pairs: list[Pair]) -> Proposal | None:
    """Proposes a class table with a background and one class for each name of a segment.

    The name of a segment determines its class, so files may number their segments differently. The proposed table lists
    segments with another name of the background, such as "BG", as segments of the class "background".

    Args:
        pairs: the volumes of a dataset without a class table, each once.

    Returns:
        The proposal; None if a mask is in NIfTI, a segment has no name, all names mean the background, or there are too
        many names.
    """
    volumes = [(pair.volume.segments, pair.mask) for pair in pairs if pair.volume is not None]
    # A mask whose voxels cannot be read may still have names.
    of_masks = [names for names, mask in volumes if names or mask is not None]
    found = {name.strip() for names in of_masks for name in names}
    names = sorted(name for name in found if name.lower() not in BACKGROUND_NAMES)
    if not names or not all(of_masks) or "" in found or len(names) >= MAX_CLASSES:
        return None
    table = ("background", *names)
    beside = tuple(sorted(found - {*table}))
    values = tuple((index,) for index in range(len(table)))
    segments = (beside, *((),) * len(names)) if beside else ()
    classes = ClassTable(table, default_colors(len(table)), values, segments=segments)
    about = "In the proposed table, each name is a class."
    return Proposal("none", f"The segments in the masks have {len(names)} different names. {about}", classes, about)
