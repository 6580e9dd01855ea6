"""Times segmentation from picture to mask: atrous, other libraries (peers) and bare runtimes, with the same weights.

Each peer's network, trained by benchmarks/peers.py, is converted to atrous. Each way to run the network (side) has its
own process; the processes take turns, so only one computes at a time. The input is a uint8 H×W×3 picture, the output a
uint8 H×W mask. At least 99.5 % of the pixels of atrous's masks must equal those of the peer in float32, except for
int8.

    python benchmarks/peers.py --data PATH/TO/camvid --out WEIGHTS
    python benchmarks/predict.py --data PATH/TO/camvid --peers WEIGHTS [--only NAME] [--size 512] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
from train import machine

from crf import peak_memory

SIDES = {
    "peer": "PyTorch without compilation, float32, argmax of the full-size logits",
    "peer bfloat16": "PyTorch without compilation, in channels_last and bfloat16 autocast",
    "ONNX Runtime": "the peer's exported network, float32, then argmax",
    "OpenVINO float32": "the peer's exported network, then argmax",
    "OpenVINO bfloat16": "the peer's exported network in bfloat16, then argmax",
    "atrous torch float32": "Segmenter(engine='torch', precision='float32')",
    "atrous torch": "Segmenter(engine='torch')",
    "atrous float32": "Segmenter(precision='float32')",
    "atrous": "Segmenter(): OpenVINO, bfloat16 if the processor supports it",
    "atrous int8": "Segmenter(FILE), with a file of `atrous export --int8`",
}
SAME_MASK = 0.995
PICTURES = 10
#: Number of training pictures with which the ranges of values for int8 are measured.
CALIBRATED = 64


def main() -> None:
    """Times every side in turns, prints a table for each network, and asserts that masks are equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the CamVid dataset")
    parser.add_argument("--peers", type=Path, required=True, help="folder of the weights from benchmarks/peers.py")
    parser.add_argument("--only", choices=peers.PEERS, action="append", help="network to measure; all by default")
    parser.add_argument(
        "--size", type=int, nargs="+", default=[512], help="height and width of the pictures; one number for a square"
    )
    parser.add_argument(
        "--rounds", type=int, default=2, help="number of turns of each side; a turn segments ten pictures"
    )
    parser.add_argument("--json", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    size = (options.size[0], options.size[-1])
    results: dict[str, Any] = {"machine": machine(), "size": size, "peaks": peak_gflops(), "networks": {}}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or peers.PEERS:
            with context.Pool(1) as maker:  # in its own process, so that its memory is not measured
                facts = maker.apply(make, (name, options.data, options.peers, Path(folder), size))
            results["networks"][name] = facts | {
                "sides": take_turns(context, name, options.peers, Path(folder), options.rounds)
            }
            report(name, results)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    different = {
        f"{name}, {side}": figures["same"]
        for name, facts in results["networks"].items()
        for side, figures in facts["sides"].items()
        if side.startswith("atrous") and figures["same"] < SAME_MASK and "int8" not in side
    }
    assert not different, f"masks differ from the peer's on more than {1 - SAME_MASK:.1%} of the pixels: {different}"


def make(name: str, data: Path, weights: Path, folder: Path, size: tuple[int, int]) -> dict[str, Any]:
    """Writes the converted model, exported graphs and pictures; returns the parameters and GFLOP of peer and atrous."""
    import openvino
    import torch
    from PIL import Image
    from torch.utils.flop_counter import FlopCounterMode

    import atrous

    peer = peers.load(name, weights)
    source = "torchvision" if name.startswith("torchvision") else "smp"
    ours = atrous.convert(peer.state_dict(), source=source)
    atrous.save(ours, folder / f"{name}.safetensors")
    frames = sorted((data / "val").iterdir())
    chosen = [Image.open(frame).convert("RGB") for frame in frames[:: len(frames) // PICTURES][:PICTURES]]
    pictures = [np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)) for picture in chosen]
    np.save(folder / f"{name}.npy", np.stack(pictures))
    write_int8(ours, data, folder / f"{name}_int8.xml", size)
    parameters = [sum(parameter.numel() for parameter in model.parameters()) for model in (peer, ours)]
    flops = []
    for model in (peer, ours):
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model.eval()(torch.zeros(1, 3, *size))
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1], flops
    example = peers.normalized(torch.zeros(1, 3, *size)).contiguous()
    wrapped = with_logits_only(peer)
    with torch.no_grad():
        openvino.save_model(
            openvino.convert_model(wrapped, example_input=example, input=[1, 3, *size]),
            folder / f"{name}.xml",
            compress_to_fp16=False,
        )
        torch.onnx.export(wrapped, (example,), folder / f"{name}.onnx", dynamo=True, verbose=False)
    return {"parameters": parameters, "gflop": [round(count / 1e9, 2) for count in flops]}


def write_int8(model: Any, data: Path, target: Path, size: tuple[int, int]) -> None:
    """Writes an int8 graph as `atrous export --int8` does, but without that command's check of the score."""
    from PIL import Image

    from atrous.inference import export_graph, int8_quantisation

    draft = target.with_name(f"float_{target.name}")
    export_graph.write(export_graph.trace(model, with_scores=True), model.info, "openvino", draft)
    frames = sorted((data / "train").iterdir())
    chosen = frames[:: len(frames) // CALIBRATED][:CALIBRATED]
    images = [np.asarray(Image.open(frame).convert("RGB").resize((size[1], size[0]))) for frame in chosen]
    batches = [np.ascontiguousarray(image.transpose(2, 0, 1))[None] for image in images]
    int8_quantisation.quantise(draft, batches, int8_quantisation.ATTEMPTS[0], target)


def with_logits_only(model: Any) -> Any:
    """Wraps a peer's network so that it returns only its full-size logits, for exporters."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Any) -> Any:
            return peers.logits(self.model(images))

    return Logits().eval()


def side_of(side: str, name: str, weights: Path, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function with which a side converts a picture to a mask."""
    if side.startswith("atrous"):
        import atrous

        if "int8" in side:
            return atrous.Segmenter(folder / f"{name}_int8.xml").segment
        engine = "torch" if "torch" in side else "openvino"
        precision = "float32" if "float32" in side else "auto"
        segmenter = atrous.Segmenter(folder / f"{name}.safetensors", engine=engine, precision=precision)
        return lambda picture: segmenter.segment(picture)
    if side.startswith("peer"):
        return eager(name, weights, "bfloat16" in side)
    return bare(side, folder / name)


def eager(name: str, weights: Path, bfloat16: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs the peer in PyTorch without compilation, as its users do."""
    import torch

    model = peers.load(name, weights)
    if bfloat16:
        model = model.to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (peers.MEAN, peers.STD))

    def run(picture: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            images = (torch.from_numpy(picture).permute(2, 0, 1)[None].float() - mean) / std
            if not bfloat16:
                images = images.contiguous()
            return peers.logits(model(images)).argmax(1)[0].to(torch.uint8).numpy()

    return run


def bare(side: str, stem: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs the peer's graph in a runtime, with normalisation and argmax in torch."""
    import torch

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (peers.MEAN, peers.STD))
    if side == "ONNX Runtime":
        import onnxruntime

        session = onnxruntime.InferenceSession(stem.with_suffix(".onnx"), providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0].name

        def network(images: Any) -> Any:
            return session.run(None, {given: images})[0]
    else:
        import openvino

        hint = "bf16" if "bfloat16" in side else "f32"
        hints = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(stem.with_suffix(".xml"), "CPU", hints)

        def network(images: Any) -> Any:
            return compiled([images])[0]

    def run(picture: np.ndarray) -> np.ndarray:
        images = (torch.from_numpy(picture).permute(2, 0, 1)[None].float() - mean) / std
        return torch.from_numpy(network(images.contiguous().numpy())).argmax(1)[0].to(torch.uint8).numpy()

    return run


def take_turns(context: Any, name: str, weights: Path, folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Runs each side in its own process, one at a time, in turns."""
    workers = {}
    for side in SIDES:
        pipe, far_end = context.Pipe()
        context.Process(target=work, args=(side, name, weights, folder, far_end), daemon=True).start()
        workers[side] = (pipe, pipe.recv())
    expected = workers["peer"][1]["masks"]
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, (pipe, _) in workers.items():
            time.sleep(0.3)  # until the threads of the previous side are idle
            pipe.send("go")
            seconds[side] += pipe.recv()
    results = {}
    for side, (pipe, first) in workers.items():
        same = float((first["masks"] == expected).mean())
        results[side] = {"seconds": statistics.median(seconds[side]), "same": same, "added_mb": first["added"] / 1e6}
        pipe.send("stop")
    found = np.unique(expected)
    assert len(found) >= peers.PREDICTED, f"{name} predicts only {found}"
    results["peer"]["boundary"] = boundary_cells(expected)
    return results


def work(side: str, name: str, weights: Path, folder: Path, pipe: Any) -> None:
    """Runs a side in its own process: sends its masks and added memory, then the seconds of each turn."""
    pictures = np.load(folder / f"{name}.npy")
    run = side_of(side, name, weights, folder)
    run(pictures[0][:64, :64] if side.startswith("atrous") else pictures[0])
    before = peak_memory(reset=True)
    masks = np.stack([run(picture) for picture in pictures])
    pipe.send({"masks": masks, "added": peak_memory() - before})
    while pipe.recv() == "go":
        times = []
        for picture in pictures:
            start = time.perf_counter()
            run(picture)
            times.append(time.perf_counter() - start)
        pipe.send(times)


def boundary_cells(masks: np.ndarray) -> float:
    """Returns the share of 4×4 cells of the masks that contain more than one class."""
    count, height, width = masks.shape
    cells = masks[:, : height // 4 * 4, : width // 4 * 4].reshape(count, height // 4, 4, width // 4, 4)
    return float((cells.max((2, 4)) != cells.min((2, 4))).mean())


def peak_gflops() -> dict[str, float]:
    """Returns the speed of a large matrix product on this machine, in 10⁹ operations per second, by precision."""
    import torch

    peaks = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
        times = []
        for _ in range(8):
            start = time.perf_counter()
            torch.mm(a, b)
            times.append(time.perf_counter() - start)
        peaks[str(dtype).removeprefix("torch.")] = 2 * 2048**3 / min(times) / 1e9
    return peaks


def report(name: str, results: dict[str, Any]) -> None:
    """Prints the table of a network."""
    facts = results["networks"][name]
    sides, height, width = facts["sides"], *results["size"]
    print(
        f"\n{name}, {height}×{width}: parameters {facts['parameters']}, GFLOP {facts['gflop']}, "
        f"{sides['peer']['boundary']:.1%} boundary cells\n\n| program | ms | × | same pixels | MB | of peak |\n"
        "|---|---|---|---|---|---|"
    )
    for side, figures in sides.items():
        bfloat16 = side in ("atrous", "atrous torch") or "bfloat16" in side
        peak = results["peaks"]["bfloat16" if bfloat16 else "float32"]
        print(
            f"| {side} | {1e3 * figures['seconds']:.1f} | {sides['peer']['seconds'] / figures['seconds']:.2f} | "
            f"{figures['same']:.2%} | {figures['added_mb']:.0f} | "
            f"{facts['gflop'][0] / figures['seconds'] / peak:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
