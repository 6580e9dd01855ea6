"""`atrous train`: train a model by a recipe, and keep the best weights.

Examples:
    atrous train quickstart --data.root data/
    atrous train mine.yaml --data.root data/ --train.epochs 60 --out runs/mine
    atrous train --resume runs/mine
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from atrous.checked_arguments import checked
from atrous.commands.evaluate import evaluate
from atrous.commands.report import report
from atrous.console import console
from atrous.data.open_dataset import open_dataset
from atrous.inference.value_range import PictureWarning
from atrous.learning.distributed import current_group, process_group
from atrous.learning.fit import fit
from atrous.learning.recipe import Recipe
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
    """Train a segmenter from a folder of pictures and masks.

    Args:
        recipe: what to train, on what and how; every field can be given on the command line.
        out: the run's folder; by default runs/ and the recipe's name, numbered where that exists.
        resume: folder of a run to go on with.
        init: model file to start from, with its network; classes of the same name keep their weights.
        overwrite: replace files that have the names of a run's, too, in a folder without a run; inputs are never
            replaced.

    Returns:
        The run's folder, with best.safetensors, metrics.jsonl, evaluation.json and report.html.

    Raises:
        AtrousError: unusable data (every problem named), an impossible recipe, a loss that is not finite, or a folder
            in which the run would replace files.
    """
    run = fit(recipe, out, resume=resume, init=init, overwrite=overwrite).run
    processes = current_group()
    with ExitStack() as stack:
        processes.on_rank_zero(lambda: stack.enter_context(locked(run)))
        _measure_best(recipe, run)
        if processes.first:
            report([run], overwrite=True)
    return run


def _measure_best(recipe: Recipe, run: Path) -> None:
    """Measures the best weights in full precision."""
    console.print("final scores of best.safetensors, computed in float32:")
    with suppressed(PictureWarning):  # the doctor has told it
        evaluate(
            run / "best.safetensors",
            Path(recipe.data.root),
            split=recipe.data.val,
            layout=open_dataset(recipe.data.root, recipe.data.layout).layout,
            groups=recipe.data.groups,
            input=[f"{name}={folder}" for name, folder in recipe.data.inputs.items()],
            json=run / "evaluation.json",
            overwrite=True,  # was asked for before the work
            crf="model" if recipe.crf.trainable else None,
            device=recipe.train.device,
        )
