"""Times a network after each simplification of inference/fold_batch_norm.py, without reading and writing pictures.

    python benchmarks/fold_batch_norm.py MODEL… [--size 512] [--rounds 15]

The table begins with the network as defined. Each row adds one step to the row above: norms are folded into the
convolutions; the branches of the ASPP are summed; kernel taps that read only padding are removed (in torch only); the
normalisation of pictures is folded into the first weights. Each row is measured in torch and in OpenVINO, in turns, in
bfloat16 if the processor supports it. All rows must give the same scores in float32.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train import machine

import atrous
from atrous.device import pick_precision
from atrous.inference import fold_batch_norm, pipeline


def main() -> None:
    """Prints a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", help="model files")
    parser.add_argument("--size", type=int, default=512, help="side of the square picture, in pixels")
    parser.add_argument("--rounds", type=int, default=15, help="number of runs of each network; the median is printed")
    options = parser.parse_args()
    print(machine())
    for path in options.models:
        steps = steps_of(atrous.load(path))
        picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, *[options.size] * 2), np.uint8))
        assert_same(steps, picture)
        sides = {(name, "torch"): in_torch(model, picture) for name, model in steps.items()}
        sides |= {(name, "OpenVINO"): in_openvino(model, picture) for name, model in steps.items()}
        times: dict[Any, list[float]] = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side, run in sides.items():
                start = time.perf_counter()
                run()
                times[side].append(time.perf_counter() - start)
        print(f"\n{path.stem}, {options.size}×{options.size}\n\n| network | torch ms | OpenVINO ms |\n|---|---|---|")
        for name in steps:
            cells = (f"{1e3 * statistics.median(times[name, runtime]):.1f}" for runtime in ("torch", "OpenVINO"))
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def steps_of(model: Any) -> dict[str, Any]:
    """Returns the model as defined and after each step; all take raw pictures."""
    plain = copy.deepcopy(model).eval().requires_grad_(False)
    folded = copy.deepcopy(plain)
    fold_batch_norm.fold_norms(folded)
    summed = copy.deepcopy(folded)
    fold_batch_norm.sum_branches(summed)
    return {
        "as defined": pipeline.Pipeline(plain),
        "1. norms folded": pipeline.Pipeline(folded),
        "2. ASPP branches summed": pipeline.Pipeline(summed),
        "3. taps on padding removed": pipeline.Pipeline(fold_batch_norm.simplified(model)),
        "4. normalisation folded": fold_batch_norm.simplified_pipeline(model),
    }


def assert_same(steps: dict[str, Any], picture: torch.Tensor) -> None:
    """Asserts that the scores after every step equal those of the model, up to rounding."""
    with torch.inference_mode():
        scores = [step(picture) for step in steps.values()]
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], atol=1e-3 * float(scores[0].abs().max()), rtol=0)


def in_torch(model: Any, picture: torch.Tensor) -> Callable[[], Any]:
    """Returns a function that runs the network once in torch, in channels_last."""
    run = copy.deepcopy(model).to(memory_format=torch.channels_last)
    precision = pick_precision("auto", torch.device("cpu"))
    images = picture.contiguous(memory_format=torch.channels_last)

    def once() -> Any:
        with torch.inference_mode(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
            return run(images)

    once()
    return once


def in_openvino(model: Any, picture: torch.Tensor) -> Callable[[], Any]:
    """Returns a function that runs the network once in OpenVINO, in the precision that OpenVINO chooses."""
    import openvino

    graph = openvino.convert_model(
        copy.deepcopy(model),
        example_input=picture,
        input=[openvino.PartialShape([1, picture.shape[1], -1, -1])],
    )
    request = openvino.Core().compile_model(graph, "CPU", {"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
    given = [picture.numpy()]
    request.infer(given)
    return lambda: request.infer(given, share_inputs=True)


if __name__ == "__main__":
    main()
