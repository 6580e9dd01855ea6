"""Measures the figures of docs/results.md and of the README, and writes them there with the machine that measured them.

Measured values are stored in benchmarks/readme.json; figures that the command does not name keep their values. The test
of the README fails if a table differs from these values.

    python benchmarks/readme.py demo crf --shared ../shared             # two figures
    python benchmarks/readme.py --data PATH/TO/camvid --peers WEIGHTS   # all; benchmarks/peers.py trains the weights
    python benchmarks/readme.py --write                                 # measures nothing; writes the tables again
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = Path(__file__).with_suffix(".json")
#: The tables are written between these lines.
BEGIN, END = "<!-- written by benchmarks/readme.py -->\n", "<!-- end -->"
SMP, TORCHVISION = "segmentation-models-pytorch", "torchvision"
#: Marks of rows that were measured on another machine than most rows.
MARKS = "¹²³⁴⁵"
#: The pages with a table: the README has the figures in `HEADLINES`, the other page has all figures.
PAGES = ("README.md", "docs/results.md")
HEADLINES = ("demo", "camvid", "tensorflow", "step", "mask_mobilenetv2", "crf")

Values = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A measurement and its rows in the table.

    Args:
        rows: the three cells of each row (measurement, result, comparison), as format strings of the values.
        measure: function from the options to the measured values; None if a test checks the figures.
    """

    rows: tuple[tuple[str, str, str], ...]
    measure: Callable[[argparse.Namespace], Values] | None


def main() -> None:
    """Measures the named figures, and writes both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "figures", nargs="*", metavar="FIGURE", help=f"Figures to measure: {', '.join(FIGURES)}; all by default."
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data" / "camvid", help="Folder of the CamVid dataset."
    )
    parser.add_argument(
        "--shared",
        type=Path,
        default=ROOT.parent / "shared",
        help="Folder of the shared data, as in benchmarks/crf.py.",
    )
    parser.add_argument("--peers", type=Path, help="Folder of the weights from benchmarks/peers.py.")
    parser.add_argument("--write", action="store_true", help="Measures nothing; writes the tables again.")
    options = parser.parse_args()
    measures = {name: figure.measure for name, figure in FIGURES.items() if figure.measure}
    if unknown := set(options.figures) - set(measures):
        parser.error(f"no such figures: {', '.join(unknown)}. Allowed: {', '.join(measures)}")
    for name in () if options.write else options.figures or measures:
        values = measures[name](options)
        kept = json.loads(KEPT.read_text(encoding="utf-8"))
        kept[name] = {"machine": machine(), "day": f"{datetime.date.today()}", "values": values}
        KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(name, json.dumps(values), flush=True)
    for page in PAGES:
        path = ROOT / page
        path.write_text(with_table(path.read_text(encoding="utf-8"), page), encoding="utf-8")


def with_table(text: str, page: str) -> str:
    """Returns the text of a page with its table from `readme.json`.

    Args:
        text: the page, as Markdown.
        page: path of the page in the repository, one of `PAGES`.
    """
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table(json.loads(KEPT.read_text(encoding="utf-8")), page) + END + rest.partition(END)[2]


def table(kept: dict[str, Values], page: str) -> str:
    """Returns the machines and the rows of one page, as Markdown.

    Args:
        kept: machine and values of each figure.
        page: one of `PAGES`; the README contains the first row of each figure in `HEADLINES`.
    """
    short = page == "README.md"
    figures = {name: FIGURES[name].rows for name in FIGURES}
    if short:
        figures = {name: figures[name][:1] for name in HEADLINES}
    machines = [kept[name]["machine"] for name in figures]
    distinct = sorted(set(machines), key=lambda one: -machines.count(one))
    marks = dict(zip(distinct, ("", *MARKS), strict=False))
    lines = [
        f"Measured without a GPU on {distinct[0]}"
        + "".join(f"; rows with {marks[one]} on {one}" for one in distinct[1:])
        + ":",
        "",
    ]
    lines += ["| measurement | result | compared with |", "|---|---|---|"]
    for name, rows in figures.items():
        for what, result, beside in rows:
            values = kept[name]["values"]
            mark = marks[kept[name]["machine"]]
            lines.append(f"| {what.format(**values)}{mark} | {result.format(**values)} | {beside.format(**values)} |")
    text = "\n".join(lines) + "\n"
    return text if short else re.sub(r"\]\((?!https?:)", "](" + "../" * page.count("/"), text)


def machine() -> str:
    """Returns the number of cores and the processor, in words."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*: (.*)", text)
    name = model[1].split(" @")[0].replace("(R)", "").replace("Processor", "").strip() if model else "a processor"
    maker = next((one for one in ("AMD EPYC", "Intel Xeon") if one.lower() in name.lower()), name)
    flags = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX512", "avx2": "AVX2"}
    best = next((words for flag, words in flags.items() if flag in text), "neither AVX2 nor AVX512")
    cores = {1: "one core", 2: "two cores"}.get(len(os.sched_getaffinity(0)), f"{len(os.sched_getaffinity(0))} cores")
    return f"{cores} of an {maker} with {best}"


def results_of(*words: str | Path) -> Any:
    """Returns the results that a command writes with --json."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.json"
        subprocess.run([*map(str, words), "--json", str(out)], check=True)
        return json.loads(out.read_text(encoding="utf-8"))


def script(name: str, *words: str | Path) -> Any:
    """Returns the results that another benchmark writes with --json."""
    return results_of(sys.executable, ROOT / "benchmarks" / name, *words)


def atrous(*words: str | Path) -> Any:
    """Returns the results that a command of atrous writes with --json."""
    return results_of(sys.executable, "-m", "atrous", *words)


def demo(options: argparse.Namespace) -> Values:
    """Runs the whole demo; returns its test mIoU, its minutes, and the mIoU of two intensity thresholds."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "demo"
        found = atrous("demo", "--out", run)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    minutes = max(line.get("seconds", 0) for line in lines) / 60
    return {"miou": found["model"]["miou"], "minutes": minutes, "thresholds": found["thresholds"]["miou"]}


def camvid(options: argparse.Namespace) -> Values:
    """Measures the shipped model zoo/camvid on CamVid's validation split."""
    return {"miou": atrous("evaluate", ROOT / "zoo" / "camvid.safetensors", options.data)["miou"]}


def step(backbone: str, *words: str) -> Callable[[argparse.Namespace], Values]:
    """Compares a training step with that of segmentation-models-pytorch."""

    def measure(options: argparse.Namespace) -> Values:
        sides = script("train.py", "--backbone", backbone, *words)["sides"]
        ours, small = sides["atrous"], sides["atrous, recompute"]
        values: Values = {}
        for name, peer in (("plain", sides["smp float32"]), ("mixed", sides["smp bfloat16"])):
            for which, side in (("", ours), ("_small", small)):
                values[f"{name}{which}"] = side["images_per_second"] / peer["images_per_second"]
                values[f"{name}{which}_gb"] = side["peak_gb"] / peer["peak_gb"]
        return values

    return measure


def counting(options: argparse.Namespace) -> Values:
    """Compares the time of a confusion matrix with that of torchmetrics."""
    seconds = script("metrics.py")
    return {"times": seconds["torchmetrics"] / seconds["atrous"]}


def mask(name: str) -> Callable[[argparse.Namespace], Values]:
    """Compares the time of a mask with that of another library with the same weights."""

    def measure(options: argparse.Namespace) -> Values:
        words = ("--data", options.data, "--peers", weights(options), "--only", name)
        sides = script("predict.py", *words)["networks"][name]["sides"]
        keys = {"times": "atrous", "float32": "atrous float32", "int8": "atrous int8"}
        times = {key: sides["peer"]["seconds"] / sides[side]["seconds"] for key, side in keys.items()}
        return {**times, "same": sides["atrous"]["same"]}

    return measure


def raster(options: argparse.Namespace) -> Values:
    """Measures `atrous predict` on a large GeoTIFF that is a mosaic of CamVid frames."""
    import numpy as np
    import rasterio
    from PIL import Image
    from rasterio.windows import Window

    side, frames = 20_000, sorted((options.data / "val").iterdir())
    with tempfile.TemporaryDirectory() as folder:
        place, model = Path(folder), Path(folder) / "model.safetensors"
        peer = weights(options) / "smp_v3plus_mobilenetv2.pth"
        subprocess.run([sys.executable, "-m", "atrous", "convert", peer, "--source", "smp", "--out", model], check=True)
        shape = {"count": 3, "height": side, "width": side, "dtype": "uint8", "compress": "lzw"}
        with rasterio.open(place / "a.tif", "w", driver="GTiff", crs="EPSG:32633", **shape) as to:
            for row, top in enumerate(range(0, side, 360)):
                pictures = [np.asarray(Image.open(frames[(row * 7 + column) % len(frames)])) for column in range(42)]
                strip = np.concatenate(pictures, axis=1)[: side - top, :side].transpose(2, 0, 1)
                to.write(strip, window=Window(0, top, side, strip.shape[1]))  # type: ignore[call-arg]
        words = ["predict", model, place / "a.tif", "--out", place / "masks", "--memory", "1.5", "--overwrite"]
        kibibytes = place / "peak"
        timed = ["/usr/bin/env", "time", "-o", str(kibibytes), "-f", "%M", sys.executable, "-m", "atrous"]
        found = results_of(*timed, *words)
        peak = int(kibibytes.read_text(encoding="utf-8").split()[-1]) * 1024 / 1e9
    return {"seconds": found["pictures"][0]["work"]["seconds"], "gb": peak}


def crf(options: argparse.Namespace) -> Values:
    """Compares the time of refining masks with that of pydensecrf2."""
    values: Values = {}
    found = script("crf.py", "--shared", options.shared)["pictures"]
    for size, names in (("large", [n for n in found if "2048" in n]), ("photo", [n for n in found if "2048" not in n])):
        rows = [found[name]["seconds"] for name in names]
        for side, key in (("atrous", ""), ("atrous, every class", "_every")):
            times = sorted(row["pydensecrf2"] / row[side] for row in rows)
            values[f"{size}{key}"] = times[len(times) // 2]
    values["same"] = min(row["same labels"]["atrous"] for row in found.values())
    return values


def weights(options: argparse.Namespace) -> Path:
    """Returns the folder of the peers' weights."""
    if options.peers is None:
        raise SystemExit("give --peers, the folder that benchmarks/peers.py writes, or name the figures to measure")
    return options.peers


def mask_figure(what: str, peer: str, name: str) -> Figure:
    """Returns the figure that `mask` measures for one peer."""
    result = "**{times:.1f}×** as fast in bfloat16, {int8:.1f}× in int8, {float32:.1f}× in float32"
    return Figure(
        (
            (
                what,
                result,
                f"{peer}, the same weights (same class in {{same:.1%}} of the pixels in bfloat16, in all pixels in "
                "float32)",
            ),
        ),
        mask(name),
    )


FIGURES = {
    "demo": Figure(
        (
            (
                "`make demo`, brain slices, test mIoU",
                "**{miou:.3f}** after {minutes:.1f} minutes",
                "{thresholds:.3f} without a network, from the two best intensity thresholds",
            ),
        ),
        demo,
    ),
    "camvid": Figure(
        (
            (
                "CamVid, 11 classes, 480×360, val mIoU",
                "**{miou:.3f}** after two hours of training ([shipped](zoo/camvid.md)), "
                "[0.684 after 25 minutes](src/atrous/recipes/camvid_quick.yaml)",
                "0.649 after 57 minutes for another library's DeepLabV3+ with the same backbone",
            ),
        ),
        camvid,
    ),
    "tensorflow": Figure(
        (
            (
                "Google's `deeplabv3_257_mv_gpu.tflite`, converted, 80 VOC pictures",
                "mIoU {miou:.5f}; same class in {same:.5%} of the pixels",
                "{miou:.5f} for TensorFlow Lite's own runtime",
            ),
        ),
        None,
    ),
    "step": Figure(
        (
            (
                "a training step, MobileNetV2, 4 × 512×512",
                "**{plain:.1f}×** the images/s; with `train.recompute` {plain_small:.1f}× at "
                "**{plain_small_gb:.2f}×** the peak memory",
                f"{SMP}, the same network in a plain float32 loop",
            ),
            (
                "the same training step",
                "**{mixed:.1f}×** the images/s; with `train.recompute` {mixed_small:.1f}× at "
                "**{mixed_small_gb:.2f}×** the peak memory",
                f"{SMP}, in a loop with channels_last and bfloat16",
            ),
        ),
        step("mobilenetv2_100", "--rounds", "4"),
    ),
    "step_resnet50": Figure(
        (
            (
                "a training step, ResNet-50",
                "**{plain:.1f}×** the images/s; with `train.recompute` {plain_small:.1f}× at "
                "{plain_small_gb:.2f}× the peak memory",
                f"{SMP}, the same network in a plain float32 loop",
            ),
        ),
        step("resnet50", "--rounds", "3", "--steps", "1"),
    ),
    "counting": Figure(
        (
            (
                "a confusion matrix, 2048×1024, 19 classes",
                "**{times:.0f}×** as fast",
                "torchmetrics, with the same counts",
            ),
        ),
        counting,
    ),
    "mask_mobilenetv2": mask_figure("a mask, V3+ MobileNetV2 at 512×512", SMP, "smp_v3plus_mobilenetv2"),
    "mask_resnet50": mask_figure("a mask, V3+ ResNet-50", SMP, "smp_v3plus_resnet50"),
    "mask_torchvision": mask_figure("a mask, V3 ResNet-50", TORCHVISION, "torchvision_v3_resnet50"),
    "raster": Figure(
        (("a 20,000×20,000 GeoTIFF, V3+ MobileNetV2", "**{seconds:.0f} s**, {gb:.1f} GB", ""),),
        raster,
    ),
    "crf": Figure(
        (
            (
                "the fully connected CRF, 21 classes, 2048×1024",
                "**{large:.1f}×** as fast by default, which skips classes with almost no effect; "
                "{large_every:.1f}× if no class is skipped",
                "pydensecrf2, with the same labels in at least {same:.2%} of the pixels",
            ),
            (
                "the same CRF at 500×375",
                "**{photo:.1f}×** as fast by default, which skips classes with almost no effect; "
                "{photo_every:.1f}× if no class is skipped",
                "pydensecrf2",
            ),
        ),
        crf,
    ),
}

if __name__ == "__main__":
    main()
