"""Every kind of input goes through all verbs: bands, infrared, floats with gaps, and depth beside pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import atrous
from atrous.cli import main
from atrous.data.input_files import input_folders
from atrous.data.open_dataset import open_dataset
from atrous.errors import AtrousError
from atrous.input_spec import Input

from ..serving.conftest import Server

SIDE = 64
NUMBERS = {"train": range(8), "val": range(8, 11)}


def boxes(number: int) -> np.ndarray:
    """A mask of one box."""
    rng = np.random.default_rng(number)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    y, x = rng.integers(4, SIDE - 28, 2)
    mask[y : y + 24, x : x + 24] = 1
    return mask


def noise(number: int, channels: int, most: float) -> np.ndarray:
    return np.random.default_rng([number, 1]).random((SIDE, SIDE, channels)) * most


def write_tiff(path: Path, values: np.ndarray) -> None:
    tifffile.imwrite(path.with_suffix(".tif"), values, photometric="minisblack", planarconfig="contig")


def twelve_bands(path: Path, mask: np.ndarray, number: int) -> None:
    values = noise(number, 12, 2000)
    values[..., 7] += 6000.0 * mask
    write_tiff(path, values.astype(np.uint16))


def near_infrared(path: Path, mask: np.ndarray, number: int) -> None:
    values = noise(number, 4, 90)
    values[..., 3] += 150.0 * mask
    write_tiff(path, values.astype(np.uint8))


def floats_with_gaps(path: Path, mask: np.ndarray, number: int) -> None:
    values = noise(number, 2, 0.3)
    values[..., 1] += 0.6 * mask
    values[:3] = np.nan
    write_tiff(path, values.astype(np.float32))


def depth_beside(path: Path, mask: np.ndarray, number: int) -> None:
    """Pictures of noise, in which only the depth beside them shows the box; 0 where it was not measured."""
    Image.fromarray(noise(number, 3, 250).astype(np.uint8)).save(path.with_suffix(".png"))
    depth = 3000 - 1500 * mask.astype(np.float64) + noise(number, 1, 200)[..., 0]
    depth[-4:] = 0
    (path.parents[1] / "depth").mkdir(exist_ok=True)
    Image.fromarray(depth.astype(np.uint16)).save(path.parents[1] / "depth" / f"{path.name}.png")


KINDS = {kind.__name__: kind for kind in (twelve_bands, near_infrared, floats_with_gaps, depth_beside)}


def make(root: Path, kind: str) -> Path:
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    for split, numbers in NUMBERS.items():
        (root / "splits" / f"{split}.txt").write_text("\n".join(f"s{number:02}" for number in numbers))
        for number in numbers:
            mask = boxes(number)
            Image.fromarray(mask).save(root / "masks" / f"s{number:02}.png")
            KINDS[kind](root / "images" / f"s{number:02}", mask, number)
    classes = "classes:\n- {name: ground, color: [90, 60, 30]}\n- {name: box, color: [220, 40, 40]}\n"
    (root / "classes.yaml").write_text(classes)
    if kind == "depth_beside":
        (root / "inputs.yaml").write_text("inputs:\n  depth: {folder: depth, unit: mm, missing: [0]}\n")
    return root


OPTIONS = (
    "--model.backbone mobilenetv2_050 --model.pretrained false --train.epochs 30 --train.batch_size 4 --optim.lr 0.05 "
    "--augment.crop 64,64 --augment.brightness 0.3 --augment.scale 1,1 --train.validate_every 30 --data.workers 0 "
    "--watch.tensorboard false"
)


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=[] if kind == "depth_beside" else pytest.mark.slow) for kind in KINDS],
)
def trained(request, tmp_path_factory):
    """(kind, dataset, run) of a small training on each kind."""
    place = tmp_path_factory.mktemp(request.param)
    data = make(place / "data", request.param)
    assert main(["doctor", str(data), "--json", str(place / "doctor.json")]) == 0
    assert not json.loads((place / "doctor.json").read_text(encoding="utf-8"))["errors"]
    words = ["train", "quickstart", "--data.root", str(data), "--out", str(place / "run"), *OPTIONS.split()]
    assert main(words) == 0
    return request.param, data, place / "run"


def scene_of(kind: str, data: Path, name: str):
    """What a `Segmenter` gets of an item."""
    picture = next((data / "images").glob(f"{name}.*"))
    return {"image": picture, "depth": data / "depth" / f"{name}.png"} if kind == "depth_beside" else picture


def words_for(kind: str, data: Path) -> list[str]:
    return ["--input", f"depth={data / 'depth'}"] if kind == "depth_beside" else []


def test_all_bands_and_inputs_are_learned_from(trained):
    """The box is visible in one band or input alone; without it no model finds it."""
    kind, _, run = trained
    scores = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert scores["miou"] > 0.8, kind
    info = atrous.load(run / "best.safetensors").info
    channels = {"twelve_bands": 12, "near_infrared": 4, "floats_with_gaps": 2, "depth_beside": 4}[kind]
    assert info.preprocessing.channels == channels
    colors = [one.colors for one in info.preprocessing.inputs]
    assert colors == {"twelve_bands": [0], "near_infrared": [3], "floats_with_gaps": [0], "depth_beside": [3, 0]}[kind]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "cannot be shown" not in page and "cannot be drawn" not in page


def test_evaluate_scores_what_training_scored(trained, tmp_path):
    _, data, run = trained
    words = ["evaluate", str(run / "best.safetensors"), str(data), "--json", str(tmp_path / "a.json")]
    assert main(words) == 0
    recorded, again = (
        json.loads(path.read_text(encoding="utf-8")) for path in (run / "evaluation.json", tmp_path / "a.json")
    )
    assert again["miou"] == recorded["miou"]


def test_predict_and_python_give_one_mask(trained, tmp_path):
    kind, data, run = trained
    words = ["predict", str(run / "best.safetensors"), str(data / "images"), "--out", str(tmp_path / "masks")]
    assert main([*words, *words_for(kind, data), "--engine", "torch", "--precision", "float32"]) == 0
    segmenter = atrous.Segmenter(run / "best.safetensors", engine="torch", precision="float32")
    for name in ("s08", "s09"):
        file = next((tmp_path / "masks").glob(f"{name}.*"))
        mask = np.asarray(Image.open(file)) if file.suffix == ".png" else tifffile.imread(file)
        assert (mask == segmenter(scene_of(kind, data, name)).mask).all()


@pytest.mark.slow
def test_a_server_gives_the_same_mask(trained):
    kind, data, run = trained
    if kind in ("near_infrared", "twelve_bands"):
        pytest.skip("other bands are served as floats_with_gaps and depth_beside are")
    server = Server(f"m={run / 'best.safetensors'}", "--engine", "torch", "--precision", "float32")
    try:
        client = atrous.Client(server.address)
        scene = scene_of(kind, data, "s09")
        mask = atrous.Segmenter(run / "best.safetensors", engine="torch", precision="float32")(scene).mask
        assert (client.segment(scene).mask == mask).all()
        if kind == "depth_beside":
            with pytest.raises(AtrousError, match=r"send a form with a file for each input.*-F depth=@depth.png"):
                client.segment(scene["image"])
            assert [one["name"] for one in client.models()[0]["inputs"]] == ["image", "depth"]
    finally:
        server.stop()


@pytest.mark.slow
def test_explain_and_export_take_them(trained, tmp_path):
    pytest.importorskip("onnxruntime")
    kind, data, run = trained
    if kind in ("near_infrared", "floats_with_gaps"):
        pytest.skip("other bands are explained and exported as twelve_bands and depth_beside are")
    picture = next((data / "images").glob("s08.*"))
    model, asked = str(run / "best.safetensors"), words_for(kind, data)
    assert main(["explain", model, str(picture), *asked, "--out", str(tmp_path / "explained")]) == 0
    assert "box" in (tmp_path / "explained" / "explanation.html").read_text(encoding="utf-8")
    file = tmp_path / "m.onnx"
    assert main(["export", model, "--out", str(file), "--check", str(picture), *asked]) == 0
    scene = scene_of(kind, data, "s09")
    expected = atrous.Segmenter(model, engine="torch", precision="float32")(scene).mask
    assert (atrous.Segmenter(file)(scene).mask == expected).mean() > 0.999


def test_a_scene_without_an_input_is_refused(trained):
    kind, data, run = trained
    segmenter = atrous.Segmenter(run / "best.safetensors", engine="torch", precision="float32")
    scene = scene_of(kind, data, "s08")
    if kind != "depth_beside":
        with pytest.raises(AtrousError, match="unknown input of this model 'depth'"):
            segmenter({"image": scene, "depth": scene})
        return
    with pytest.raises(AtrousError, match="the model takes image and depth: give a dict"):
        segmenter(scene["image"])
    with pytest.raises(AtrousError, match="the scene has no depth"):
        segmenter({"image": scene["image"]})
    small = np.zeros((SIDE, SIDE // 2), np.uint16)
    with pytest.raises(AtrousError, match="must have one size, and these differ: image 64×64 px, depth 32×64 px"):
        segmenter({**scene, "depth": small})
    with pytest.raises(AtrousError, match="depth holds uint8, and the model was trained on uint16"):
        segmenter({**scene, "depth": np.zeros((SIDE, SIDE), np.uint8)})


def test_a_pixel_without_depth_is_still_part_of_the_picture(trained):
    kind, data, run = trained
    mask = atrous.Segmenter(run / "best.safetensors", engine="torch")(scene_of(kind, data, "s08")).mask
    assert (mask == 255).any() == (kind == "floats_with_gaps")


def test_the_doctor_names_what_is_wrong_with_depth(tmp_path):
    data = make(tmp_path / "data", "depth_beside")
    (data / "depth" / "s00.png").unlink()
    Image.fromarray(np.zeros((SIDE, SIDE // 2), np.uint16)).save(data / "depth" / "s01.png")
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)).save(data / "depth" / "s02.png")
    (data / "depth" / "s03.png").write_bytes(b"")
    Image.fromarray(np.ones((SIDE, SIDE), np.uint8)).save(data / "depth" / "s04.png")
    assert main(["doctor", str(data), "--json", str(tmp_path / "a.json")]) == 2
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    kinds = {one["kind"]: one["examples"] for one in (*found["errors"], *found["warnings"])}
    assert "s00" in kinds["missing_input"][0] and "32×64 px" in kinds["input_size"][0]
    assert "s03" in kinds["unreadable_input"][0] and len(kinds["input_kinds"]) == 2
    assert any("s02" in example for example in kinds["input_void"])
    assert not [note for note in found["notes"] if "not read" in note]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inputs: [depth]", "the key 'inputs' is needed"),
        ("inputs:\n  depth: {folders: depth}", "folders.*Did you mean 'folder'"),
        ("inputs:\n  depth: {unit: m}", "the input needs a 'folder'"),
        ("inputs:\n  a b: depth", "name of an input"),
        ("inputs:\n  depth: {folder: depth, missing: 0}", "a tuple of numbers"),
        ("inputs:\n  depth: {folder: depth, normalize: none}", "normalize must be one of"),
        ("inputs:\n  depth: 3", "fields such as"),
    ],
)
def test_what_no_inputs_file_can_say(tmp_path, text, message):
    data = make(tmp_path / "data", "depth_beside")
    (data / "inputs.yaml").write_text(text)
    with pytest.raises(AtrousError, match=message):
        open_dataset(data)


def test_folders_are_given_where_no_file_tells(tmp_path):
    data = make(tmp_path / "data", "depth_beside")
    (data / "inputs.yaml").unlink()
    assert not open_dataset(data).split("val")[0].more
    item = open_dataset(data, inputs={"depth": "depth/"}).split("val")[0]
    assert item.more == (data / "depth" / "s08.png",)
    assert main(["doctor", str(data), "--input", "depth=depth/"]) == 0
    for wrong, words in (("depth", "NAME=FOLDER"), ("image=a", "given twice")):
        with pytest.raises(AtrousError, match=words):
            input_folders([wrong])


def test_values_are_standardised_by_their_own_picture(tmp_path):
    data = make(tmp_path / "data", "depth_beside")
    own = Input((0.0,), (1.0,), name="depth", dtype="float32", normalize="per_image", missing=(0.0,))
    dataset = open_dataset(data).taking_inputs((Input((0.0,) * 3, (1.0,) * 3), own))
    values = dataset.read_image(dataset.split("val")[0]).values[..., 3]
    assert values[-4:].any() == False  # noqa: E712 (not measured: the mean)
    assert abs(values[:-4].mean()) < 1e-5 and abs(values[:-4].std() - 1) < 1e-4
