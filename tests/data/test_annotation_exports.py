"""Exports of labelling tools without masks: what they are, that masks are needed, and how the tool exports them."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atrous.cli import main
from atrous.data.annotation_exports import label_export_told
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError

POLYGON = "0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\n"
BOX = "0 0.5 0.5 0.2 0.2\n1 0.25 0.25 0.1 0.1\n"
LABELME = json.dumps({"version": "5", "shapes": [{"label": "car", "points": [[0, 0]]}], "imagePath": "a.jpg"})
COCO = json.dumps(
    {
        "info": {},
        "images": [{"id": 1, "file_name": "a.jpg", "width": 6, "height": 4}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 1, 1, 1, 0]]}],
        "categories": [{"id": 1, "name": "car"}],
    }
)
CVAT = '<annotations><image id="0" name="a.jpg"><polygon label="car" points="0,0;1,1;1,0"/></image></annotations>'
BOXES = "<annotation><filename>a.jpg</filename><object><bndbox><xmin>1</xmin></bndbox></object></annotation>"
VIA = json.dumps({"_via_settings": {}, "_via_img_metadata": {"a.jpg12": {"filename": "a.jpg", "regions": []}}})
VIA_1 = json.dumps({"a.jpg12": {"filename": "a.jpg", "regions": [{"shape_attributes": {"all_points_x": [1]}}]}})
VIA_CSV = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
STUDIO = json.dumps([{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"result": [{"type": "polygonlabels"}]}]}])
STUDIO_MIN = json.dumps([{"id": 1, "image": "a.jpg", "tag": [{"points": [[0, 0]], "polygonlabels": ["car"]}]}])
ANN = json.dumps({"description": "", "tags": [], "size": {"height": 4, "width": 6}, "objects": []})
DARWIN = json.dumps({"version": "2.0", "item": {"name": "a.jpg", "slots": []}, "annotations": []})
CITY = json.dumps({"imgHeight": 4, "imgWidth": 6, "objects": [{"label": "road", "polygon": [[0, 0]]}]})
DATUMARO = json.dumps(
    {
        "info": {},
        "categories": {"label": {"labels": [{"name": "car"}]}},
        "items": [{"id": "a", "annotations": [{"type": "polygon", "label_id": 0, "points": [0, 0]}]}],
    }
)
LABELBOX = json.dumps({"data_row": {"id": "x", "external_id": "a.jpg"}, "projects": {"p": {"labels": []}}}) + "\n"
LABELBOX_1 = json.dumps([{"Labeled Data": "https://host/a.jpg", "Label": {"objects": []}}])
SUPER = json.dumps(
    {"metadata": {"name": "a.jpg"}, "instances": [{"type": "polygon", "className": "car", "points": []}]}
)
BDD = json.dumps([{"name": "a.jpg", "labels": [{"category": "car", "poly2d": [{"vertices": [[0, 0]]}]}]}])
GEO = json.dumps({"type": "FeatureCollection", "features": [{"geometry": {"type": "Polygon", "coordinates": []}}]})
MANIFEST = (
    json.dumps({"source-ref": "s3://bucket/a.jpg", "job-ref": "s3://bucket/a.png", "job-ref-metadata": {}}) + "\n"
)

# pictures, the file of labels, its text, and what the message must name
EXPORTS = {
    "YOLO": ("images/a.jpg", "labels/a.txt", POLYGON, "YOLO's polygons.*Semantic Segmentation Masks"),
    "YOLO by split": ("images/train/a.jpg", "labels/train/a.txt", POLYGON, "YOLO's polygons"),
    "YOLO by split, Roboflow": ("train/images/a.jpg", "train/labels/a.txt", POLYGON, "YOLO's polygons"),
    "YOLO beside": ("a.jpg", "a.txt", POLYGON, "YOLO's polygons"),
    "YOLO in masks/": ("images/a.jpg", "masks/a.txt", POLYGON, "YOLO's polygons"),
    "YOLO boxes": ("images/a.jpg", "labels/a.txt", BOX, "YOLO's boxes"),
    "labelme": ("a.jpg", "a.json", LABELME, r"labelme's outlines.*labelme2voc\.py"),
    "labelme in folders": ("images/a.jpg", "annotations/a.json", LABELME, "labelme2voc"),
    "labelme in images": ("images/a.jpg", "images/a.json", LABELME, "labelme2voc"),
    "labelme in split folders": ("images/train/a.jpg", "labels/train/a.json", LABELME, "labelme2voc"),
    "Roboflow COCO": ("train/a.jpg", "train/_annotations.coco.json", COCO, "Roboflow's.*'Semantic Segmentation Masks'"),
    "Roboflow CSV": ("train/a.jpg", "train/_annotations.csv", "filename,width,height,class\n", "Roboflow's boxes"),
    "COCO": ("images/a.jpg", "annotations/instances_train2017.json", COCO, r"COCO.*annToMask"),
    "COCO by split": ("train2017/a.jpg", "annotations/instances_train2017.json", COCO, r"COCO.*annToMask"),
    "COCO in the folder": ("images/a.jpg", "result.json", COCO, "COCO"),
    "CVAT": ("images/a.jpg", "annotations.xml", CVAT, r"CVAT's.*'Segmentation mask 1\.1'"),
    "boxes of VOC": ("JPEGImages/a.jpg", "Annotations/a.xml", BOXES, "boxes in the form of Pascal VOC"),
    "boxes and an empty folder": ("JPEGImages/a.jpg", "SegmentationClass/a.xml", BOXES, "boxes"),
    "VIA": ("images/a.jpg", "via_project.json", VIA, "VIA's regions.*VIA exports no masks"),
    "VIA 1": ("a.jpg", "via_region_data.json", VIA_1, "VIA's regions"),
    "VIA CSV": ("a.jpg", "via_region_data.csv", VIA_CSV, "VIA's regions"),
    "Label Studio": ("images/a.jpg", "project-1.json", STUDIO, "Label Studio's tasks.*'Brush labels to PNG'"),
    "Label Studio, short": ("a.jpg", "project-1.json", STUDIO_MIN, "Label Studio's tasks"),
    "Supervisely": ("ds0/img/a.jpg", "ds0/ann/a.jpg.json", ANN, "Supervisely's outlines.*'Export as masks'"),
    "Darwin": ("images/a.jpg", "releases/a.json", DARWIN, "V7 Darwin.*'Semantic mask'"),
    "Datumaro": ("images/a.jpg", "annotations/default.json", DATUMARO, "Datumaro's annotations.*datum convert"),
    "Labelbox": ("images/a.jpg", "export.ndjson", LABELBOX, "Labelbox's labels"),
    "Labelbox, old": ("images/a.jpg", "export.json", LABELBOX_1, "Labelbox's labels"),
    "SuperAnnotate": ("a.jpg", "a.jpg.json", SUPER, "SuperAnnotate's outlines.*include_fuse"),
    "Kaggle": ("train/a.jpg", "train.csv", "ImageId,EncodedPixels\na.jpg,1 3 10 5\n", "codes.*column by column"),
    "BDD100K": ("images/a.jpg", "labels/all.json", BDD, r"BDD100K.*bdd100k\.label\.to_mask"),
    "GeoJSON": ("images/a.tif", "roads.geojson", GEO, r"GeoJSON.*rasterio\.features\.rasterize"),
    "SageMaker": ("images/a.jpg", "output.manifest", MANIFEST, "SageMaker's labels.*-ref contains"),
    "Cityscapes": (
        "leftImg8bit/train/x/x_0_leftImg8bit.png",
        "gtFine/train/x/x_0_gtFine_polygons.json",
        CITY,
        "createTrainIdLabelImgs",
    ),
}  # fmt: skip


def picture(path: Path, value: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6), value, np.uint8) if value is not None else np.zeros((4, 6, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("form", EXPORTS)
def test_an_export_without_masks_is_told_with_the_format_that_has_them(tmp_path, form):
    image, labels, text, told = EXPORTS[form]
    picture(tmp_path / image)
    (tmp_path / labels).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / labels).write_text(text, encoding="utf-8")
    (tmp_path / "README.txt").write_text("Exported in 2026\n")
    with pytest.raises(AtrousError, match=f"(?s){told}") as error:
        open_dataset(tmp_path)
    assert str(tmp_path / labels) in str(error.value) and "Masks are needed: for each picture a PNG" in str(error.value)


@pytest.mark.parametrize("verb", ["doctor", "train"])
def test_doctor_and_train_tell_it(tmp_path, verb, capsys):
    picture(tmp_path / "data/images/a.jpg")
    (tmp_path / "data/labels").mkdir()
    (tmp_path / "data/labels/a.txt").write_text(POLYGON)
    data = str(tmp_path / "data")
    asked = ["doctor", data] if verb == "doctor" else ["train", "--data.root", data, "--out", str(tmp_path / "run")]
    assert main(asked) == 2
    assert "YOLO's polygons" in " ".join(capsys.readouterr().err.split())


def test_masks_beside_outlines_are_read(tmp_path):
    for stem in "ab":
        picture(tmp_path / f"images/{stem}.jpg")
        picture(tmp_path / f"masks/{stem}.png", 1)
        (tmp_path / f"images/{stem}.json").write_text(LABELME)
    (tmp_path / "classes.yaml").write_text("classes: [{name: a}, {name: b}]\n")
    assert len(open_dataset(tmp_path).splits) == 2


def test_texts_that_are_no_labels_change_no_message(tmp_path):
    picture(tmp_path / "images/a.jpg")
    (tmp_path / "notes.txt").write_text("0 1 2\n")
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "damaged.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AtrousError, match="no known dataset layout"):
        open_dataset(tmp_path)


NO_EXPORTS = {
    "a split": ("data.json", '{"images": [{"file_name": "a.jpg", "split": "train"}]}'),
    "counts": ("info.json", '{"images": 2, "annotations": []}'),
    "numbers": ("stats.txt", "0 0.1 0.2 0.3 0.4\n"),
    "numbers in a folder": ("runs/stats.txt", "0 0.1 0.2 0.3 0.4\n"),
    "a table": ("data.csv", "image,width\na.jpg,4\n"),
    "lines": ("metrics.jsonl", '{"step": 1, "loss": 0.5}\n'),
}


@pytest.mark.parametrize("form", NO_EXPORTS)
def test_what_is_no_labels_is_not_called_so(tmp_path, form):
    picture(tmp_path / "images/a.jpg")
    name, text = NO_EXPORTS[form]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert label_export_told(tmp_path) is None


META = {"classes": [{"title": "car", "color": "#FF0000"}, {"title": "road", "color": "#00FF00"}], "tags": []}


@pytest.mark.parametrize("table", ["obj_class_to_machine_color.json", "meta.json"])
@pytest.mark.parametrize("ending", ["{}.png", "{}.jpg.png"])
def test_one_dataset_of_supervisely_is_read_with_the_names_one_level_up(tmp_path, table, ending):
    for stem in "ab":
        picture(tmp_path / f"ds0/img/{stem}.jpg")
        picture(tmp_path / "ds0/masks_machine" / ending.format(stem), 2)
        (tmp_path / "ds0/ann").mkdir(exist_ok=True)
        (tmp_path / f"ds0/ann/{stem}.jpg.json").write_text(ANN)
    content = META if table == "meta.json" else {"car": [1, 1, 1], "road": [2, 2, 2]}
    (tmp_path / table).write_text(json.dumps(content))
    opened = open_dataset(tmp_path / "ds0")
    assert opened.classes.names == ("background", "car", "road")
    items = [item for part in opened.splits.values() for item in part]
    assert len(items) == 2 and all((opened.read(item).label == 2).all() for item in items)


def test_a_project_of_supervisely_is_answered_with_commands_that_make_a_data_set_of_it(tmp_path):
    root = tmp_path / "my project"
    for part in ("ds 0", "ds1"):
        picture(root / part / f"img/{part[-1]}.jpg")
        picture(root / part / f"masks_machine/{part[-1]}.png", 1)
    (root / "meta.json").write_text(json.dumps(META))
    with pytest.raises(AtrousError, match="Supervisely project") as error:
        open_dataset(root)
    commands = str(error.value).split("into one folder: ")[1].split("; then use")[0]
    subprocess.run(["sh", "-ec", commands], check=True)
    opened = open_dataset(tmp_path / "my project_masks")
    assert opened.classes.names == ("background", "car", "road")
    items = [item for part in opened.splits.values() for item in part]
    assert len(items) == 2 and all((opened.read(item).label == 1).all() for item in items)
