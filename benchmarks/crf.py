"""Times the fully connected CRF and pydensecrf2, including the set-up, and asserts that their labels agree.

The pictures are photographs of Pascal VOC at their own size and one CamVid frame enlarged to 2048×1024. The unaries are
the probabilities of 21 classes from Google's MobileNetV2 DeepLabV3. The settings are those of DeepLabV2, with ten
iterations. Each implementation (side) runs in its own process. The sides take turns, so that a change of the clock rate
affects all of them. Peak memory is the memory that refining adds, including buffers that are kept for the next picture.

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
sys.path.append(str(ROOT / "tests" / "crf"))  # for exact.py, the slow exact versions that the tests also use

PRESET = "deeplabv2"
REFERENCE = "pydensecrf2"
SIDES = {
    REFERENCE: "Krähenbühl's code, one core",
    "atrous, every class": "DenseCRF(prune=0)",
    "atrous": "DenseCRF(), which skips classes that change nothing",
    "atrous, CUDA": "DenseCRF(prune=0) on the GPU",
}
#: Number of times that a side refines the picture in one turn; the median of the seconds is used.
REPEATS = 3
#: Smallest share of labels that must equal the reference's; largest change of a probability that skipped classes may
#: cause; side of the crops for exact mean field, in pixels.
SAME_LABELS, MOST_CHANGE, CROP = 0.995, 1e-4, 48


def main() -> None:
    """Makes the inputs, asserts that the sides agree, times every side in turns, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("ATROUS_SHARED", ROOT.parent / "shared"))
    parser.add_argument(
        "--pictures", type=int, default=8, help="number of photographs of 500×375; those with the most classes are used"
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of turns of each side per picture")
    parser.add_argument("--json", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        with context.Pool(1) as maker:  # in its own process, so that its threads end before the measurement
            inputs = maker.apply(make_inputs, (Path(options.shared), Path(folder), options.pictures))
        results: dict[str, Any] = {"exact": compare_with_exact(inputs), "pictures": {}}
        for row in take_turns(context, inputs, options.rounds):
            results["pictures"][row.pop("name")] = row
            print(json.dumps(row), flush=True)
    report(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


def make_inputs(shared: Path, folder: Path, pictures: int) -> list[Path]:
    """Writes pictures and their probabilities as .npz files: photographs, then the enlarged CamVid frame."""
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
    """Returns the mean error of each side's probabilities on crops, compared with exact mean field."""
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
    """Yields the seconds and the memory of each side for each picture, after asserting that the labels agree."""
    sides = [side for side in SIDES if "CUDA" not in side or has_gpu()]
    workers = {}
    for side in sides:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(side, theirs), daemon=True)
        process.start()
        workers[side] = ours
    for file in inputs:
        refined, seconds, memory = {}, {side: [] for side in sides}, {side: [] for side in sides}
        for turn in range(rounds + 1):  # the first turn is not measured: it compiles and fills the caches
            for side, worker in workers.items():
                time.sleep(0.2)  # until the threads of the previous side are idle
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
    """Returns whether there is an NVIDIA driver, without importing torch."""
    return Path("/proc/driver/nvidia/version").exists()


def work(side: str, pipe: Any) -> None:
    """Runs a side in its own process: refines the pictures whose files it receives."""
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
    refine(np.zeros((8, 8, 3), np.uint8), small)  # compiles first, because compiling also takes memory
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
    """Returns the largest resident memory of this process since the last reset, in bytes (Linux)."""
    if reset:
        # Freed memory is returned to the system, because reused memory would not be measured.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def pass_over(probabilities: np.ndarray) -> float:
    """Returns the seconds to copy the K×H×W array once on one core; no iteration can be faster on one core."""
    target, times = np.empty_like(probabilities), []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, probabilities)
        times.append(time.perf_counter() - start)
    return min(times)


def report(results: dict[str, Any]) -> None:
    """Prints the seconds, ratios and memory of each side."""
    print(f"\nmean error against exact mean field on {CROP}×{CROP} crops: {results['exact']}")
    for name, row in results["pictures"].items():
        print(f"\n{name}: one pass over the array {1e3 * row['one pass over the probabilities, s']:.1f} ms")
        for side, took in row["seconds"].items():
            faster = row["seconds"][REFERENCE] / took
            print(
                f"  {side:22s}{1e3 * took:9.0f} ms {faster:6.2f}x {row['added MB'][side]:8.0f} MB   "
                f"{row['same labels'][side]:.2%} of labels"
            )
        print(f"  largest change of a probability by skipped classes: {row['changed by the classes at rest']:.1e}")


if __name__ == "__main__":
    main()
