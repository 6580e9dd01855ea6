"""Draws docs/images/remote-sensing.png: a scene with its labels and places, and a map with its polygons.

    python docs/figures/remote_sensing.py runs/landscape

The scenes are made by this script: fields of several crops and meadows, lakes and clouds without data, in four bands. A
network is trained on three scenes and maps another one. A finished run is not repeated.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image, ImageDraw, ImageFont
from rasterio.features import rasterize
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter

import atrous
from atrous.commands.predict import predict
from atrous.commands.train import train
from atrous.data.raster_items import with_windows
from atrous.learning.recipe import read_recipe

SIDE, PIXEL, NODATA = 768, 10.0, -9999
EAST, NORTH = 400_000.0, 5_800_000.0
#: Number of the scene to map; scenes with smaller numbers are labelled.
NEW = 3
#: Mean reflectance × 10,000 of blue, green, red and near infrared.
MEADOW, WHEAT, MAIZE, WATER = (
    (400, 800, 500, 3600),
    (700, 1100, 1300, 2300),
    (450, 900, 600, 4400),
    (500, 450, 300, 150),
)
COLORS = {"background": (225, 225, 225), "field": (230, 159, 0), "water": (86, 180, 233)}
TRAINING, VALIDATION, EDGE = (255, 255, 255), (214, 40, 57), (30, 30, 30)
SHOWN, GAP, HEADING = 380, 12, 30


def main(folder: Path, out: Path) -> None:
    """Makes the scenes, trains, maps and draws."""
    data, run, new = folder / "data", folder / "run", folder / "new.tif"
    if not (run / "best.safetensors").exists():
        (data / "labels").mkdir(parents=True, exist_ok=True)
        crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
        for number, name in enumerate("abc"):
            shapes = scene(data / f"scenes/{name}.tif", number)
            features = [{"type": "Feature", "properties": {"crop": kind}, "geometry": shape} for kind, shape in shapes]
            content = {"type": "FeatureCollection", "crs": crs, "features": features}
            (data / f"labels/{name}.geojson").write_text(json.dumps(content), encoding="utf-8")
        scene(new, NEW)
        kinds = {"background": "", "field": ", segments: [wheat, maize]", "water": ""}
        lines = [f"  - {{name: {name}, color: {list(COLORS[name])}{more}}}" for name, more in kinds.items()]
        text = "attribute: crop\noverlap: last\nclasses:\n" + "\n".join(lines) + "\n"
        (data / "classes.yaml").write_text(text, encoding="utf-8")
        changes = {
            "data.root": str(data),
            "data.window": 128,
            "augment.crop": [97, 97],
            "train.epochs": 30,
            "train.ema": 0.9,
        }
        train(read_recipe("quickstart", {**changes, "augment.scale": [0.8, 1.25]}), out=run)
    polygons = folder / "classes.geojson"
    predict(run / "best.safetensors", [str(new)], out=folder / "masks", polygons=polygons, overwrite=True)
    panels = {
        "a scene: places for training (white), validation (red)": with_places(colors_of(data / "scenes/a.tif"), data),
        "its labels: polygons": drawn(data / "labels/a.geojson", EAST, "crop"),
        "another scene": colors_of(new),
        "its map: polygons, with hectares": drawn(polygons, EAST + NEW * SIDE * PIXEL, "class_name", "area_ha"),
    }
    sheet = Image.new("RGB", (2 * (SHOWN + GAP) + GAP, 2 * (SHOWN + HEADING) + GAP), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for index, (title, picture) in enumerate(panels.items()):
        left, top = GAP + index % 2 * (SHOWN + GAP), index // 2 * (SHOWN + HEADING)
        draw.text((left + 2, top + 8), title, fill=(40, 40, 40), font=ImageFont.load_default(size=15))
        sheet.paste(picture, (left, top + HEADING))
    sheet.quantize(128).save(out, optimize=True)


def scene(path: Path, number: int) -> list[tuple[str, dict]]:
    """Writes a scene of four bands, and returns the kinds and outlines of its fields and lakes."""
    rng = np.random.default_rng(number)
    east = EAST + number * SIDE * PIXEL
    place = from_origin(east, NORTH, PIXEL, PIXEL)
    shapes: list[tuple[str, dict]] = []
    for row in range(6):
        for column in range(6):
            if rng.random() < 0.6:
                kind = ("wheat", "maize")[int(rng.integers(2))]
                corners = np.array([[10, 10], [112, 16], [108, 110], [14, 104]]) + rng.integers(-8, 9, (4, 2))
                shapes.append((kind, outline(corners + np.array([column, row]) * 126 + 6, east)))
    for _ in range(3):
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        reach = rng.uniform(35, 80) * (1 + 0.25 * np.sin(3 * angles + rng.uniform(0, 6)))
        centre = rng.uniform(100, SIDE - 100, 2)
        shapes.append(("water", outline(centre + reach[:, None] * np.c_[np.cos(angles), np.sin(angles)], east)))
    codes = {"wheat": 1, "maize": 2, "water": 3}
    kinds = rasterize([(shape, codes[kind]) for kind, shape in shapes], (SIDE, SIDE), transform=place)
    means = np.array([MEADOW, WHEAT, MAIZE, WATER], float)[kinds].transpose(2, 0, 1)
    texture = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 6) * 6
    values = means * (1 + 0.12 * texture) * (1 + rng.normal(0, 0.06, (4, SIDE, SIDE)))
    cloud = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 40)
    values[:, cloud > np.quantile(cloud, 0.97)] = NODATA
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": 4, "dtype": "int16", "nodata": NODATA}
    with rasterio.open(path, "w", **shape, crs="EPSG:32633", transform=place) as file:
        file.write(values.round().astype(np.int16))
        file.descriptions = ("B2", "B3", "B4", "B8")
    return shapes


def outline(corners: np.ndarray, east: float) -> dict:
    """Returns a polygon in coordinates of the ground from corners in pixels (x, y)."""
    ring = (np.array([east, NORTH]) + corners * (PIXEL, -PIXEL)).tolist()
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}


def colors_of(path: Path) -> Image.Image:
    """Returns a scene in its natural colours; pixels without data are white."""
    with rasterio.open(path) as file:
        values, valid = file.read([3, 2, 1]).astype(float), file.dataset_mask() > 0
    picture = (np.clip(values / 1600, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    picture[~valid] = 255
    return Image.fromarray(picture).resize((SHOWN, SHOWN), Image.Resampling.BILINEAR)


def with_places(picture: Image.Image, data: Path) -> Image.Image:
    """Draws the borders of the places of the splits."""
    dataset, draw = with_windows(atrous.open_dataset(data)), ImageDraw.Draw(picture)
    for part, color in (("train", TRAINING), ("val", VALIDATION)):
        for item in dataset.split(part):
            if item.region is None or not item.name.startswith("a_"):
                continue
            top, left, height, width = (value * SHOWN / SIDE for value in item.region)
            draw.rectangle((left + 1, top + 1, left + width - 2, top + height - 2), outline=color, width=2)
    return picture


def drawn(path: Path, east: float, attribute: str, area: str | None = None) -> Image.Image:
    """Draws the polygons of a GeoJSON file in the colours of their classes; large ones show their area."""
    picture = Image.new("RGB", (SHOWN, SHOWN), COLORS["background"])
    draw, scale = ImageDraw.Draw(picture), SHOWN / SIDE / PIXEL
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    for feature in features:
        name = {"wheat": "field", "maize": "field"}.get(
            feature["properties"][attribute], feature["properties"][attribute]
        )
        if name == "background":
            continue
        ring = [((x - east) * scale, (NORTH - y) * scale) for x, y in feature["geometry"]["coordinates"][0]]
        draw.polygon(ring, fill=COLORS[name], outline=EDGE)
        hectares = feature["properties"][area] if area else 0.0
        if hectares > 40:
            middle = np.mean([np.min(ring, axis=0), np.max(ring, axis=0)], axis=0)
            draw.text(middle, f"{hectares:.0f} ha", fill=EDGE, anchor="mm", font=ImageFont.load_default(size=12))
    return picture


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parents[1] / "images" / "remote-sensing.png")
