"""The layouts that a dataset's folder may have, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atrous.data.dataset import Dataset
from atrous.data.layouts import (
    ade20k,
    camvid,
    cityscapes,
    coco_stuff,
    folder,
    nnunet,
    rasters,
    side_by_side,
    split_folders,
    voc,
)


@dataclass(frozen=True)
class Layout:
    """The functions that recognise and read a layout.

    Attributes:
        looks_like: function that returns whether a folder has this layout.
        read: function that opens a folder as a dataset, given the folder and a class table or None.
        mark: description of the files and folders by which the layout is recognised, for messages.
    """

    looks_like: Callable[[Path], bool]
    read: Callable[..., Dataset]
    mark: str


# Layouts of published datasets come before "split_folders" and "side_by_side", which also match these datasets.
LAYOUTS = {
    "folder": Layout(folder.looks_like_folder, folder.read_folder, "images/ and masks/"),
    "camvid": Layout(camvid.looks_like_camvid, camvid.read_camvid, "train/ and trainannot/"),
    "voc": Layout(voc.looks_like_voc, voc.read_voc, "JPEGImages/ and SegmentationClass/"),
    "cityscapes": Layout(cityscapes.looks_like_cityscapes, cityscapes.read_cityscapes, "leftImg8bit/ and gtFine/"),
    "ade20k": Layout(
        ade20k.looks_like_ade20k, ade20k.read_ade20k, "ADE_… pictures in images/training/ and annotations/"
    ),
    "coco_stuff": Layout(
        coco_stuff.looks_like_coco_stuff, coco_stuff.read_coco_stuff, "images/ and annotations/train2017/"
    ),
    rasters.RASTERS: Layout(
        rasters.looks_like_rasters, rasters.read_rasters, "scenes/ and labels/, rasters or vector files"
    ),
    "nnunet": Layout(nnunet.looks_like_nnunet, nnunet.read_nnunet, "imagesTr/ and labelsTr/"),
    "split_folders": Layout(
        split_folders.looks_like_split_folders,
        split_folders.read_split_folders,
        "images/train/ and masks/train/, or train/images/ and train/masks/ (`--layout split_folders` also reads "
        "images/training/ and annotations/training/)",
    ),
    "side_by_side": Layout(
        side_by_side.looks_like_side_by_side, side_by_side.read_side_by_side, "a.jpg and a_mask.png in one folder"
    ),
}
