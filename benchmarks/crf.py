"""Times the fully connected CRF against pydensecrf2, set-up included, and asserts that results are equal, in one run.

Real pictures and real unaries: photographs of Pascal VOC at their own size and one CamVid frame enlarged to 2048×1024,
with the 21 probabilities that Google's MobileNetV2 DeepLabV3 gives. Settings are DeepLabV2's, ten iterations. Each side
is a process of its own; they take turns, so that a drifting clock hits all. Peak memory is what refining adds, with
what is kept for the next picture.

    python benchmarks/crf.py [--shared ../shared] [--pictures 8] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from atrous.crf import PRESETS, DenseCRF

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "crf"))  # exact.py: the slow versions that the tests compare with, too

PRESET = "deeplabv2"
REFERENCE = "pydensecrf2"
SIDES = {
    REFERENCE: "Krähenbühl's code, one core",
    "atrous, every class": "DenseCRF(prune=0)",
    "atrous": "DenseCRF(), classes that change nothing rest",
    "atrous, CUDA": "DenseCRF(prune=0) on the GPU",
}
#: Pictures that a side refines one after the other at its turn; the median counts.
REPEATS = 3
#: Labels that must be the reference's; what pruning may change; the side of the crops for exact mean field.
SAME_LABELS, MOST_CHANGE, CROP = 0.995, 1e-4, 48


def main() -> None:
    """Makes the inputs, asserts equality, times every side in turns, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("ATROUS_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--pictures", type=int, default=8, help="photographs of 500×375, those of most classes first")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side at each picture")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        with context.Pool(1) as maker:  # in its own process, which takes the network's threads with it
            inputs = maker.apply(make_inputs, (Path(options.shared), Path(folder), options.pictures))
        results: dict[str, Any] = {"exact": compare_with_exact(inputs), "pictures": {}}
        for row in take_turns(context, inputs, options.rounds):
            results["pictures"][row.pop("name")] = row
            print(json.dumps(row), flush=True)
    report(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


def make_inputs(shared: Path, folder: Path, pictures: int) -> list[Path]:
    """Pictures with their probabilities as .npz files: photographs, then the enlarged CamVid frame."""
    import torch
    from PIL import Image

    import atrous
    from atrous.inference.test_time_augmentation import mean_probabilities

    model = atrous.convert(shared / "weights" / "deeplabv3_257_mv_gpu.tflite", source="tensorflow")
    segmenter = atrous.Segmenter(model, precision="float32")
    voc = shared / "data" / "voc2012_subset"
    masks = {path.stem: np.asarray(Image.open(path)) for path in sorted((voc / "SegmentationClass").glob("*.png"))}
    known = {name: len(np.setdiff1d(mask, [255])) for name, mask in masks.items() if mask.shape == (375, 500)}
    chosen = sorted(known, key=lambda name: (-known[name], name))[:pictures]
    frame = sorted((shared / "data" / "camvid" / "val").iterdir())[0]
    photos = {f"{name}, {known[name]} classes": voc / "JPEGImages" / f"{name}.jpg" for name in chosen}
    images = {name: np.asarray(Image.open(path).convert("RGB")) for name, path in photos.items()}
    enlarged = Image.open(frame).convert("RGB").resize((2048, 1024), Image.Resampling.BILINEAR)
    images["camvid 2048×1024"] = np.asarray(enlarged)
    files = []
    for name, image in images.items():
        with torch.inference_mode():
            probabilities = mean_probabilities(segmenter.scores(image), image.shape[:2], model.align_corners, 1.0)
        files.append(folder / f"{name}.npz")
        np.savez(files[-1], image=image, probabilities=probabilities.numpy())
    return files


def compare_with_exact(inputs: list[Path]) -> dict[str, float]:
    """The mean error of a probability against mean field over every pair of pixels, of both sides, on crops."""
    from exact import mean_field, reference  # pyright: ignore[reportMissingImports]

    errors: dict[str, list[float]] = {"atrous": [], REFERENCE: []}
    for file in inputs[:-1]:
        given = np.load(file)
        corner = [(side - CROP) // 2 for side in given["image"].shape[:2]]
        crop = tuple(slice(begin, begin + CROP) for begin in corner)
        image = np.ascontiguousarray(given["image"][crop])
        probabilities = np.ascontiguousarray(given["probabilities"][:, *crop])
        exact = mean_field(image, probabilities, PRESETS[PRESET])
        errors["atrous"].append(np.abs(DenseCRF.preset(PRESET)(image, probabilities) - exact).mean())
        errors[REFERENCE].append(np.abs(reference(image, probabilities, PRESETS[PRESET]) - exact).mean())
    means = {side: float(np.mean(values)) for side, values in errors.items()}
    assert means["atrous"] <= means[REFERENCE], means
    return means


def take_turns(context: Any, inputs: list[Path], rounds: int) -> Any:
    """For each picture the seconds and the memory of each side, after asserting that labels are the same."""
    sides = [side for side in SIDES if "CUDA" not in side or has_gpu()]
    workers = {}
    for side in sides:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(side, theirs), daemon=True)
        process.start()
        workers[side] = ours
    for file in inputs:
        refined, seconds, memory = {}, {side: [] for side in sides}, {side: [] for side in sides}
        for turn in range(rounds + 1):  # the first one compiles, and warms the caches
            for side, worker in workers.items():
                time.sleep(0.2)  # until the threads of the side before have gone to sleep
                worker.send((file, turn == 0))
                took, added, result = worker.recv()
                if turn:
                    seconds[side].append(took)
                    memory[side].append(added)
                else:
                    refined[side] = result
        labels = {side: result.argmax(0) for side, result in refined.items()}
        same = {side: float((labels[side] == labels[REFERENCE]).mean()) for side in sides}
        assert min(same.values()) >= SAME_LABELS, (file.stem, same)
        change = float(np.abs(refined["atrous"] - refined["atrous, every class"]).max())
        assert change <= MOST_CHANGE, (file.stem, change)
        yield {
            "name": file.stem,
            "seconds": {side: statistics.median(values) for side, values in seconds.items()},
            "added MB": {side: statistics.median(values) / 1e6 for side, values in memory.items()},
            "same labels": same,
            "changed by the classes at rest": change,
            "one pass over the probabilities, s": pass_over(refined[REFERENCE]),
        }


def has_gpu() -> bool:
    """Whether there is a CUDA device, asked without torch where there is none."""
    return Path("/proc/driver/nvidia/version").exists()


def work(side: str, pipe: Any) -> None:
    """A side's process: refines what it is sent."""
    from exact import reference  # pyright: ignore[reportMissingImports]

    crf = DenseCRF.preset(PRESET) if side == "atrous" else DenseCRF.preset(PRESET, prune=0)

    def refine(image: Any, probabilities: Any) -> Any:
        if side == REFERENCE:
            return reference(image, probabilities, PRESETS[PRESET])
        if "CUDA" not in side:
            return crf(image, probabilities)
        import torch

        on_gpu = crf.cuda()(torch.from_numpy(image).cuda(), torch.from_numpy(probabilities).cuda())
        return on_gpu.cpu().numpy()

    small = np.full((2, 8, 8), 0.5, np.float32)
    refine(np.zeros((8, 8, 3), np.uint8), small)  # compiles, which takes memory of its own
    idle = peak_memory(reset=True)
    while True:
        file, wanted = pipe.recv()
        given = np.load(file)
        image, probabilities = given["image"], given["probabilities"]
        before = idle + image.nbytes + probabilities.nbytes
        peak_memory(reset=True)
        times, result = [], None
        for _ in range(REPEATS):
            start = time.perf_counter()
            result = refine(image, probabilities)
            times.append(time.perf_counter() - start)
        pipe.send((statistics.median(times), peak_memory() - before, result if wanted else None))
        del given, image, probabilities, result


def peak_memory(reset: bool = False) -> int:
    """The largest resident memory of this process since the last reset, in bytes (Linux)."""
    if reset:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before counts as memory that is added
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def pass_over(probabilities: np.ndarray) -> float:
    """Seconds to read and write the K×H×W array once on one core, which every iteration has to do at least."""
    target, times = np.empty_like(probabilities), []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, probabilities)
        times.append(time.perf_counter() - start)
    return min(times)


def report(results: dict[str, Any]) -> None:
    """Prints a table of the ratios."""
    print(f"\nmean error against exact mean field on {CROP}×{CROP} crops: {results['exact']}")
    for name, row in results["pictures"].items():
        print(f"\n{name}: one pass over the array {1e3 * row['one pass over the probabilities, s']:.1f} ms")
        for side, took in row["seconds"].items():
            faster = row["seconds"][REFERENCE] / took
            print(
                f"  {side:22s}{1e3 * took:9.0f} ms {faster:6.2f}x {row['added MB'][side]:8.0f} MB   "
                f"{row['same labels'][side]:.2%} of labels"
            )
        print(f"  largest change by classes at rest: {row['changed by the classes at rest']:.1e}")


if __name__ == "__main__":
    main()
