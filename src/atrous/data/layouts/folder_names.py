"""Usual names of the folders of pictures and of masks, in lower case, in order of precedence."""

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "img_dir", "pictures", "photos", "inputs", "input")
MASK_FOLDERS = (
    *("masks", "mask", "masks_machine", "labels", "label", "ann_dir", "annotations", "annotation", "annots", "annot"),
    *("gt", "gts", "groundtruth", "ground_truth", "segmentation", "segmentations", "seg", "segs", "targets"),
    *("pixellabels", "manual", "1st_manual"),
)
