"""`atrous train`: train a model from a recipe and save the best weights.

Examples:
    atrous train quickstart --data.root data/
    atrous train mine.yaml --data.root data/ --train.epochs 60 --out runs/mine
    atrous train --resume runs/mine
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from rich.markup import escape

from atrous.checked_arguments import checked
from atrous.commands.evaluate import evaluate
from atrous.commands.report import report
from atrous.console import console, notes_once
from atrous.data.open_dataset import open_dataset
from atrous.inference.value_range import PictureWarning
from atrous.learning.distributed import current_group, process_group
from atrous.learning.fit import fit
from atrous.learning.recipe import Recipe
from atrous.learning.validation import ADAPTER
from atrous.logger import suppressed
from atrous.run_folder import locked


@process_group()
@checked
def train(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    init: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Train a segmentation model on a folder of pictures and masks.

    Args:
        recipe: recipe with the data, the model and all settings; every field can also be given on the command line.
        out: folder of the run; by default runs/NAME with the name of the recipe, or runs/NAME-2 … if that folder
            exists.
        resume: folder of a run to continue.
        init: model file to start from. The new model has the same architecture and gets all weights that fit. Its
            output layer gets only the weights of classes with the same name.
        overwrite: in a folder without a run, also replace files that have the names of a run's files; inputs are never
            replaced.

    Returns:
        The run's folder, with best.safetensors, metrics.jsonl, evaluation.json and report.html; with train.learn lora,
        also with adapter.safetensors.

    Raises:
        AtrousError: the data is unusable (the message lists every problem), the recipe is not valid, the loss is not
            finite, or the run would replace files in its folder.
    """
    with notes_once(), ExitStack() as stack:
        run = fit(recipe, out, resume=resume, init=init, overwrite=overwrite).run
        processes = current_group()
        processes.on_rank_zero(lambda: stack.enter_context(locked(run)))
        _measure_best(recipe, run)
        if processes.first:
            report([run], overwrite=True)
            if recipe.train.learn == "lora":
                console.print(f"the changes to the base alone: {escape(str(run / ADAPTER))}; see atrous merge")
    return run


def _measure_best(recipe: Recipe, run: Path) -> None:
    """Measures the best weights in float32 and writes evaluation.json."""
    console.print("final scores of best.safetensors, computed in float32:")
    with suppressed(PictureWarning):  # the doctor has already printed this warning
        evaluate(
            run / "best.safetensors",
            Path(recipe.data.root),
            split=recipe.data.val,
            layout=open_dataset(recipe.data.root, recipe.data.layout).layout,
            groups=recipe.data.groups,
            input=[f"{name}={folder}" for name, folder in recipe.data.inputs.items()],
            json=run / "evaluation.json",
            overwrite=True,  # it was checked before the training whether files may be replaced
            crf="model" if recipe.crf.trainable else None,
            device=recipe.train.device,
        )
