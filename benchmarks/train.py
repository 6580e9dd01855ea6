"""Times a training step of atrous and of segmentation-models-pytorch (smp): images per second and peak memory.

Both libraries train the same network with the same weights: smp's DeepLabV3+ over a backbone of timm. First, the script
asserts that parameters, FLOPs, loss and gradient are equal. Then four processes take turns, so that a change of the
clock rate affects all of them. They run smp's plain float32 loop, the same loop in channels_last and bfloat16,
`TrainingStep` as `atrous train` runs it, and `TrainingStep` with `train.recompute`.

    python benchmarks/train.py [--backbone resnet50] [--rounds 5] [--steps 2] [--batch 4] [--size 512] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from pathlib import Path
from typing import Any

from peak_memory import peak_of_process

CLASSES = 21
SIDES = {
    "smp float32": "plain loop: float32, NCHW",
    "smp bfloat16": "the plain loop with channels_last and bfloat16 autocast",
    "atrous": "TrainingStep: channels_last, bfloat16 if the processor supports it, loss in bands",
    "atrous, recompute": "TrainingStep as above, with train.recompute",
}


def main() -> None:
    """Asserts that the networks are equal, times every side in turns, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mobilenetv2_100", help="name of the backbone in timm")
    parser.add_argument("--rounds", type=int, default=5, help="number of turns of each side")
    parser.add_argument("--steps", type=int, default=2, help="number of training steps per turn")
    parser.add_argument("--batch", type=int, default=4, help="number of pictures in a batch")
    parser.add_argument("--size", type=int, default=512, help="side of the square pictures, a multiple of 16")
    parser.add_argument("--json", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as checker:  # in its own process, so that its memory is not measured
        facts = checker.apply(check_equal, (options.backbone,))
    results = {"machine": machine(), "network": facts, "batch": options.batch, "size": options.size}
    print(json.dumps(results, indent=1))
    results["sides"] = take_turns(context, options)
    report(results["sides"])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


def build_peer(backbone: str, dropout: float = 0.5) -> Any:
    """Builds smp's DeepLabV3+ with initial weights."""
    import segmentation_models_pytorch as smp
    import torch

    torch.manual_seed(0)
    return smp.DeepLabV3Plus(f"tu-{backbone}", encoder_weights=None, classes=CLASSES, decoder_aspp_dropout=dropout)


def build_ours(backbone: str, dropout: float = 0.5) -> Any:
    """Builds atrous's network in smp's layout, with initial weights."""
    from atrous import create_model
    from atrous.weights.smp import LAYOUT

    return create_model("deeplabv3plus", backbone=backbone, num_classes=CLASSES, **{**LAYOUT, "dropout": dropout})


def build_pair(backbone: str) -> tuple[Any, Any]:
    """Builds both networks with the same weights, in training mode and without dropout."""
    from atrous.weights.adapter import translate
    from atrous.weights.smp import KEYS

    peer, ours = build_peer(backbone, dropout=0.0).train(), build_ours(backbone, dropout=0.0).train()
    ours.load_state_dict(translate(peer.state_dict(), KEYS)[0])
    return peer, ours


def check_equal(backbone: str) -> dict[str, Any]:
    """Asserts that the networks have equal numbers of parameters and FLOPs, and in float32 equal loss and gradient."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from atrous.learning.batch import Batch
    from atrous.learning.losses.pixel import CrossEntropy
    from atrous.learning.losses.terms import supervised_terms
    from atrous.learning.training_step import TrainingStep
    from atrous.weights.adapter import translate
    from atrous.weights.smp import KEYS

    peer, ours = build_pair(backbone)
    parameters = [sum(parameter.numel() for parameter in model.parameters()) for model in (peer, ours)]
    assert parameters[0] == parameters[1], parameters

    flops = []
    for model in (peer, ours):
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model(torch.zeros(2, 3, 256, 256))
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1], flops

    peer, ours = build_pair(backbone)  # built again, because counting changed the batch statistics
    raw = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (2, 128, 128), dtype=torch.uint8)
    labels[:, :9] = 255
    preprocessing = ours.info.preprocessing
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    theirs = torch.nn.functional.cross_entropy(peer((raw - mean) / std), labels.long(), ignore_index=255)
    loss = TrainingStep(ours, supervised_terms(CrossEntropy(), ours))(Batch(raw, {"labels": labels}))
    theirs.backward()
    loss.backward()
    torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=1e-5)
    renamed, _ = translate({name: p.grad for name, p in peer.named_parameters() if p.grad is not None}, KEYS)
    pairs = [(renamed[name].flatten(), p.grad.flatten()) for name, p in ours.named_parameters() if p.grad is not None]
    expected, found = (torch.cat(side) for side in zip(*pairs, strict=True))
    difference = (expected - found).norm() / expected.norm()
    assert difference < 1e-3, f"gradients differ by {difference:.1e} of their norm"
    return {
        "parameters_smp_atrous": parameters,
        "gflop_per_512_picture_smp_atrous": [round(count / 2 * 4 / 1e9, 2) for count in flops],
        "loss_smp": theirs.item(),
        "loss_atrous": loss.item(),
        "gradient_difference": difference.item(),
    }


def take_turns(context: Any, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Runs each side in its own process, one at a time, in turns."""
    pipes, workers = {}, []
    for side in SIDES:
        pipes[side], far_end = context.Pipe()
        workers.append(context.Process(target=run_side, args=(side, far_end, options)))
        workers[-1].start()
        pipes[side].recv()  # the side is ready: its first step is done
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side, pipe in pipes.items():
            pipe.send(options.steps)
            seconds[side].append(pipe.recv() / options.steps)
    results = {}
    for side, pipe in pipes.items():
        pipe.send(0)
        results[side] = {
            "seconds_per_step": statistics.median(seconds[side]),
            "images_per_second": options.batch / statistics.median(seconds[side]),
            "peak_gb": pipe.recv() / 1e9,
        }
    for worker in workers:
        worker.join()
    return results


def run_side(side: str, pipe: Any, options: argparse.Namespace) -> None:
    """Runs a side in its own process: trains on request, and sends its peak memory at the end."""
    import torch

    batch, size = options.batch, options.size
    step = make_step(side, options.backbone)
    torch.manual_seed(1)
    raw = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (batch, size // 32, size // 32), dtype=torch.uint8)
    labels = labels.repeat_interleave(32, 1).repeat_interleave(32, 2)
    step(raw, labels)
    if side.startswith("atrous"):
        from atrous.device import keep_freed_memory

        keep_freed_memory()  # after the first step, as `atrous train` does
    pipe.send("ready")
    while steps := pipe.recv():
        started = time.perf_counter()
        for _ in range(steps):
            step(raw, labels)
        pipe.send(time.perf_counter() - started)
    pipe.send(peak_of_process())


def make_step(side: str, backbone: str) -> Any:
    """Returns a function of (raw images, labels) that makes one optimiser step, as users of the library write it."""
    import torch

    if side.startswith("atrous"):
        from atrous.device import pick_precision
        from atrous.learning.activation_checkpointing import recompute_blocks
        from atrous.learning.batch import Batch
        from atrous.learning.losses.pixel import CrossEntropy
        from atrous.learning.losses.terms import supervised_terms
        from atrous.learning.optimizer import make_optimizer, parameter_groups
        from atrous.learning.training_step import TrainingStep

        ours = build_ours(backbone).train().to(memory_format=torch.channels_last)
        if side == "atrous, recompute":
            recompute_blocks(ours)
        precision = pick_precision("auto", torch.device("cpu"))
        step = TrainingStep(ours, supervised_terms(CrossEntropy(), ours), precision)
        optimizer = make_optimizer("adamw", parameter_groups(ours, lr=1e-3, weight_decay=0.01, backbone_lr=1.0))

        def loss_of_ours(raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return step(Batch(raw.contiguous(memory_format=torch.channels_last), {"labels": labels}))

        return optimising(loss_of_ours, optimizer)

    peer = build_peer(backbone).train()
    mixed = side == "smp bfloat16"
    if mixed:
        peer = peer.to(memory_format=torch.channels_last)
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) * 255 for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )

    def loss_of_peer(raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        images = (raw - mean) / std
        if mixed:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            scores = peer(images)
        return torch.nn.functional.cross_entropy(scores.float(), labels.long(), ignore_index=255)

    return optimising(loss_of_peer, torch.optim.AdamW(peer.parameters(), lr=1e-3))


def optimising(loss_of: Any, optimizer: Any) -> Any:
    """Returns a function that makes one optimiser step with a loss."""

    def step(raw: Any, labels: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(raw, labels).backward()
        optimizer.step()

    return step


def machine() -> dict[str, Any]:
    """Returns the properties of this machine and the versions of the software."""
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "bfloat16_in_hardware": torch.cpu._is_avx512_bf16_supported(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def report(sides: dict[str, dict[str, float]]) -> None:
    """Prints the table, with ratios to smp's float32 loop."""
    plain = sides["smp float32"]
    print("\n| program | images/s | × | peak GB | × |\n|---|---|---|---|---|")
    for side, figures in sides.items():
        faster = figures["images_per_second"] / plain["images_per_second"]
        smaller = figures["peak_gb"] / plain["peak_gb"]
        print(
            f"| {side} | {figures['images_per_second']:.2f} | {faster:.2f} | {figures['peak_gb']:.2f} | {smaller:.2f} |"
        )
    for side, sentence in SIDES.items():
        print(f"{side}: {sentence}")


if __name__ == "__main__":
    main()
