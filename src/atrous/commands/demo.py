"""`atrous demo`: train, measure and predict on real pictures that need no download.

Examples:
    atrous demo
    atrous demo --epochs 2 --out runs/short
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape

from atrous.checked_arguments import checked
from atrous.commands.doctor import doctor
from atrous.commands.evaluate import evaluate
from atrous.commands.predict import predict
from atrous.commands.report import report
from atrous.commands.train import train
from atrous.console import console, write_json
from atrous.data.brain_slices import Thresholds, best_two_thresholds, write_brain_slices
from atrous.data.layouts.pairing import CLASSES_FILE
from atrous.data.open_dataset import open_dataset
from atrous.data.transforms import Augment
from atrous.errors import AtrousError
from atrous.learning.recipe import Recipe
from atrous.learning.recipe_sections import Data, Model, Optim, Train
from atrous.overwrite_checks import check_outputs, json_output, picture_output
from atrous.run_folder import CHECKPOINT, check_new_run, check_resumed_run

#: Epochs that reach a test mIoU above 0.8 in under four minutes on two cores.
EPOCHS = 20


@checked
def demo(
    *,
    out: Path = Path("runs/demo"),
    epochs: int = EPOCHS,
    device: str = "auto",
    json: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Run all steps on slices of a brain: write the data, check it, train, evaluate, predict and report.

    The pictures are axial slices of the MNI152 average brain, which the package nilearn contains. Uneven brightness,
    changes of contrast and noise are added to them to imitate a scanner. The classes are grey matter, white matter and
    the rest. If the demo was stopped, the same command continues it.

    Args:
        out: folder for the run, its data and its predictions.
        epochs: passes over the training slices, ≥ 1.
        device: device to run on: auto, cpu, cuda, cuda:N or mps.
        json: JSON file for the test scores of the model and of two intensity thresholds.
        overwrite: also replace files that atrous did not write; the slices are never replaced.

    Returns:
        The path of the report, an HTML page with the results on the test slices.

    Raises:
        AtrousError: a package of the extra 'demo' is missing, the run's folder is unusable, or files in it that
            atrous did not write would be replaced.
    """
    data, model = out / "data", out / "best.safetensors"
    _check(out, json, overwrite)

    _say("1 of 6", f"data: slices of a brain in {data}")
    dataset = open_dataset(data) if (data / CLASSES_FILE).exists() else write_brain_slices(data)

    _say("2 of 6", f"atrous doctor {data}")
    if doctor(data):
        raise AtrousError(f"{data} is damaged. Remove it, then run the demo again, which writes new slices.")

    _say("3 of 6", f"atrous train {out / 'config.yaml'}")
    _train_or_go_on(demo_recipe(data, epochs, device), out, overwrite)

    _say("4 of 6", f"atrous evaluate {model} {data} --split test")
    scores = evaluate(model, data, split="test", json=out / "evaluation.json", device=device, overwrite=overwrite)

    _say("5 of 6", f"atrous predict {model} … --overlay")
    pictures = [item.image for item in dataset.split("test")]
    predict(model, pictures, out=out / "predictions", overlay=True, device=device, overwrite=overwrite)

    _say("6 of 6", f"atrous report {out}")
    page = report([out], overwrite=overwrite)

    thresholds = best_two_thresholds(dataset)
    if json is not None:
        write_json({"model": scores, "thresholds": asdict(thresholds)}, json)
    _conclude(scores, thresholds, page)
    return page


def demo_recipe(data: Path, epochs: int = EPOCHS, device: str = "auto") -> Recipe:
    """Returns a recipe of DeepLabV3+ over an ImageNet-pretrained EfficientNet-Lite0, small enough for two cores.

    Args:
        data: folder of the slices.
        epochs: passes over the training slices, ≥ 1.
        device: device to run on: auto, cpu, cuda, cuda:N or mps.
    """
    return Recipe(
        name="demo",
        data=Data(root=str(data), layout="folder", workers=0, check=False),  # the doctor has just checked it
        augment=Augment(crop=(208, 176), scale=(0.8, 1.25), rotation=15.0, brightness=0.3, contrast=0.3),
        model=Model(arguments={"align_corners": True}),
        optim=Optim(lr=2e-3),
        # The cortex is two or three pixels thick, but the logits have a quarter of the picture's height and width.
        # In an enlarged picture, the cortex is wide enough for a pixel of the logits.
        train=Train(epochs=epochs, batch_size=6, enlarge=1.5, ema=0.95, validate_every=4, minutes=5.0, device=device),
    )


def _check(out: Path, json: Path | None, overwrite: bool) -> None:
    """Checks before the first step whether the files of the training, scores and predictions may be written."""
    if (out / CHECKPOINT).exists():
        check_resumed_run(out, overwrite=overwrite)
    else:
        check_new_run(out, [], overwrite=overwrite)
    predictions = out / "predictions"
    there = sorted(predictions.glob("*.png")) if predictions.is_dir() else []
    outputs = [json_output("json", json), *(picture_output("out", path, predictions) for path in there)]
    check_outputs("demo", outputs, [("the slices", out / "data")], overwrite=overwrite)


def _train_or_go_on(recipe: Recipe, out: Path, overwrite: bool) -> None:
    if (out / CHECKPOINT).exists():
        train(recipe, resume=out, overwrite=overwrite)
        return
    train(recipe, out=out, overwrite=overwrite)


def _say(step: str, action: str) -> None:
    console.print(f"\n[bold]{step}[/]  {escape(action)}")


def _conclude(scores: dict[str, Any], thresholds: Thresholds, page: Path) -> None:
    console.print(
        f"\n[bold]Test mIoU {scores['miou']:.3f}[/]; the best two intensity thresholds reach {thresholds.miou:.3f} "
        f"(grey matter from {thresholds.low}, white matter from {thresholds.high}, chosen on the training slices)."
    )
    console.print(
        "All slices come from one averaged brain; training, validation and test slices come from separate slabs of it. "
        "This demonstrates the tool and is not a medical result."
    )
    console.print(f"Report: {escape(str(page))}")
